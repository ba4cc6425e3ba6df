/* SPDX-License-Identifier: MIT */
/*
 * socket.h: making sockets: what is no operation, because it never waits. For drivers whose
 * descriptors are the kernel's; the simulator has a table of its own.
 */
#ifndef WEIR_SOCKET_H
#define WEIR_SOCKET_H

#include "io/io_internal.h"

extern const struct weir__socket_ops weir__kernel_sockets;

#endif
