/* SPDX-License-Identifier: MIT */
/*
 * socket.h: making sockets: what is no operation, because it never waits. For drivers whose
 * descriptors are the kernel's; the simulator has a table of its own.
 */
#ifndef WEIR_SOCKET_H
#define WEIR_SOCKET_H

#include "io/address.h"
#include "io/io_internal.h"

extern const struct weir__socket_ops weir__kernel_sockets;

/*
 * Binds a socket of that type, in place of the file that a Unix socket without an owner has left.
 * 0 or -errno; -EADDRINUSE: its owner lives.
 */
WEIR_MUST int weir__socket_bind(int fd, int type, const struct weir__address *address);

/* A whole number of SOL_SOCKET, or -errno. */
WEIR_MUST int weir__socket_option(int fd, int option);

#endif
