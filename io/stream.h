/* SPDX-License-Identifier: MIT */
/*
 * stream.h: what a driver has in the way of pipes. Nothing here waits; -EAGAIN says that it would,
 * and WEIR__OP_POLL tells when not. Descriptors are closed as handles.
 */
#ifndef WEIR_STREAM_H
#define WEIR_STREAM_H

#include "io/io_internal.h"

struct weir__pipe_ops {
	/* Gives the reading and the writing end. 0 or -errno. */
	int (*open)(struct weir__io *io, int ret[2]);
	ssize_t (*read)(struct weir__io *io, int fd, void *ret, size_t cap);
	/* -EPIPE, and no signal, when nobody reads. */
	ssize_t (*write)(struct weir__io *io, int fd, const void *data, size_t len);
};

extern const struct weir__pipe_ops weir__kernel_pipes;

#endif
