/* SPDX-License-Identifier: MIT */
/*
 * name.h: addresses that have a name of a host in them, "localhost:7000", "example.org:80".
 */
#ifndef WEIR_NAME_H
#define WEIR_NAME_H

#include "io/address.h"
#include "runtime/task.h"

/*
 * Looks the host up, as this machine is set up to, and writes up to `max` addresses, in the order
 * in which they should be tried. Parks. Returns how many, at least 1, or -EINVAL (not host:port, or
 * in the simulator), -ENOENT (no such host), -EAGAIN (no answer now), -EIO (a name server's error),
 * -ENOMEM, -ECANCELED, -ETIME.
 */
int weir__name_resolve(struct weir__worker *self, const char *text, struct weir__address *ret,
		       unsigned max);

#endif
