/* SPDX-License-Identifier: MIT */
/*
 * address.h: addresses as text and as the kernel has them.
 *
 *   127.0.0.1:7000       IPv4
 *   [::1]:7000           IPv6; [fe80::1%lo]:7000 with the interface of a link-local address
 *   :7000  *:7000        every address: IPv6 that takes IPv4 too, or IPv4 where there is no IPv6
 *   unix:/run/x.sock     a file
 *   unix:@name           Linux's abstract names
 *
 * Nothing else: no names of hosts or services, no blanks, no ports left out.
 */
#ifndef WEIR_ADDRESS_H
#define WEIR_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

struct weir__address {
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
		struct sockaddr_un un;
	};
	socklen_t len;
};

/* Room for any text form: "unix:", the longest path and the terminating zero. */
enum { WEIR__ADDRESS_TEXT_MAX = 128 };

/* Returns 0, or -EINVAL for text that is not one of the forms above. Does not park. */
int weir__address_parse(const char *text, struct weir__address *ret);

/*
 * Writes the text form of what bind, accept or getpeername gave; an IPv4 address in IPv6 clothes
 * comes out as IPv4, a Unix socket without a name as "unix:". Returns 0, -ENOSPC when it does not
 * fit `cap`, or -ENOTSUP for another family, a truncated address or a name that text cannot hold.
 */
int weir__address_format(const struct sockaddr *address, socklen_t len, char *ret, size_t cap);

/*
 * A number that a host's addresses have in common, whatever the port: the same in every process.
 * False: it is no host's.
 */
bool weir__address_host(const struct weir__address *address, uint32_t *ret);

#endif
