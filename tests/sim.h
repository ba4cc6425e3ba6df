/* SPDX-License-Identifier: MIT */
/*
 * sim.h: what the scenarios of the simulator share. They are programs of the public interface,
 * whose claims hold in every run: nothing is lost, nothing comes twice, everybody ends, and an
 * error is one of those that the calls name.
 *
 * A scenario returns 0 when all went well, or the first error of a call. It must get by with any
 * call failing and with its tasks cancelled at any point.
 */
#ifndef TESTS_SIM_H
#define TESTS_SIM_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <weir/weir.h>

struct sim_scenario {
	const char *name;
	weir_fn fn;
};

/* Each file of scenarios has a table, which a line without a name ends. */
extern const struct sim_scenario sim_net_scenarios[];
extern const struct sim_scenario sim_datagram_scenarios[];
extern const struct sim_scenario sim_file_scenarios[];
extern const struct sim_scenario sim_task_scenarios[];
extern const struct sim_scenario sim_sync_scenarios[];
extern const struct sim_scenario sim_channel_scenarios[];
extern const struct sim_scenario sim_many_scenarios[];
extern const struct sim_scenario sim_copy_scenarios[];
extern const struct sim_scenario sim_ending_scenarios[];

/* An invariant: broken, it ends the process, and the runner says which run it was. */
#define claim(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);    \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* Random numbers of the scenario's own, the same for the same seed. Set by the runner. */
extern uint64_t sim_random_state;

/*
 * No error and no cancellation is in this run's plan but the scenario's own: all must have come
 * that was sent, not only nothing else.
 */
extern bool sim_is_plain;

/*
 * What a task returns on which others depend: a task that was cancelled counts as one that has
 * ended well, and who waits for its work would wait for ever. An error ends the scope.
 */
static inline int depended_on(int err)
{
	return err == -ECANCELED ? -ESHUTDOWN : err;
}

/* 0 to n - 1 */
static inline uint64_t pick(uint64_t n)
{
	sim_random_state ^= sim_random_state << 13;
	sim_random_state ^= sim_random_state >> 7;
	sim_random_state ^= sim_random_state << 17;
	return (sim_random_state >> 11) % n;
}

/* Mostly short. */
static inline int64_t some_time(void)
{
	static const int64_t most[] = { WEIR_US, 100 * WEIR_US, 5 * WEIR_MS };

	return (int64_t)pick((uint64_t)most[pick(3)]);
}

/* One of the workers, as .worker wants it. */
static inline unsigned some_worker(void)
{
	return WEIR_ON_WORKER((unsigned)pick((uint64_t)weir_worker_count()));
}

#endif
