/* SPDX-License-Identifier: MIT */
/* Objects that change place: what a move() that refuses, or does more than it should, brings about.
 */
#include <check.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/heap.h"

enum { SPANS = 20, PER_SPAN = 128, CELLS = SPANS * PER_SPAN, CELL_BYTES = 512 };
_Static_assert(PER_SPAN *CELL_BYTES == WEIR__UNIT_BYTES, "a span is full of them");

struct cell {
	unsigned number;
	unsigned char payload[CELL_BYTES - sizeof(unsigned)];
};

static weir_pool *pool;
static struct cell *cell[CELLS]; /* by address: PER_SPAN of each span */
static bool pinned[CELLS];
static unsigned asked, asked_pinned;

static int by_address(const void *a, const void *b)
{
	uintptr_t left = *(const uintptr_t *)a, right = *(const uintptr_t *)b;
	return (left > right) - (left < right);
}

static void fill(weir_move_fn move)
{
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = CELL_BYTES, .move = move), 0);
	for (unsigned i = 0; i < CELLS; i++)
		ck_assert_ptr_nonnull(cell[i] = weir_pool_get(pool));
	qsort(cell, CELLS, sizeof(*cell), by_address);
	for (unsigned i = 0; i < CELLS; i++) {
		cell[i]->number = i;
		memset(cell[i]->payload, (int)i, sizeof(cell[i]->payload));
	}
}

/* Keeps the first few of each span; of the first span so many. */
static void thin_out(unsigned of_the_first, unsigned of_each)
{
	for (unsigned i = 0; i < CELLS; i++) {
		if (i % PER_SPAN < (i < PER_SPAN ? of_the_first : of_each))
			continue;
		weir_pool_put(pool, cell[i]);
		cell[i] = NULL;
	}
}

static void expect_all_whole(void)
{
	unsigned there = 0;
	for (unsigned i = 0; i < CELLS; i++) {
		if (cell[i] == NULL)
			continue;
		ck_assert_uint_eq(cell[i]->number, i);
		ck_assert_uint_eq(cell[i]->payload[0], i & 0xff);
		ck_assert_uint_eq(cell[i]->payload[sizeof(cell[i]->payload) - 1], i & 0xff);
		there++;
	}
	const struct weir__bin *bin = &weir__home_self()->bins[pool->index];
	ck_assert_uint_eq(bin->out - weir__cache_count(&weir__heap_self->cache[pool->index]),
			  there);
	ck_assert_uint_eq(weir__reports, 0);
}

static uint32_t spans(void)
{
	return weir__home_self()->bins[pool->index].spans;
}

static void attach(void)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
	weir_mem_level_force(WEIR_MEM_NONE);
}

/* ---- One that refuses ----------------------------------------------------------------------- */

static bool move_unless_pinned(void *from, void *to, void *arg)
{
	struct cell *copy = to;
	(void)arg;
	asked++;
	ck_assert_ptr_eq(cell[copy->number], from);
	if (pinned[copy->number]) {
		asked_pinned++;
		return false;
	}
	cell[copy->number] = to;
	return true;
}

START_TEST(an_object_that_must_stay_keeps_no_other_span)
{
	attach();
	fill(move_unless_pinned);
	pinned[0] = true;
	thin_out(1, 4);
	ck_assert_uint_eq(spans(), SPANS);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	ck_assert_uint_eq(spans(), 2);
	ck_assert_uint_eq(asked_pinned, 1); /* once is enough */
	expect_all_whole();
}
END_TEST

START_TEST(objects_that_all_must_stay_are_asked_once_each)
{
	attach();
	fill(move_unless_pinned);
	memset(pinned, true, sizeof(pinned));
	thin_out(3, 3);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	ck_assert_uint_eq(spans(), SPANS);
	ck_assert_uint_le(asked, SPANS * 3);
	expect_all_whole();
}
END_TEST

/* ---- One that meddles ----------------------------------------------------------------------- */

static unsigned victim;

/* What it puts may be of the span that is being emptied, and the last of it. */
static bool move_and_put_others(void *from, void *to, void *arg)
{
	struct cell *copy = to;
	(void)arg;
	ck_assert_ptr_eq(cell[copy->number], from); /* it is in use */
	cell[copy->number] = to;
	for (int n = 0; n < 3 && victim < CELLS; victim++) {
		if (cell[victim] == NULL || cell[victim] == to)
			continue;
		weir_pool_put(pool, cell[victim]);
		cell[victim] = NULL;
		n++;
	}
	return true;
}

START_TEST(a_move_may_put_other_objects)
{
	attach();
	fill(move_and_put_others);
	thin_out(8, 8);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	expect_all_whole();
	for (unsigned i = 0; i < CELLS; i++) {
		weir_pool_put(pool, cell[i]);
		cell[i] = NULL;
	}
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_CRITICAL);
	ck_assert_uint_eq(spans(), 0);
	expect_all_whole();
}
END_TEST

static bool move_and_compact(void *from, void *to, void *arg)
{
	if (weir_mem_compact(SIZE_MAX, WEIR_MEM_CRITICAL) != 0)
		ck_abort_msg("a stage within a stage");
	weir_free(weir_alloc(1000));
	return move_unless_pinned(from, to, arg);
}

START_TEST(a_move_that_asks_for_compaction_is_contained)
{
	struct weir_mem_stats stats;
	attach();
	fill(move_and_compact);
	thin_out(3, 3);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	weir_mem_stats_get(&stats);
	ck_assert_uint_eq(stats.stages[WEIR_MEM_CRITICAL].runs, 0);
	ck_assert_uint_eq(spans(), 1);
	expect_all_whole();
}
END_TEST

/* ---- Whose objects -------------------------------------------------------------------------- */

static pthread_barrier_t meet;

static void *put_two_and_stay(void *unused)
{
	(void)unused;
	ck_assert_int_eq(weir_thread_attach(), 0);
	for (unsigned i = 0; i < 2; i++) { /* too few to be sent */
		weir_pool_put(pool, cell[i]);
		cell[i] = NULL;
	}
	pthread_barrier_wait(&meet);
	pthread_barrier_wait(&meet);
	return NULL;
}

START_TEST(objects_on_their_way_home_do_not_move)
{
	pthread_t thread;
	attach();
	fill(move_unless_pinned);
	thin_out(4, 4);
	pthread_barrier_init(&meet, NULL, 2);
	pthread_create(&thread, NULL, put_two_and_stay, NULL);
	pthread_barrier_wait(&meet);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	ck_assert_uint_eq(spans(), 2); /* of the first two wait */
	pthread_barrier_wait(&meet);
	pthread_join(thread, NULL);
	weir__heap_turn(weir__os_now());
	expect_all_whole();
	pthread_barrier_destroy(&meet);
}
END_TEST

static size_t count_reclaim(const struct weir_reclaim_request *request, void *calls)
{
	(void)request;
	++*(unsigned *)calls;
	return 0;
}

/* Who has no heap looks after those that nobody owns, under a lock. */
START_TEST(objects_of_a_heap_without_owner_do_not_move)
{
	weir_reclaimer *reclaimer;
	unsigned calls = 0;
	attach();
	ck_assert_int_eq(weir_reclaimer_add(&reclaimer, .fn = count_reclaim, .arg = &calls), 0);
	fill(move_unless_pinned);
	thin_out(4, 4);
	weir__heap_detach();
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_CRITICAL);
	ck_assert_uint_eq(asked, 0);
	ck_assert_uint_eq(calls, 0);
	weir_reclaimer_del(reclaimer);
}
END_TEST

/* ---- Threads that are no workers ------------------------------------------------------------ */

/* In the middle of a request it may hold locks, and objects that it has not put anywhere yet. */
static void *allocate_under_pressure(void *calls)
{
	static void *block[500];
	ck_assert_int_eq(weir_thread_attach(), 0);
	fill(move_unless_pinned);
	thin_out(3, 3);
	weir_mem_level_force(WEIR_MEM_HIGH);
	for (int i = 0; i < 500; i++)
		block[i] = weir_alloc(64 << 10); /* a miss each, and every 64th is a turn */
	struct weir_mem_stats stats;
	weir_mem_stats_get(&stats);
	ck_assert_uint_gt(stats.stages[WEIR_MEM_HIGH].runs, 0);
	ck_assert_uint_eq(*(unsigned *)calls, 0);
	ck_assert_uint_eq(asked, 0);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH); /* by its own will */
	ck_assert_uint_eq(*(unsigned *)calls, 1);
	ck_assert_uint_gt(asked, 0);
	expect_all_whole();
	for (int i = 0; i < 500; i++)
		weir_free(block[i]);
	weir_thread_detach();
	return NULL;
}

START_TEST(an_attached_thread_runs_others_code_when_it_asks_for_it_alone)
{
	pthread_t thread;
	weir_reclaimer *reclaimer;
	unsigned calls = 0;
	ck_assert_int_eq(weir_reclaimer_add(&reclaimer, .fn = count_reclaim, .arg = &calls), 0);
	weir_mem_level_force(WEIR_MEM_NONE);
	pthread_create(&thread, NULL, allocate_under_pressure, &calls);
	pthread_join(thread, NULL);
	weir_reclaimer_del(reclaimer);
}
END_TEST

Suite *alloc_move_suite(void)
{
	Suite *s = suite_create("alloc_move");
	TCase *moves = tcase_create("moves");
	tcase_set_tags(moves, "fast");
	tcase_add_test(moves, an_object_that_must_stay_keeps_no_other_span);
	tcase_add_test(moves, objects_that_all_must_stay_are_asked_once_each);
	tcase_add_test(moves, a_move_may_put_other_objects);
	tcase_add_test(moves, a_move_that_asks_for_compaction_is_contained);
	tcase_add_test(moves, objects_on_their_way_home_do_not_move);
	tcase_add_test(moves, objects_of_a_heap_without_owner_do_not_move);
	suite_add_tcase(s, moves);
	TCase *attached = tcase_create("attached");
	tcase_set_timeout(attached, 20);
	tcase_add_test(attached, an_attached_thread_runs_others_code_when_it_asks_for_it_alone);
	suite_add_tcase(s, attached);
	return s;
}
