/* SPDX-License-Identifier: MIT */
/*
 * lookout.h: how long a worker looks out for a completion before it sleeps.
 *
 * Where a server is faster than its clients it has nothing to do again and again, for less time
 * than a sleep and its wake-up take. A look at the ring's flags costs nanoseconds. So a worker to
 * which completions come that soon, on average, looks out for the next one, WEIR_LOOKOUT_US at
 * most.
 *
 * It learns from each time it had nothing to do how long that lasted; none counts for more than
 * four times the limit. A sleep shows more than was needed, by its wake-up: twice the limit begins
 * a try, and the limit itself has to be kept then. What ends in vain is tried again after twice as
 * many sleeps as the last time. An idle worker sleeps as ever.
 */
#ifndef WEIR_LOOKOUT_H
#define WEIR_LOOKOUT_H

#include <stdbool.h>
#include <stdint.h>

struct weir__worker;

/* All zero: has learned nothing. Its worker only. */
struct weir__lookout {
	int64_t early_ns; /* mean of how much sooner than four limits something came */
	int64_t idle_ns;  /* since when there is nothing to do; 0: is not being measured */
	uint32_t rest;	  /* sleeps that are not measured */
	uint32_t rests;	  /* so many the last time */
	uint32_t looks;	  /* since it began, up to PROVEN */
	bool is_on;
};

enum {
	WEIR__LOOKOUT_RESTS_MIN = 16,
	WEIR__LOOKOUT_RESTS_MAX = 4096,
	WEIR__LOOKOUT_PROVEN = 64, /* looks after which the failures before are forgotten */
};

/* Something came after `gap_ns` of nothing to do. */
void weir__lookout_learn(struct weir__lookout *lookout, int64_t gap_ns, int64_t max_ns);

/*
 * Looks out, if that pays and nothing is ready; what the driver has queued is handed over first.
 * The worker is awake meanwhile. True: it has a turn to do.
 */
bool weir__lookout(struct weir__worker *self);

/* A sleep is over, and the driver had so many completions. */
void weir__lookout_slept(struct weir__worker *self, unsigned completions);

#endif
