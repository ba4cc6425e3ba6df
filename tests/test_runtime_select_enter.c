/* SPDX-License-Identifier: MIT */
/*
 * weir_select() over a source of the test's own: what comes about while its cases are entered, one
 * after the other.
 */
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "runtime/wait.h"
#include "tests/runtime_test.h"

static struct weir_notify bell;

enum { OWN_CASES = 12 };

/* Ready by the time it is entered, all of them: only the first is. */
static bool own_poll(struct weir__worker *self, struct weir_case *wanted)
{
	(void)self;
	(void)wanted;
	return false;
}

static bool own_enter(struct weir__worker *self, struct weir_case *wanted,
		      struct weir__waiter *waiter)
{
	(void)self;
	ck_assert(weir__claim_self(waiter));
	wanted->result = 7;
	return true;
}

static unsigned own_left;

/* As weir__waiter_leave() looks at each, those behind the one that was taken too. */
static void own_leave(struct weir__worker *self, struct weir_case *wanted,
		      struct weir__waiter *waiter)
{
	(void)self;
	(void)wanted;
	expect(atomic_load(&waiter->place) == WEIR__PLACE_OUT);
	own_left++;
}

static const struct weir__waitable own_source = { .poll = own_poll,
						  .enter = own_enter,
						  .leave = own_leave };

static int take_while_entering(void *arg)
{
	size_t bytes = OWN_CASES * sizeof(struct weir__waiter);
	struct weir_case cases[OWN_CASES];

	(void)arg;
	for (unsigned n = 0; n < 2 * OWN_CASES; n++) {
		/* the waiters' memory is like that of waiters in a queue */
		void *block = weir_alloc_aligned(_Alignof(struct weir__waiter), bytes);
		memset(block, WEIR__PLACE_IN, bytes);
		weir_free(block);
		for (unsigned i = 0; i < OWN_CASES; i++)
			cases[i] = (struct weir_case){ .source_ = &own_source };
		own_left = 0;
		int which = weir_select(cases, OWN_CASES);
		TRY(which);
		ck_assert_int_eq(cases[which].result, 7);
		ck_assert_uint_eq(own_left, OWN_CASES);
	}
	return 0;
}

/* The bell rings when this case has been taken, and may wait in the bell's queue or not yet. */
static bool ring_and_enter(struct weir__worker *self, struct weir_case *wanted,
			   struct weir__waiter *waiter)
{
	bool is_taken = own_enter(self, wanted, waiter);

	weir_notify_one(&bell);
	return is_taken;
}

static const struct weir__waitable ringing_source = { .poll = own_poll, .enter = ring_and_enter };

/* Takes the case of `source` while the bell rings, then finds that the notification is kept. */
static void take_while_it_rings(const struct weir__waitable *source)
{
	struct weir_case cases[] = { weir_case_notify(&bell), { .source_ = source } };

	ck_assert_int_eq(weir_select(cases, 2), 1);
	ck_assert_int_eq(cases[1].result, 7);
	ck_assert_int_eq(weir_select_try(cases, 1), 0);
	ck_assert_int_eq(weir_select_try(cases, 1), -EAGAIN);
}

static int hear_later(void *arg)
{
	(void)arg;
	weir_notify_init(&bell);
	for (unsigned n = 0; n < 2 * OWN_CASES; n++)
		take_while_it_rings(&ringing_source);
	weir_notify_done(&bell);
	return 0;
}

START_TEST(a_notification_that_meets_a_select_that_is_over_is_kept)
{
	run_on(1, hear_later, NULL);
}
END_TEST

static _Atomic(struct weir__waiter *) to_be_granted;

/* On another worker, which rings for nobody then. */
static int grant_and_ring(void *arg)
{
	struct weir__waiter *waiter;

	(void)arg;
	while ((waiter = to_be_granted) == NULL)
		sched_yield();
	ck_assert(weir__claim(weir__worker_self(), waiter));
	waiter->result = 7;
	weir__wake(waiter->task);
	weir_notify_one(&bell);
	to_be_granted = NULL;
	return 0;
}

static bool be_granted_and_enter(struct weir__worker *self, struct weir_case *wanted,
				 struct weir__waiter *waiter)
{
	(void)self;
	(void)wanted;
	to_be_granted = waiter;
	while (to_be_granted)
		sched_yield();
	return false;
}

static const struct weir__waitable granted_source = { .poll = own_poll,
						      .enter = be_granted_and_enter };

static int hear_after_a_grant(void *arg)
{
	(void)arg;
	weir_notify_init(&bell);
	for (unsigned n = 0; n < 2 * OWN_CASES; n++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		TRY(weir_spawn(&scope, grant_and_ring, NULL, .worker = WEIR_ON_WORKER(1)));
		take_while_it_rings(&granted_source);
		TRY(weir_scope_wait(&scope));
	}
	weir_notify_done(&bell);
	return 0;
}

START_TEST(a_select_that_was_granted_while_entering_leaves_the_notification)
{
	run_on(2, hear_after_a_grant, NULL);
}
END_TEST

START_TEST(a_case_that_was_not_reached_is_in_no_queue)
{
	run_on(1, take_while_entering, NULL);
}
END_TEST

Suite *runtime_select_enter_suite(void)
{
	Suite *suite = suite_create("runtime_select_enter");
	TCase *alone = tcase_create("alone");
	TCase *threads = tcase_create("threads");

	tcase_set_tags(alone, "fast");
	tcase_set_timeout(alone, 10);
	tcase_add_test(alone, a_case_that_was_not_reached_is_in_no_queue);
	tcase_add_test(alone, a_notification_that_meets_a_select_that_is_over_is_kept);
	suite_add_tcase(suite, alone);

	tcase_set_tags(threads, "fast real"); /* two at once */
	tcase_set_timeout(threads, 10);
	tcase_add_test(threads, a_select_that_was_granted_while_entering_leaves_the_notification);
	suite_add_tcase(suite, threads);
	return suite;
}
