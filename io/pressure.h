/* SPDX-License-Identifier: MIT */
/*
 * pressure.h: waiting for the kernel to say that memory is short.
 */
#ifndef WEIR_IO_PRESSURE_H
#define WEIR_IO_PRESSURE_H

#include "io/io_internal.h"

/*
 * Takes what weir__stalls_open() gave, errors too, and has the worker wait on it. On its own
 * thread; does nothing when another worker of the process does it already.
 */
void weir__pressure_watch(struct weir__worker *worker, int fd);

/* In the child of a fork(): the parent's goes on, this process has none. */
void weir__pressure_forget(void);

/* Ends that before the worker's driver is closed. */
void weir__pressure_unwatch(struct weir__worker *worker);

#endif
