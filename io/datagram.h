/* SPDX-License-Identifier: MIT */
/*
 * datagram.h: how a received datagram lies in its block, and the system calls of drivers that
 * receive and send by hand.
 */
#ifndef WEIR_DATAGRAM_H
#define WEIR_DATAGRAM_H

#include "io/address.h"
#include "io/io_internal.h"

/* A datagram of UDP is shorter than this. */
enum { WEIR__DATAGRAM_BYTES_MAX = 65535 };

/*
 * At the base of the block of a RECV_FROM, which has length block->len with it. The layout is
 * io_uring's for a multishot recvmsg with room for such a name and no control data; the other
 * drivers fill in the same.
 */
struct weir__datagram {
	uint32_t name_len; /* 0: a Unix socket without a name */
	uint32_t control_len;
	uint32_t payload_len;
	uint32_t flags; /* MSG_TRUNC: there was more than fitted */
	char name[sizeof(((struct weir__address *)NULL)->un) + 2];
	char payload[];
};
_Static_assert(sizeof(struct weir__datagram) == 128, "the payload is aligned");

/*
 * Receives one that has come, with at most `room` bytes of block, which it gives. Returns how many
 * there are in it, or -errno; -EAGAIN: none has come.
 */
WEIR_MUST int weir__datagram_receive(int fd, size_t room, struct weir__block **ret);

/*
 * Sends that of a SEND_TO. Returns its length, or -errno; -EAGAIN: it is to be tried again when the
 * socket is writable; -EBUSY: a Unix receiver has a full queue, and nothing says when it has not.
 */
WEIR_MUST int weir__datagram_send(int fd, const struct weir__op *op);

/* open_datagram and connect_datagram of struct weir__socket_ops, for the kernel's sockets. */
WEIR_MUST int weir__datagram_open(struct weir__io *io, struct weir__address *address, bool shared);
WEIR_MUST int weir__datagram_connect(struct weir__io *io, int fd, const struct weir__address *to);

#endif
