/* SPDX-License-Identifier: MIT */
/*
 * ring_wake.h: how a worker that waits in its ring is woken from outside, and how a foreign loop
 * waits in its place.
 */
#ifndef WEIR_RING_WAKE_H
#define WEIR_RING_WAKE_H

#include "io/ring.h"

/* The eventfd. 0 or -errno with nothing left open. */
WEIR_MUST int weir__ring_wake_open(struct weir__ring *ring);
void weir__ring_wake_close(struct weir__ring *ring);

/*
 * From now on the ring hears of it; or it is_deaf, and to be armed again before it sleeps. Once it
 * is open, and when the kernel no longer listens.
 */
void weir__ring_wake_arm(struct weir__ring *ring);

/* The completion of that. */
void weir__ring_woken(struct weir__ring *ring, const struct io_uring_cqe *cqe);

/* By the eventfd. Any thread; async-signal-safe. */
void weir__ring_wake_by_fd(struct weir__ring *ring);

/* Of struct weir__driver_ops. */
void weir__ring_wake(struct weir__driver *target_driver, struct weir__driver *from);
int weir__ring_pollable(struct weir__driver *driver);

#endif
