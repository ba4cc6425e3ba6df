/* SPDX-License-Identifier: MIT */
/*
 * The law of the caches, on a virtual clock: traces of demand run through a real heap, whose turns
 * are told what time it is. What is asserted is what alloc/adapt.c promises.
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "alloc/heap.h"

enum { OBJECTS_MAX = 20000, OBJECT_BYTES = 256, EPOCH_MS = 100 };

static struct trace {
	weir_pool *pool;
	void *object[OBJECTS_MAX];
	unsigned out;
	int64_t now;
} trace;

static void begin(struct trace *t, const char *name, size_t object_bytes)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
	memset(t, 0, sizeof(*t));
	ck_assert_int_eq(weir_pool_new(&t->pool, .object_bytes = object_bytes, .name = name), 0);
	t->now = weir__os_now();
	weir__heap_turn(t->now);
}

static void demand(struct trace *t, unsigned n)
{
	while (t->out < n) {
		t->object[t->out] = weir_pool_get(t->pool);
		if (t->object[t->out++] == NULL) /* each ck_assert is a system call */
			ck_abort_msg("out of memory");
	}
	while (t->out > n)
		weir_pool_put(t->pool, t->object[--t->out]);
}

static void pass(struct trace *t, int64_t ms)
{
	weir__heap_turn(t->now += ms * WEIR__MS);
}

/* One epoch in which demand rises to `peak` and falls to `base`. */
static void swing(struct trace *t, unsigned peak, unsigned base)
{
	demand(t, peak);
	demand(t, base);
	pass(t, EPOCH_MS);
}

static struct weir_pool_stats stats(const struct trace *t)
{
	static struct weir_pool_stats all[WEIR__POOLS_MAX];
	size_t n = weir_pool_stats_get(all, WEIR__POOLS_MAX);
	const char *name = weir__pools[t->pool->index].name;
	for (size_t i = 0; i < n; i++)
		if (strcmp(all[i].name, name) == 0)
			return all[i];
	return (struct weir_pool_stats){ .name = NULL };
}

static const struct weir__cache *cache(const struct trace *t)
{
	return &weir__heap_self->cache[t->pool->index];
}

static void configure(uint32_t adapt, uint64_t worker_bytes)
{
	struct weir__alloc_config config;
	weir__alloc_config_get(&config);
	config.adapt = adapt;
	config.worker_bytes = worker_bytes;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
}

/* ---- Traces --------------------------------------------------------------------------------- */

START_TEST(a_cold_cache_is_large_enough_after_one_epoch)
{
	begin(&trace, "cold", OBJECT_BYTES);
	swing(&trace, 1000, 0);
	struct weir_pool_stats first = stats(&trace);
	for (int i = 0; i < 600; i++)
		swing(&trace, 1000, 0);
	struct weir_pool_stats last = stats(&trace);
	ck_assert_uint_eq(last.misses, first.misses);
	ck_assert_uint_eq(last.resizes, first.resizes);
	ck_assert_uint_ge(last.capacity, 1000);
	ck_assert_uint_le(last.capacity, 2000);
}
END_TEST

START_TEST(steady_demand_is_left_alone)
{
	begin(&trace, "steady", OBJECT_BYTES);
	unsigned seed = 1;
	swing(&trace, 1100, 0);
	uint64_t resizes = stats(&trace).resizes;
	for (int i = 0; i < 1000; i++) /* ten percent of jitter */
		swing(&trace, 900 + (unsigned)rand_r(&seed) % 200, 0);
	ck_assert_uint_eq(stats(&trace).resizes, resizes);
}
END_TEST

/* Everything is allocated in one epoch and freed in the next: none has misses and overflows. */
START_TEST(demand_that_rises_in_one_epoch_and_falls_in_another_is_served)
{
	begin(&trace, "alternating", OBJECT_BYTES);
	for (int i = 0; i < 4; i++) {
		demand(&trace, i % 2 == 0 ? 500 : 0);
		pass(&trace, EPOCH_MS);
	}
	struct weir_pool_stats first = stats(&trace);
	for (int i = 0; i < 100; i++) {
		demand(&trace, i % 2 == 0 ? 500 : 0);
		pass(&trace, EPOCH_MS);
	}
	struct weir_pool_stats last = stats(&trace);
	ck_assert_uint_ge(last.capacity, 500);
	ck_assert_uint_le(last.misses - first.misses, 2 * (first.misses + 1));
	ck_assert_uint_le(last.resizes, 3);
}
END_TEST

START_TEST(demand_that_stands_still_needs_no_cache)
{
	begin(&trace, "standing", OBJECT_BYTES);
	demand(&trace, 10000);
	for (int i = 0; i < 1500; i++)
		swing(&trace, 10002, 10000);
	ck_assert_uint_le(stats(&trace).capacity, 64);
}
END_TEST

/* What is never freed misses and misses, and no cache would have had it. */
START_TEST(demand_that_only_rises_needs_no_cache)
{
	begin(&trace, "rising", OBJECT_BYTES);
	for (unsigned i = 1; i <= 100; i++) {
		demand(&trace, i * 100);
		pass(&trace, EPOCH_MS);
	}
	ck_assert_uint_le(stats(&trace).capacity, 64);
}
END_TEST

/* A need of one at the least, and the band; of small ones it is four. */
START_TEST(a_cache_of_large_objects_shrinks_to_two)
{
	begin(&trace, "large", 100 << 10);
	for (int i = 0; i < 20; i++)
		swing(&trace, 20, 0);
	ck_assert_uint_ge(stats(&trace).capacity, 20);
	for (int i = 0; i < 600; i++)
		pass(&trace, 1000);
	ck_assert_uint_eq(stats(&trace).capacity, 2);
}
END_TEST

/* How many objects had to come from the spans. */
static uint64_t misses_of_a_burst(uint32_t adapt)
{
	configure(adapt, 8 << 20);
	begin(&trace, adapt == WEIR__ADAPT_DEMAND ? "demand" : "threshold", OBJECT_BYTES);
	for (int i = 0; i < 100; i++)
		swing(&trace, 2000, 0);
	uint64_t fetched = weir__home_self()->bins[trace.pool->index].fetched;
	for (int i = 0; i < 1200; i++)
		pass(&trace, EPOCH_MS);
	return fetched;
}

START_TEST(a_burst_misses_a_twentieth_of_what_the_thresholds_miss)
{
	uint64_t by_demand = misses_of_a_burst(WEIR__ADAPT_DEMAND);
	ck_assert_uint_lt(stats(&trace).capacity, 100); /* and two minutes later it is forgotten */
	ck_assert_uint_ge(stats(&trace).capacity, 1);
	ck_assert_uint_eq(stats(&trace).cached, 0);
	uint64_t by_thresholds = misses_of_a_burst(WEIR__ADAPT_THRESHOLD);
	ck_assert_uint_ge(stats(&trace).capacity, 1); /* its floor: never dead */
	ck_assert_uint_lt(by_demand * 20, by_thresholds);
}
END_TEST

static const struct {
	int64_t period_ms;
	bool forgotten; /* between two bursts */
} oscillation[] = { { 500, false }, { 2000, false }, { 5000, false }, { 60000, true } };

START_TEST(bursts_every_five_seconds_or_faster_cause_no_resize_and_no_miss)
{
	int64_t period = oscillation[_i].period_ms;
	begin(&trace, "periodic", OBJECT_BYTES);
	swing(&trace, 400, 0);
	struct weir_pool_stats first = stats(&trace);
	for (int64_t t = 0; t < 240000; t += period) {
		for (int64_t quiet = EPOCH_MS; quiet < period; quiet += EPOCH_MS)
			pass(&trace, EPOCH_MS);
		swing(&trace, 400, 0);
	}
	struct weir_pool_stats last = stats(&trace);
	if (oscillation[_i].forgotten) { /* it gave the memory back, and no faster than it may */
		ck_assert_uint_gt(last.resizes, first.resizes);
		ck_assert_uint_le(last.resizes - first.resizes, 240 / 5 + 5);
	} else {
		ck_assert_uint_eq(last.misses, first.misses);
		ck_assert_uint_eq(last.resizes, first.resizes);
	}
}
END_TEST

START_TEST(after_a_spike_everything_is_given_back)
{
	begin(&trace, "spike", OBJECT_BYTES);
	for (int i = 0; i < 100; i++)
		swing(&trace, 5000, 0);
	for (int i = 0; i < 3600; i++)
		pass(&trace, 1000);
	ck_assert_uint_le(stats(&trace).capacity, 8);
	ck_assert_uint_eq(stats(&trace).cached, 0);
	ck_assert_uint_eq(weir__home_self()->dirty_units, 0);
	swing(&trace, 50, 0); /* and it works as on the first day */
	uint64_t misses = stats(&trace).misses;
	swing(&trace, 50, 0);
	ck_assert_uint_eq(stats(&trace).misses, misses);
}
END_TEST

START_TEST(off_freezes_the_capacity)
{
	configure(WEIR__ADAPT_OFF, 8 << 20);
	begin(&trace, "frozen", OBJECT_BYTES);
	demand(&trace, 1);
	uint64_t capacity = stats(&trace).capacity;
	for (int i = 0; i < 100; i++)
		swing(&trace, 1000, 0);
	ck_assert_uint_eq(stats(&trace).capacity, capacity);
	ck_assert_uint_eq(stats(&trace).resizes, 0);
}
END_TEST

/* ---- Budget --------------------------------------------------------------------------------- */

START_TEST(a_working_set_above_the_budget_stays_within_it)
{
	enum { BUDGET = 256 << 10 };
	configure(WEIR__ADAPT_DEMAND, BUDGET);
	begin(&trace, "large", 1024);
	for (int i = 0; i < 300; i++) {
		swing(&trace, 4000, 0);
		ck_assert_uint_le(weir__home_self()->cap_bytes, BUDGET);
	}
	ck_assert_uint_gt(stats(&trace).capacity * 1024, BUDGET / 2);
}
END_TEST

START_TEST(caches_hold_an_eighth_of_a_limit_at_most)
{
	struct weir__alloc_config config;
	configure(WEIR__ADAPT_DEMAND, 16 << 20);
	weir__alloc_config_get(&config);
	config.mem_limit = 32 << 20;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	begin(&trace, "large", 1024);
	for (int i = 0; i < 100; i++)
		swing(&trace, 8000, 0);
	ck_assert_uint_le(weir__home_self()->cap_bytes, 4 << 20);
	ck_assert_uint_gt(weir__home_self()->cap_bytes, 3 << 20);
}
END_TEST

static struct trace other;

/* `trace` and `other`, whose cache holds 2,000 of a budget for 8,192. */
static struct weir__home *one_wants_and_the_other_has(void)
{
	configure(WEIR__ADAPT_DEMAND, 8 << 20);
	begin(&trace, "wants", 1024);
	begin(&other, "has", 1024);
	struct weir__home *home = weir__home_self();
	weir_pool_put(trace.pool, weir_pool_get(trace.pool));
	weir_pool_put(other.pool, weir_pool_get(other.pool));
	weir__cache_resize(home, other.pool->index, 2000);
	home->bins[trace.pool->index].demand.fetched = 1000;
	return home;
}

/* What the other has left when `trace` is refused. */
static uint32_t left_by_the_other(int64_t now_ns, double others_misses)
{
	struct weir__home *home = weir__home_self();
	home->bins[other.pool->index].demand.fetched = others_misses;
	home->bins[trace.pool->index].demand.refused = true;
	weir__adapt_budget(home, now_ns);
	return cache(&other)->cap;
}

START_TEST(every_two_seconds_a_twentieth_is_taken_from_who_misses_a_fifth_less)
{
	enum { TWENTIETH = 8192 / 20 + 1 };
	struct weir__home *home = one_wants_and_the_other_has();
	int64_t time = home->now_ns + 2000 * WEIR__MS;
	ck_assert_uint_eq(left_by_the_other(time, 800), 2000);
	ck_assert_uint_eq(left_by_the_other(time, 799), 2000 - TWENTIETH);
	ck_assert_uint_eq(left_by_the_other(time + 1999 * WEIR__MS, 0), 2000 - TWENTIETH);
	ck_assert_uint_eq(left_by_the_other(time + 2000 * WEIR__MS, 0), 2000 - 2 * TWENTIETH);
}
END_TEST

/* Who is refused takes from another once for it, and not what that one is to keep. */
START_TEST(budget_is_taken_once_for_a_refusal_and_not_below_the_reserve)
{
	struct weir__home *home = one_wants_and_the_other_has();
	uint32_t wants = trace.pool->index, has = other.pool->index;
	int64_t time = home->now_ns;
	home->bins[has].demand.fetched = 0;
	home->bins[wants].demand.refused = true;
	weir__adapt_budget(home, time += 2000 * WEIR__MS);
	uint32_t left = home->heap.cache[has].cap;
	ck_assert_uint_lt(left, 2000);
	weir__adapt_budget(home, time += 2000 * WEIR__MS);
	ck_assert_uint_eq(home->heap.cache[has].cap, left);
	for (uint32_t i = 1; i < home->bins_end; i++)
		if (i != wants && home->heap.cache[i].cap > 1)
			weir__cache_resize(home, i, 2); /* below any reserve */
	home->bins[wants].demand.refused = true;
	weir__adapt_budget(home, time += 2000 * WEIR__MS);
	ck_assert_uint_eq(home->heap.cache[has].cap, 2);
}
END_TEST

/* What was in use before a sleep has not been used for as long as that has lasted. */
START_TEST(after_a_long_rest_a_cache_is_empty_at_once)
{
	configure(WEIR__ADAPT_DEMAND, 8 << 20);
	begin(&trace, "rests", 1024);
	for (int i = 0; i < 50; i++)
		swing(&trace, 100, 0);
	int64_t time = weir__home_self()->now_ns;
	weir_pool_put(trace.pool, weir_pool_get(trace.pool));
	ck_assert_uint_gt(stats(&trace).cached, 0);
	(void)weir__heap_rested(time + 11000 * WEIR__MS, 11000 * WEIR__MS);
	ck_assert_uint_eq(stats(&trace).cached, 0);
	ck_assert_uint_eq(weir__home_self()->dirty_units, 0); /* and has gone back already */
}
END_TEST

START_TEST(budget_follows_a_phase_shift_from_one_pool_to_another)
{
	enum { BUDGET = 512 << 10 };
	configure(WEIR__ADAPT_DEMAND, BUDGET);
	begin(&trace, "before", 1024);
	begin(&other, "after", 1024);
	for (int i = 0; i < 100; i++)
		swing(&trace, 4000, 0);
	uint64_t had = stats(&trace).capacity;
	ck_assert_uint_gt(had, 300);
	for (int i = 0; i < 600; i++) {
		swing(&other, 4000, 0);
		ck_assert_uint_le(weir__home_self()->cap_bytes, BUDGET + 1024); /* and a floor */
	}
	ck_assert_uint_gt(stats(&other).capacity, 300);
	ck_assert_uint_lt(stats(&trace).capacity, had / 2);
}
END_TEST

/* ---- Invariants ----------------------------------------------------------------------------- */

START_TEST(any_constant_need_ends_within_the_band_and_stays_there)
{
	for (uint32_t need = 1; need < 5000; need = need * 5 / 4 + 1)
		for (uint32_t cap = 1; cap < 20000; cap = cap * 3 / 2 + 1) {
			struct weir__law law = { .swing = need, .hit_rate = 1.0 };
			struct weir__epoch epoch = {
				.swing = need, .allocs = 1, .refills = 1, .flushes = 1
			};
			uint32_t now_cap = cap;
			int64_t now = 0;
			for (int i = 0; i < 3000; i++) {
				now += EPOCH_MS * WEIR__MS;
				weir__law_measure(&law, &epoch, now);
				uint32_t next = weir__law_next(&law, &epoch, now_cap, 1, now);
				if (next != now_cap && i > 2500)
					ck_abort_msg("need %u from %u: still moving", need, cap);
				if (next != now_cap)
					law.resized_ns = now;
				now_cap = next;
			}
			if (now_cap < need || now_cap > 2 * need + 1)
				ck_abort_msg("need %u from %u: ends at %u", need, cap, now_cap);
		}
}
END_TEST

static void random_trace(unsigned seed)
{
	struct trace *t = &trace;
	unsigned state = seed;
	int64_t shrunk = t->now - 5000 * WEIR__MS;
	for (int i = 0; i < 60; i++) {
		uint32_t before = cache(t)->cap;
		unsigned peak = (unsigned)rand_r(&state) % 600;
		demand(t, peak);
		demand(t, peak == 0 ? 0 : (unsigned)rand_r(&state) % peak);
		if (rand_r(&state) % 8 == 0)
			t->now += (int64_t)(rand_r(&state) % 20000) * WEIR__MS;
		pass(t, EPOCH_MS);
		uint32_t after = cache(t)->cap;
		if (before > 0 && (after < 1 || weir__cache_count(cache(t)) > after))
			ck_abort_msg("seed %u epoch %d: %u cached of %u", seed, i,
				     weir__cache_count(cache(t)), after);
		if (after < before) {
			if (t->now - shrunk < 5000 * WEIR__MS)
				ck_abort_msg("seed %u epoch %d: shrunk twice in 5 s", seed, i);
			shrunk = t->now;
		}
		if (weir__home_self()->cap_bytes > 8 << 20)
			ck_abort_msg("seed %u epoch %d: above the budget", seed, i);
	}
	demand(t, 0);
}

/* Single steps, as a table. */
START_TEST(single_steps_of_the_law_are_what_it_says)
{
	const int64_t s = 1000 * WEIR__MS, now = 1000 * s;
	const struct weir__epoch missed = { .refills = 1 };
	struct weir__law law = { .swing = 50, .hit_rate = 0.1, .flushed_ns = now - s };
	struct weir__alloc_config config;
	law.used_ns = now;
	ck_assert_uint_ge(weir__law_next(&law, &missed, 20, 4, now), 50);
	law.flushed_ns = now - 11 * s; /* it did not overflow lately: a larger one is no use */
	ck_assert_uint_eq(weir__law_next(&law, &missed, 20, 4, now), 20);
	law.used_ns = now - 100 * s; /* hardly hits and long unused: down, but to what it needs */
	ck_assert_uint_eq(weir__law_next(&law, &missed, 60, 4, now), 50);
	law.swing = 0;
	ck_assert_uint_eq(weir__law_next(&law, &missed, 10, 8, now), 8);
	configure(WEIR__ADAPT_THRESHOLD, 16 << 20);
	weir__alloc_config_get(&config);
	config.shrink_percent = 20;
	config.band_percent = 1000;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	ck_assert_uint_eq(weir__law_next(&law, &missed, 4, 4, now), 1); /* and never 0 */
}
END_TEST

/* Each condition at its edge: what is one step away from `after` is not. */
START_TEST(each_condition_of_the_law_counts)
{
	static const struct {
		uint32_t before, after;
		uint64_t refills;
		double hit_rate;
		int64_t flushed_ms, used_ms, resized_ms; /* ago */
	} steps[] = {
		{ 20, 68, 1, 0.5, 9999, 0, 5000 }, /* 30, 45, 67.5: the first that is enough */
		{ 20, 20, 1, 0.5, 10000, 0, 5000 },  { 20, 20, 0, 0.5, 9999, 0, 5000 },
		{ 20, 68, 0, 0.91, 10000, 0, 5000 }, { 20, 20, 0, 0.89, 10000, 0, 5000 },
		{ 50, 50, 1, 0.91, 0, 0, 5000 }, /* it needs no more */
		{ 100, 100, 1, 0.5, 0, 0, 5000 },    { 101, 70, 1, 0.5, 0, 0, 5000 },
		{ 101, 101, 1, 0.5, 0, 0, 4999 },    { 90, 63, 1, 0.29, 0, 60001, 5000 },
		{ 90, 90, 1, 0.29, 0, 60000, 5000 }, { 90, 90, 1, 0.31, 0, 60001, 5000 },
		{ 90, 90, 1, 0.29, 0, 60001, 4999 },
	};
	const int64_t now = 1000000 * WEIR__MS;
	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
		const struct weir__epoch epoch = { .refills = steps[i].refills };
		struct weir__law law = { .swing = 50,
					 .hit_rate = steps[i].hit_rate,
					 .flushed_ns = now - steps[i].flushed_ms * WEIR__MS,
					 .used_ns = now - steps[i].used_ms * WEIR__MS,
					 .resized_ns = now - steps[i].resized_ms * WEIR__MS };
		uint32_t next = weir__law_next(&law, &epoch, steps[i].before, 4, now);
		ck_assert_msg(next == steps[i].after, "step %zu: %u", i, next);
	}
}
END_TEST

START_TEST(a_cache_is_useful_after_eleven_epochs_of_hits_and_not_after_ten)
{
	const struct weir__epoch hits = { .allocs = 100 };
	struct weir__law law = { .swing = 50 };
	int64_t now = 1000000 * WEIR__MS;
	for (int i = 1; i <= 11; i++) {
		weir__law_measure(&law, &hits, now);
		law.swing = 50;
		ck_assert_uint_eq(weir__law_next(&law, &hits, 20, 4, now), i < 11 ? 20 : 68);
	}
}
END_TEST

/* A block of ten megabytes that is free leaves the small classes what they need. */
START_TEST(the_one_object_each_cache_may_hold_costs_no_budget)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
	weir_free(weir_alloc(10 << 20));
	ck_assert_uint_lt(weir__home_self()->cap_bytes, 1 << 20);
}
END_TEST

START_TEST(a_thousand_random_traces_break_no_invariant)
{
	unsigned seed = (unsigned)time(NULL);
	begin(&trace, "random", OBJECT_BYTES);
	for (unsigned i = 0; i < 1000; i++) {
		random_trace(seed + i);
		trace.now += 10000 * WEIR__MS;
	}
	if (stats(&trace).in_use != 0)
		ck_abort_msg("seed %u: objects lost", seed);
}
END_TEST

START_TEST(a_band_too_narrow_for_the_steps_is_refused)
{
	struct weir__alloc_config config;
	weir__alloc_config_get(&config);
	config.band_percent = 150; /* as wide as the growth: it would shrink what it grew */
	ck_assert_int_eq(weir__alloc_configure(&config), -EINVAL);
	config.band_percent = 200;
	config.shrink_percent = 40;
	ck_assert_int_eq(weir__alloc_configure(&config), -EINVAL);
	config.shrink_percent = 100;
	ck_assert_int_eq(weir__alloc_configure(&config), -EINVAL);
	config.shrink_percent = 70;
	config.grow_percent = 100;
	ck_assert_int_eq(weir__alloc_configure(&config), -EINVAL);
	config.grow_percent = 150;
	config.adapt = WEIR__ADAPT_OFF + 1;
	ck_assert_int_eq(weir__alloc_configure(&config), -EINVAL);
	config.adapt = WEIR__ADAPT_OFF;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
}
END_TEST

Suite *alloc_adapt_suite(void)
{
	Suite *s = suite_create("alloc_adapt");
	TCase *law = tcase_create("law");
	tcase_set_timeout(law, 30);
	tcase_add_test(law, any_constant_need_ends_within_the_band_and_stays_there);
	tcase_add_test(law, single_steps_of_the_law_are_what_it_says);
	tcase_add_test(law, each_condition_of_the_law_counts);
	tcase_add_test(law, a_cache_is_useful_after_eleven_epochs_of_hits_and_not_after_ten);
	tcase_add_test(law, the_one_object_each_cache_may_hold_costs_no_budget);
	tcase_add_test(law, a_band_too_narrow_for_the_steps_is_refused);
	suite_add_tcase(s, law);
	if (WEIR__ASAN) /* watched blocks bypass the water marks that the law lives on */
		return s;
	TCase *traces = tcase_create("traces");
	tcase_set_timeout(traces, 60);
	tcase_add_test(traces, a_cold_cache_is_large_enough_after_one_epoch);
	tcase_add_test(traces, steady_demand_is_left_alone);
	tcase_add_test(traces, demand_that_rises_in_one_epoch_and_falls_in_another_is_served);
	tcase_add_test(traces, demand_that_stands_still_needs_no_cache);
	tcase_add_test(traces, demand_that_only_rises_needs_no_cache);
	tcase_add_test(traces, a_cache_of_large_objects_shrinks_to_two);
	tcase_add_test(traces, a_burst_misses_a_twentieth_of_what_the_thresholds_miss);
	tcase_add_loop_test(traces, bursts_every_five_seconds_or_faster_cause_no_resize_and_no_miss,
			    0, sizeof(oscillation) / sizeof(*oscillation));
	tcase_add_test(traces, after_a_spike_everything_is_given_back);
	tcase_add_test(traces, off_freezes_the_capacity);
	tcase_add_test(traces, a_working_set_above_the_budget_stays_within_it);
	tcase_add_test(traces, caches_hold_an_eighth_of_a_limit_at_most);
	tcase_add_test(traces, budget_follows_a_phase_shift_from_one_pool_to_another);
	tcase_add_test(traces, every_two_seconds_a_twentieth_is_taken_from_who_misses_a_fifth_less);
	tcase_add_test(traces, budget_is_taken_once_for_a_refusal_and_not_below_the_reserve);
	tcase_add_test(traces, after_a_long_rest_a_cache_is_empty_at_once);
	tcase_add_test(traces, a_thousand_random_traces_break_no_invariant);
	suite_add_tcase(s, traces);
	return s;
}
