/* SPDX-License-Identifier: MIT */
/*
 * parties.h: for stress: tasks of two workers that do something over and over, some with a scope
 * that runs out after microseconds, until all of them are cancelled.
 */
#ifndef TESTS_PARTIES_H
#define TESTS_PARTIES_H

#include "tests/runtime_test.h"

enum { PARTIES = 8 };

struct party {
	uint64_t seed;
	int (*act)(uint64_t *seed); /* an error ends its party */
	uint64_t patience_ns;	    /* half of the parties have less, the others all they want */
};

static inline int take_part(void *arg)
{
	struct party *party = arg;
	uint64_t patience = random_next(&party->seed) % (2 * party->patience_ns);
	WEIR_SCOPE(scope, patience < party->patience_ns ? (int64_t)patience : WEIR_FOREVER);

	for (int err = 0; err == 0;) {
		err = party->act(&party->seed);
		if (err == 0 && random_next(&party->seed) % 32 == 0)
			err = weir_yield();
	}
	return 0;
}

static inline int party_round(uint64_t *seed, int (*act)(uint64_t *seed), uint64_t patience_ns)
{
	struct party parties[PARTIES];
	WEIR_SCOPE(scope, WEIR_FOREVER);

	for (int i = 0; i < PARTIES; i++) {
		parties[i] = (struct party){ random_next(seed), act, patience_ns };
		TRY(weir_spawn(&scope, take_part, &parties[i],
			       .worker = WEIR_ON_WORKER((unsigned)random_next(seed) % 2)));
	}
	return weir_sleep((int64_t)(random_next(seed) % 400000)); /* then all are cancelled */
}

#endif
