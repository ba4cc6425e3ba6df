/* SPDX-License-Identifier: MIT */
/*
 * linger.h: how long a worker looks out for a message before it sleeps.
 *
 * A sleep that another worker's message ends at once costs a system call and a switch here and a
 * system call there, some microseconds; a look at one's own inbox costs nanoseconds. So a worker
 * whose last sleeps were short and ended by messages stays awake for a moment, WEIR_LINGER_US at
 * most.
 *
 * It learns whether that pays. A message that comes later than that was waited for in vain, though
 * it is taken: it shortens the next wait, and a wait in which nothing comes halves it. When nothing
 * is left of it, it takes twice as many short sleeps as the last time until there is another try,
 * and that one is longer, because the other side sleeps too and has to wake up first. So who
 * lingers in vain, because what it waits for is long in coming or its sender has no CPU, pays ever
 * less for it, in the end 100 us in 4,096 sleeps. An idle worker does not linger: it does not wake
 * up.
 */
#ifndef WEIR_LINGER_H
#define WEIR_LINGER_H

#include <stdbool.h>
#include <stdint.h>

struct weir__worker;

/* All zero: has learned nothing. Its worker only. */
struct weir__linger {
	int64_t allowance_ns; /* 0: not at all */
	uint32_t quick;	      /* short sleeps in a row that a message has ended */
	uint32_t wanted;      /* so many of them begin the next try; 0: the least */
};

enum { WEIR__LINGER_SLEEPS_MIN = 4, WEIR__LINGER_SLEEPS_MAX = 4096 };

/* A sleep is over. */
void weir__linger_slept(struct weir__linger *linger, int64_t slept_ns, bool by_message,
			int64_t max_ns);
/* A wait is over: something has come, or not. */
void weir__linger_ended(struct weir__linger *linger, bool has_come, int64_t took_ns,
			int64_t max_ns);

/*
 * Looks out for a message as long as was learned, if nothing is ready; what the driver has queued
 * is handed over first. The worker is awake meanwhile: nobody wakes it. True: it has a turn to do.
 */
bool weir__linger(struct weir__worker *self);

#endif
