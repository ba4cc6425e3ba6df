/* SPDX-License-Identifier: MIT */
/*
 * Generators: one item for each question, in turn; ends, errors and interruptions arrive where they
 * belong.
 */
#include <stdatomic.h>
#include <string.h>

#include "tests/runtime_test.h"

static unsigned made;

static int count_to(struct weir_gen *gen, void *arg)
{
	for (unsigned i = 1; i <= *(unsigned *)arg; i++) {
		made++;
		TRY(weir_gen_yield(gen, &i));
	}
	return 0;
}

static int consume_lazily(void *arg)
{
	struct weir_gen gen;
	unsigned last = 1000, *item;
	void *got;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_gen_open(&gen, &scope, count_to, &last));
	TRY(weir_yield());
	ck_assert_uint_eq(made, 0); /* nobody has asked */
	for (unsigned i = 1; i <= last; i++) {
		expect(weir_gen_next(&gen, &got) == 1);
		item = got;
		expect(*item == i && made == i);
	}
	got = NULL;
	ck_assert_int_eq(weir_gen_next(&gen, &got), 0);
	ck_assert_int_eq(weir_gen_next(&gen, &got), 0); /* and so it stays */
	ck_assert_ptr_null(got);
	return weir_scope_wait(&scope);
}

START_TEST(an_item_is_made_when_it_is_asked_for)
{
	run_on(1, consume_lazily, NULL);
}
END_TEST

static int fail_after_two(struct weir_gen *gen, void *arg)
{
	TRY(weir_gen_yield(gen, arg));
	TRY(weir_gen_yield(gen, arg));
	return -EPROTO;
}

static int meet_error(void *arg)
{
	struct weir_gen gen;
	void *got;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_gen_open(&gen, &scope, fail_after_two, arg));
	ck_assert_int_eq(weir_gen_next(&gen, &got), 1);
	ck_assert_int_eq(weir_gen_next(&gen, &got), 1);
	ck_assert_int_eq(weir_gen_next(&gen, &got), -EPROTO);
	TRY(weir_yield()); /* the scope goes on */
	return weir_scope_wait(&scope);
}

START_TEST(its_error_goes_to_who_asks_and_not_to_the_scope)
{
	run_on(1, meet_error, &made);
}
END_TEST

static int yielded;

static int yield_until_told(struct weir_gen *gen, void *arg)
{
	int item = 1;

	(void)arg;
	do {
		yielded = weir_gen_yield(gen, &item);
		item++;
	} while (yielded == 0);
	return yielded;
}

static int leave_early(void *arg)
{
	struct weir_gen gen;
	void *got;

	(void)arg;
	{
		WEIR_SCOPE(scope, WEIR_FOREVER);
		TRY(weir_gen_open(&gen, &scope, yield_until_told, NULL));
		ck_assert_int_eq(weir_gen_next(&gen, &got), 1);
		ck_assert_int_eq(weir_gen_next(&gen, &got), 1);
	}
	ck_assert_int_eq(yielded, -ECANCELED);
	return weir_yield();
}

START_TEST(leaving_the_scope_ends_a_generator)
{
	run_on(1, leave_early, NULL);
}
END_TEST

static int sleep_then_yield(struct weir_gen *gen, void *arg)
{
	TRY(weir_sleep(5 * WEIR_MS));
	return weir_gen_yield(gen, arg);
}

static int give_up_once(void *arg)
{
	struct weir_gen gen;
	void *got = NULL;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_gen_open(&gen, &scope, sleep_then_yield, arg));
	{
		WEIR_SCOPE(impatient, WEIR_MS);
		ck_assert_int_eq(weir_gen_next(&gen, &got), -ETIME);
	}
	ck_assert_ptr_null(got);
	TRY(weir_sleep(10 * WEIR_MS)); /* the item has come in the meantime */
	ck_assert_int_eq(weir_gen_next(&gen, &got), 1);
	ck_assert_ptr_eq(got, arg);
	ck_assert_int_eq(weir_gen_next(&gen, &got), 0);
	return weir_scope_wait(&scope);
}

START_TEST(an_item_that_comes_late_is_the_next_calls)
{
	run_on(1, give_up_once, &made);
}
END_TEST

static int show_own(struct weir_gen *gen, void *arg)
{
	int item = 7; /* gone when this has returned */

	(void)arg;
	TRY(weir_sleep(2 * WEIR_MS));
	return weir_gen_yield(gen, &item);
}

static int ask_after_the_end(void *arg)
{
	struct weir_gen gen;
	void *got = arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_gen_open(&gen, &scope, show_own, NULL));
	{
		WEIR_SCOPE(impatient, WEIR_MS);
		ck_assert_int_eq(weir_gen_next(&gen, &got), -ETIME);
	}
	TRY(weir_sleep(10 * WEIR_MS));
	weir_scope_close(&scope);
	ck_assert_int_eq(weir_gen_next(&gen, &got), -ECANCELED);
	ck_assert_ptr_eq(got, arg);
	return 0;
}

START_TEST(an_item_nobody_fetched_is_withdrawn_when_its_maker_ends)
{
	run_on(1, ask_after_the_end, &made);
}
END_TEST

/* ---- Between the item and who it is for ------------------------------------------------------ */

static struct weir_gen shared;
static int answers[2], fetched[2];

static int ask_and_note(void *arg)
{
	intptr_t who = (intptr_t)arg;
	void *got = NULL;

	answers[who] = weir_gen_next(&shared, &got);
	fetched[who] = answers[who] == 1 ? *(int *)got : 0;
	return 0;
}

/* The second asks when the item is there, and the first has not run yet. */
static int make_for_the_first(struct weir_gen *gen, void *arg)
{
	int items[2] = { 11, 12 };

	TRY(weir_sleep(2 * WEIR_MS));
	TRY(weir_spawn(arg, ask_and_note, (void *)1));
	TRY(weir_gen_yield(gen, &items[0]));
	return weir_gen_yield(gen, &items[1]);
}

static int ask_in_turn(void *arg)
{
	WEIR_SCOPE(askers, WEIR_FOREVER);
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_gen_open(&shared, &scope, make_for_the_first, &askers));
	TRY(weir_spawn(&askers, ask_and_note, (void *)0));
	while (answers[1] == 0)
		TRY(weir_sleep(WEIR_MS));
	weir_scope_close(&scope);
	ck_assert_int_eq(answers[0], 1);
	ck_assert_int_eq(fetched[0], 11);
	ck_assert(answers[1] == -EBUSY || fetched[1] == 12);
	return 0;
}

START_TEST(an_item_is_for_who_has_waited)
{
	run_on(1, ask_in_turn, NULL);
}
END_TEST

/* Cancelled, it shows another item, cleans up for a while, and then says why it ends. */
static int yield_and_clean_up(struct weir_gen *gen, void *arg)
{
	int item = 1;

	(void)arg;
	yielded = weir_sleep(WEIR_SEC);
	yielded = weir_gen_yield(gen, &item);
	WEIR_SHIELD(shield, WEIR_SEC);
	(void)weir_sleep(2 * WEIR_MS);
	return -EPROTO;
}

static int items_seen, end_seen;

static int ask_to_the_end(void *arg)
{
	void *got;

	(void)arg;
	while ((end_seen = weir_gen_next(&shared, &got)) == 1)
		items_seen++;
	return 0;
}

/* Where the consumer is of a lower class it comes too late for the item; but not to an end. */
static int cancel_producer(void *arg)
{
	bool is_late = *(int *)arg;
	WEIR_SCOPE(others, WEIR_FOREVER);
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_gen_open(&shared, &scope, yield_and_clean_up, NULL));
	TRY(weir_spawn(&others, ask_to_the_end, NULL,
		       .priority = is_late ? WEIR_PRIORITY_BACKGROUND : WEIR_PRIORITY_NORMAL));
	TRY(weir_sleep(5 * WEIR_MS));
	weir_scope_close(&scope);
	TRY(weir_scope_wait(&others));
	ck_assert_int_eq(yielded, -ECANCELED);
	ck_assert_int_eq(end_seen, -EPROTO);
	ck_assert_int_le(items_seen, 1);
	if (!is_late)
		ck_assert_int_eq(items_seen, 1);
	return 0;
}

START_TEST(a_cancelled_generator_has_not_ended_before_it_has)
{
	run_on(1, cancel_producer, &_i);
}
END_TEST

/* Whatever cannot be had: it is not opened, or it works. */
static int lack_memory(void *arg)
{
	unsigned last = 1;

	(void)arg;
	for (uint64_t nth = 1; nth <= 4; nth++) {
		struct weir_gen gen;
		void *got;
		int err, answer = 1;
		WEIR_SCOPE(scope, WEIR_FOREVER);
		weir_mem_fail_after(nth);
		err = weir_gen_open(&gen, &scope, count_to, &last);
		if (err == 0)
			answer = weir_gen_next(&gen, &got);
		weir_mem_fail_after(0);
		ck_assert(err == 0 || err == -ENOMEM);
		ck_assert_int_eq(answer, 1);
	}
	return 0;
}

START_TEST(a_generator_that_was_opened_has_a_stack)
{
	run_on(1, lack_memory, NULL);
}
END_TEST

static int ask_too(void *arg)
{
	void *got;

	ck_assert_int_eq(weir_gen_next(arg, &got), weir_worker_index() == 0 ? -EBUSY : -EINVAL);
	ck_assert_int_eq(weir_gen_yield(arg, NULL), -EINVAL);
	return 0;
}

static int misuse(void *arg)
{
	struct weir_gen gen, none = { { NULL } };
	void *got;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	ck_assert_int_eq(weir_gen_next(&none, &got), -EINVAL);
	memset(&none, 0xff, sizeof none);
	ck_assert_int_eq(weir_gen_open(&none, &scope, NULL, arg), -EINVAL);
	ck_assert_int_eq(weir_gen_next(&none, &got), -EINVAL);
	TRY(weir_gen_open(&gen, &scope, sleep_then_yield, arg));
	TRY(weir_spawn(&scope, ask_too, &gen));
	TRY(weir_spawn(&scope, ask_too, &gen, .worker = WEIR_ON_WORKER(1)));
	ck_assert_int_eq(weir_gen_next(&gen, &got), 1);
	ck_assert_int_eq(weir_gen_next(&gen, &got), 0);
	return weir_scope_wait(&scope);
}

START_TEST(one_task_of_the_same_worker_asks)
{
	run_on(2, misuse, &made);
}
END_TEST

Suite *runtime_generator_suite(void)
{
	Suite *suite = suite_create("runtime_generator");
	TCase *turns = tcase_create("turns");

	tcase_set_tags(turns, "fast");
	tcase_set_timeout(turns, 20);
	tcase_add_test(turns, an_item_is_made_when_it_is_asked_for);
	tcase_add_test(turns, its_error_goes_to_who_asks_and_not_to_the_scope);
	tcase_add_test(turns, leaving_the_scope_ends_a_generator);
	tcase_add_test(turns, an_item_that_comes_late_is_the_next_calls);
	tcase_add_test(turns, an_item_nobody_fetched_is_withdrawn_when_its_maker_ends);
	tcase_add_test(turns, an_item_is_for_who_has_waited);
	tcase_add_loop_test(turns, a_cancelled_generator_has_not_ended_before_it_has, 0, 2);
	tcase_add_test(turns, a_generator_that_was_opened_has_a_stack);
	tcase_add_test(turns, one_task_of_the_same_worker_asks);
	suite_add_tcase(suite, turns);
	return suite;
}
