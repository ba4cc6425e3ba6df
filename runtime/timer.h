/* SPDX-License-Identifier: MIT */
/*
 * timer.h: a worker's hierarchical timer wheel. Arm and cancel are O(1); the kernel sees one
 * deadline.
 */
#ifndef WEIR_TIMER_H
#define WEIR_TIMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	WEIR__TICK_SHIFT =
		16, /* one tick is 65.5 us: what a timer may be late, beside the worker's turn */
	WEIR__WHEEL_BITS = 6,
	WEIR__WHEEL_SLOTS = 1 << WEIR__WHEEL_BITS,
	WEIR__WHEEL_LEVELS = 8, /* 2^48 ticks: more than an int64_t of nanoseconds holds */
};

/* Embedded in what it times. Armed while pprev is not NULL. Owner worker only. */
struct weir__timer {
	struct weir__timer *next;
	struct weir__timer **pprev;
	int64_t expires_ns;
};

/*
 * A timer lies in the level of the highest base-64 digit in which its tick differs from `tick`; so
 * every digit above is equal, every occupied slot of a level is ahead of the current one, and any
 * lower level expires before any higher one. A slot's list is newest first; timers of one tick come
 * out in the order of their arming, because a slot is opened before anything is armed into the
 * slots it empties into.
 */
struct weir__wheel {
	uint64_t tick;		 /* ticks up to and including this one are done */
	struct weir__timer *due; /* expired, not handed out yet */
	struct weir__timer **due_tail;
	uint64_t armed;			       /* in slots or due */
	uint64_t occupied[WEIR__WHEEL_LEVELS]; /* bit s: slot s is not empty */
	struct weir__timer *slots[WEIR__WHEEL_LEVELS][WEIR__WHEEL_SLOTS];
	/*
	 * Of a slot that is not empty: no timer in it expires before this tick. Exact until one is
	 * cancelled.
	 */
	uint64_t first[WEIR__WHEEL_LEVELS][WEIR__WHEEL_SLOTS];
};

/* Of a wheel, for who holds one without this header (bench/bench_runtime.c). */
extern const size_t weir__wheel_bytes;

void weir__wheel_init(struct weir__wheel *wheel, int64_t now_ns);

/*
 * (Re-)arms for an absolute time. A time in the past fires at the next advance that sees a new
 * tick.
 */
void weir__timer_arm(struct weir__wheel *wheel, struct weir__timer *timer, int64_t expires_ns);

static inline bool weir__timer_is_armed(const struct weir__timer *timer)
{
	return timer->pprev != NULL;
}

void weir__timer_cancel(struct weir__wheel *wheel, struct weir__timer *timer);

/*
 * Moves everything that has expired by now_ns to the due list. Amortised: each timer moves down at
 * most 7 times.
 */
void weir__wheel_advance(struct weir__wheel *wheel, int64_t now_ns);

/* Takes one due timer, disarmed; NULL when there is none. */
struct weir__timer *weir__wheel_pop(struct weir__wheel *wheel);

/*
 * When advance() has work next: absolute ns, 0 while timers are due, INT64_MAX for never. Never
 * later than the first expiry; earlier only where a timer was cancelled that was to be the first.
 */
int64_t weir__wheel_next(const struct weir__wheel *wheel);

#endif
