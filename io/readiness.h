/* SPDX-License-Identifier: MIT */
/*
 * readiness.h: a driver's part of weir_case_fd(); runtime/driver.h has the contract.
 */
#ifndef WEIR_READINESS_H
#define WEIR_READINESS_H

#include "io/io_internal.h"

struct weir__readiness *weir__readiness_begin(struct weir__driver *driver, int fd, unsigned events,
					      weir__readiness_fn done, void *arg, int *ret_res);
void weir__readiness_forget(struct weir__readiness *readiness);

/* Before the driver is closed: waits until the kernel has let go of those that were forgotten. */
void weir__readiness_end(struct weir__io *io);

#endif
