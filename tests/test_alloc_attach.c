/* SPDX-License-Identifier: MIT */
/* Heaps that change hands: a thread's own that becomes a worker's, and what goes with its owner. */
#include <check.h>
#include <stdlib.h>

#include <weir/weir.h>

#include "alloc/heap.h"

static int detach_in_a_task(void *home)
{
	ck_assert_ptr_eq(weir__home_self(), home);
	weir_thread_detach(); /* a worker's is the runtime's */
	ck_assert_ptr_eq(weir__home_self(), home);
	ck_assert_int_eq(weir_yield(), 0);
	weir_free(weir_alloc(100));
	ck_assert(!weir__home_self()->turns_itself); /* not between its tasks but amid one */
	return 0;
}

START_TEST(a_thread_that_was_attached_is_so_again_after_a_run)
{
	ck_assert_int_eq(weir_thread_attach(), 0);
	struct weir__home *home = weir__home_self();
	void *block = weir_alloc(100);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(weir_run(detach_in_a_task, home, .workers = 1), 0);
		ck_assert_ptr_eq(weir__home_self(), home);
		ck_assert(home->turns_itself);
		ck_assert_int_eq(home->worker, -1);
	}
	weir_free(block);
	weir_thread_detach();
	ck_assert_ptr_null(weir__home_self());
	ck_assert_uint_eq(home->owned, 0);
	ck_assert_int_eq(weir_run(detach_in_a_task, home, .workers = 1), 0); /* it is taken over */
	ck_assert_ptr_null(weir__home_self());
}
END_TEST

/* On one thread it would be another worker's heap that comes back. */
START_TEST(a_heap_that_rested_is_not_lent_on_a_stopped_clock)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
	struct weir__home *home = weir__home_self();
	int64_t now = weir__os_now();
	weir__heap_turn(now);
	(void)weir__heap_idle(now + 150 * WEIR__MS);
	ck_assert(home->rests);
	weir__heap_detach();
	ck_assert_int_eq(weir__heap_attach(), 0);
	ck_assert_ptr_eq(weir__home_self(), home);
	weir__heap_stop_clock();
	ck_assert_int_eq(weir__heap_idle(now + 300 * WEIR__MS), INT64_MAX);
	weir__heap_lend();
	ck_assert_ptr_eq(weir__home_self(), home);
	weir__heap_detach();
}
END_TEST

Suite *alloc_attach_suite(void)
{
	Suite *s = suite_create("alloc_attach");
	TCase *hands = tcase_create("hands");
	tcase_set_tags(hands, "fast");
	tcase_add_test(hands, a_thread_that_was_attached_is_so_again_after_a_run);
	tcase_add_test(hands, a_heap_that_rested_is_not_lent_on_a_stopped_clock);
	suite_add_tcase(s, hands);
	return s;
}
