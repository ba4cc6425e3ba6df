/* SPDX-License-Identifier: MIT */
/*
 * interval.h: when the tick after a tick is.
 */
#ifndef WEIR_INTERVAL_H
#define WEIR_INTERVAL_H

#include <weir/runtime.h>

/* Lies in struct weir_interval. */
struct weir__interval {
	int64_t next_ns; /* absolute; INT64_MAX: the clock does not reach it */
	int64_t period_ns;
	enum weir_missed missed;
};
_Static_assert(sizeof(struct weir__interval) <= sizeof(struct weir_interval), "fits");

/*
 * The tick at next_ns is delivered at now_ns, which is not before it: sets the one after it.
 * Returns how many are dropped between them.
 */
int64_t weir__interval_advance(struct weir__interval *interval, int64_t now_ns);

#endif
