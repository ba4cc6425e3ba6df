/* SPDX-License-Identifier: MIT */
/*
 * The timer wheel against an oracle that knows for every timer the tick it has to fire in and looks
 * at all of them.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/timer.h"
#include "tests/runtime_test.h"

#define TICK_NS ((int64_t)1 << WEIR__TICK_SHIFT)

/* The oracle's view of one timer. */
struct entry {
	struct weir__timer timer; /* first */
	uint64_t tick;		  /* it has to fire in; while armed */
	uint64_t order;		  /* of arming */
	bool is_armed;
	bool is_due;
};

static struct weir__wheel wheel;
static int64_t now_ns;
static uint64_t arms;
static uint64_t seed;

static void start_at(int64_t ns)
{
	now_ns = ns;
	arms = 0;
	weir__wheel_init(&wheel, ns);
}

static uint64_t now_tick(void)
{
	return (uint64_t)now_ns >> WEIR__TICK_SHIFT;
}

static void arm(struct entry *entry, int64_t expires_ns)
{
	uint64_t tick = ((uint64_t)expires_ns + TICK_NS - 1) >> WEIR__TICK_SHIFT;

	weir__timer_arm(&wheel, &entry->timer, expires_ns);
	entry->tick = tick > now_tick() ? tick : now_tick() + 1;
	entry->order = arms++;
	entry->is_armed = true;
	entry->is_due = false;
}

static void cancel(struct entry *entry)
{
	weir__timer_cancel(&wheel, &entry->timer);
	entry->is_armed = entry->is_due = false;
	expect(!weir__timer_is_armed(&entry->timer));
}

static void advance(int64_t ns)
{
	now_ns = ns;
	weir__wheel_advance(&wheel, ns);
}

/* Everything that is expired comes out, by tick and then in order of arming, and nothing else. */
static unsigned pop_all(struct entry *entries, unsigned count)
{
	struct entry *last = NULL;
	unsigned popped = 0;

	for (unsigned i = 0; i < count; i++)
		if (entries[i].is_armed && entries[i].tick <= now_tick())
			entries[i].is_due = true;
	struct weir__timer *timer;
	while ((timer = weir__wheel_pop(&wheel)) != NULL) {
		struct entry *entry = (struct entry *)(void *)timer;
		expect(!weir__timer_is_armed(timer));
		expect(entry->is_due);
		expect(timer->expires_ns <= now_ns);
		if (last && last->tick == entry->tick)
			expect(last->order < entry->order);
		else if (last)
			expect(last->tick < entry->tick);
		entry->is_armed = entry->is_due = false;
		last = entry;
		popped++;
	}
	for (unsigned i = 0; i < count; i++)
		expect(!entries[i].is_due);
	return popped;
}

static uint64_t first_tick(const struct entry *entries, unsigned count)
{
	uint64_t first = UINT64_MAX;

	for (unsigned i = 0; i < count; i++)
		if (entries[i].is_armed && entries[i].tick < first)
			first = entries[i].tick;
	return first;
}

/* Any scale from a tick to years, evenly by magnitude. */
static int64_t random_delta(void)
{
	unsigned bits = (unsigned)(random_next(&seed) % 58);

	return (int64_t)(random_next(&seed) &
			 (((uint64_t)1 << bits) | (((uint64_t)1 << bits) - 1)));
}

START_TEST(fires_neither_early_nor_a_tick_late)
{
	struct entry entry = { 0 };

	for (int64_t delta = 1; delta < INT64_MAX / 8; delta = delta * 3 + 1) {
		start_at(12345678901);
		arm(&entry, now_ns + delta);
		int64_t expires = now_ns + delta;
		for (int steps = 0; weir__timer_is_armed(&entry.timer) && !wheel.due; steps++) {
			int64_t next = weir__wheel_next(&wheel);
			ck_assert_int_lt(steps, WEIR__WHEEL_LEVELS + 1);
			ck_assert_int_gt(next, now_ns);
			ck_assert_int_lt(next, expires + TICK_NS);
			advance(next - 1);
			ck_assert_ptr_null(wheel.due);
			advance(next);
		}
		ck_assert_int_ge(now_ns, expires);
		ck_assert_ptr_eq(weir__wheel_pop(&wheel), &entry.timer);
		ck_assert_uint_eq(wheel.armed, 0);
	}
}
END_TEST

START_TEST(a_far_timer_is_no_reason_to_wake_up_before_it)
{
	struct entry far = { 0 }, sooner = { 0 };

	for (int64_t delta = 2 * TICK_NS; delta < INT64_MAX / 8; delta = delta * 3 + 1) {
		start_at(12345678901);
		int64_t expires = now_ns + delta;
		arm(&far, expires);
		ck_assert_int_ge(weir__wheel_next(&wheel), expires);
		ck_assert_int_lt(weir__wheel_next(&wheel), expires + TICK_NS);
		/* one that was cancelled may be woken up for, once a level at most */
		arm(&sooner, now_ns + delta / 2);
		ck_assert_int_lt(weir__wheel_next(&wheel), expires);
		weir__timer_cancel(&wheel, &sooner.timer);
		for (int steps = 0; weir__wheel_next(&wheel) < expires; steps++) {
			ck_assert_int_lt(steps, WEIR__WHEEL_LEVELS);
			advance(weir__wheel_next(&wheel));
		}
		weir__timer_cancel(&wheel, &far.timer);
	}
}
END_TEST

START_TEST(an_empty_wheel_never_has_work)
{
	start_at(1);
	ck_assert_int_eq(weir__wheel_next(&wheel), INT64_MAX);
	advance(WEIR_SEC);
	advance(INT64_MAX);
	ck_assert_int_eq(weir__wheel_next(&wheel), INT64_MAX);
	ck_assert_ptr_null(weir__wheel_pop(&wheel));
}
END_TEST

START_TEST(a_time_in_the_past_fires_in_the_next_tick)
{
	struct entry entry = { 0 };

	start_at(1000 * TICK_NS);
	arm(&entry, 5);
	advance(1001 * TICK_NS - 1);
	ck_assert_ptr_null(weir__wheel_pop(&wheel));
	ck_assert_int_eq(weir__wheel_next(&wheel), 1001 * TICK_NS);
	advance(1001 * TICK_NS);
	ck_assert_ptr_eq(weir__wheel_pop(&wheel), &entry.timer);
}
END_TEST

START_TEST(the_last_nanosecond_of_the_clock_can_be_armed)
{
	struct entry entry = { 0 };

	start_at(WEIR_SEC);
	arm(&entry, INT64_MAX);
	advance(INT64_MAX / 2);
	ck_assert_ptr_null(weir__wheel_pop(&wheel));
	cancel(&entry);
	ck_assert_int_eq(weir__wheel_next(&wheel), INT64_MAX);
}
END_TEST

/* In a slot of each level, first, middle and last of its list; due; popped; never armed. */
/* Its tick ends after the last nanosecond there is. */
START_TEST(a_timer_in_the_last_tick_is_no_reason_to_wake_up)
{
	struct entry entry = { 0 };

	start_at(1000);
	arm(&entry, INT64_MAX - 1);
	ck_assert_int_eq(weir__wheel_next(&wheel), INT64_MAX);
}
END_TEST

START_TEST(cancel_works_in_every_state)
{
	struct entry entries[5] = { 0 };

	for (unsigned shift = 1; shift < 60; shift += 3) {
		for (unsigned victim = 0; victim < 5; victim++) {
			for (int due = 0; due < 2; due++) {
				start_at(WEIR_SEC);
				for (unsigned i = 0; i < 5; i++)
					arm(&entries[i], now_ns + ((int64_t)1 << shift));
				if (due)
					advance(now_ns + ((int64_t)1 << shift) + TICK_NS);
				cancel(&entries[victim]);
				cancel(&entries[victim]);
				ck_assert_uint_eq(wheel.armed, 4);
				advance(now_ns + ((int64_t)1 << shift) + TICK_NS);
				ck_assert_uint_eq(pop_all(entries, 5), 4);
				cancel(&entries[0]);
				ck_assert_uint_eq(wheel.armed, 0);
				ck_assert_int_eq(weir__wheel_next(&wheel), INT64_MAX);
			}
		}
	}
}
END_TEST

START_TEST(a_due_timer_can_be_armed_again)
{
	struct entry entries[3] = { 0 };

	start_at(WEIR_SEC);
	for (int i = 0; i < 3; i++)
		arm(&entries[i], 2 * WEIR_SEC);
	advance(3 * WEIR_SEC);
	ck_assert_int_eq(weir__wheel_next(&wheel), 0);
	arm(&entries[2],
	    4 * WEIR_SEC); /* the list's last: what is appended next must not get lost */
	arm(&entries[1], 3 * WEIR_SEC);
	advance(3 * WEIR_SEC + 2 * TICK_NS);
	ck_assert_uint_eq(pop_all(entries, 3), 2);
	advance(5 * WEIR_SEC);
	ck_assert_uint_eq(pop_all(entries, 3), 1);
}
END_TEST

START_TEST(random_operations_agree_with_the_oracle)
{
	enum { COUNT = 200 };
	static struct entry entries[COUNT];
	const int operations = ROUNDS(200000);

	seed = test_seed();
	memset(entries, 0, sizeof entries);
	start_at(random_delta() / 2 + 1);
	for (int i = 0; i < operations; i++) {
		struct entry *entry = &entries[random_next(&seed) % COUNT];
		uint64_t what = random_next(&seed) % 16;
		if (what < 9 && now_ns < INT64_MAX / 4)
			arm(entry, now_ns + random_delta());
		else if (what < 10)
			arm(entry, (int64_t)(random_next(&seed) % (uint64_t)now_ns));
		else if (what < 12)
			cancel(entry);
		else if (what < 14)
			advance(now_ns + (int64_t)(random_next(&seed) % (uint64_t)(8 * TICK_NS)));
		else if (now_ns < INT64_MAX / 4 && what < 15 && random_next(&seed) % 64 == 0)
			advance(now_ns + random_delta());
		else if (weir__wheel_next(&wheel) != INT64_MAX && weir__wheel_next(&wheel) > now_ns)
			advance(weir__wheel_next(&wheel));
		if (random_next(&seed) % 4)
			pop_all(entries, COUNT);
		if (!wheel.due) {
			uint64_t first = first_tick(entries, COUNT);
			int64_t next = weir__wheel_next(&wheel);
			if (first == UINT64_MAX)
				expect(next == INT64_MAX);
			else
				expect((uint64_t)next >> WEIR__TICK_SHIFT <= first);
			if (next != INT64_MAX)
				expect((uint64_t)next >> WEIR__TICK_SHIFT > now_tick());
		}
	}
}
END_TEST

static int by_tick_and_order(const void *a, const void *b)
{
	const struct entry *const *x = a, *const *y = b;

	if ((*x)->tick != (*y)->tick)
		return (*x)->tick < (*y)->tick ? -1 : 1;
	return (*x)->order < (*y)->order ? -1 : 1;
}

START_TEST(a_million_timers_come_out_sorted)
{
	const unsigned count = TESTS_SLOW ? 50000 : 1000000;
	struct entry *entries = calloc(count, sizeof *entries);
	struct entry **sorted = malloc(count * sizeof(struct entry *));
	unsigned armed = 0, popped = 0;

	seed = test_seed();
	start_at(WEIR_SEC);
	for (unsigned i = 0; i < count; i++)
		arm(&entries[i],
		    now_ns + 1 + (int64_t)(random_next(&seed) % (3600ull * 1000000000)));
	for (unsigned i = 0; i < count; i += 3)
		cancel(&entries[i]);
	for (unsigned i = 0; i < count; i++)
		if (entries[i].is_armed)
			sorted[armed++] = &entries[i];
	ck_assert_uint_eq(wheel.armed, armed);
	qsort(sorted, armed, sizeof(struct entry *), by_tick_and_order);
	for (int64_t next; (next = weir__wheel_next(&wheel)) != INT64_MAX;) {
		struct weir__timer *timer;
		advance(next);
		while ((timer = weir__wheel_pop(&wheel)) != NULL) {
			expect(timer == &sorted[popped]->timer);
			expect(sorted[popped++]->tick == now_tick());
		}
	}
	ck_assert_uint_eq(popped, armed);
	free(sorted);
	free(entries);
}
END_TEST

Suite *runtime_timer_suite(void)
{
	Suite *suite = suite_create("runtime_timer");
	TCase *wheel_case = tcase_create("wheel");
	TCase *oracle = tcase_create("oracle");

	tcase_set_tags(wheel_case, "fast");
	tcase_add_test(wheel_case, fires_neither_early_nor_a_tick_late);
	tcase_add_test(wheel_case, a_far_timer_is_no_reason_to_wake_up_before_it);
	tcase_add_test(wheel_case, an_empty_wheel_never_has_work);
	tcase_add_test(wheel_case, a_time_in_the_past_fires_in_the_next_tick);
	tcase_add_test(wheel_case, the_last_nanosecond_of_the_clock_can_be_armed);
	tcase_add_test(wheel_case, a_timer_in_the_last_tick_is_no_reason_to_wake_up);
	tcase_add_test(wheel_case, cancel_works_in_every_state);
	tcase_add_test(wheel_case, a_due_timer_can_be_armed_again);
	suite_add_tcase(suite, wheel_case);
	tcase_set_timeout(oracle, 30);
	tcase_add_test(oracle, random_operations_agree_with_the_oracle);
	tcase_add_test(oracle, a_million_timers_come_out_sorted);
	suite_add_tcase(suite, oracle);
	return suite;
}
