/* SPDX-License-Identifier: MIT */
/* Typed pools, and the counters that all pools have. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "alloc/heap.h"

static void attach(void)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
}

static struct weir_pool_stats stats_of(const char *name)
{
	static struct weir_pool_stats stats[WEIR__POOLS_MAX];
	size_t n = weir_pool_stats_get(stats, WEIR__POOLS_MAX);
	for (size_t i = 0; i < n; i++)
		if (strcmp(stats[i].name, name) == 0)
			return stats[i];
	return (struct weir_pool_stats){ .name = NULL };
}

START_TEST(objects_are_aligned_distinct_and_whole)
{
	enum { OBJECTS = 500 };
	static unsigned char *object[OBJECTS];
	weir_pool *pool;
	attach();
	for (size_t align = 16; align <= 4096; align *= 4)
		for (size_t bytes = 1; bytes <= 9000; bytes = bytes * 3 + 7) {
			ck_assert_int_eq(
				weir_pool_new(&pool, .object_bytes = bytes, .align = align), 0);
			for (int i = 0; i < OBJECTS; i++) {
				object[i] = weir_pool_get(pool);
				ck_assert_uint_eq((uintptr_t)object[i] % align, 0);
				memset(object[i], i & 0xff, bytes);
			}
			for (int i = 0; i < OBJECTS; i++) {
				ck_assert(object[i][0] == (i & 0xff));
				ck_assert(object[i][bytes - 1] == (i & 0xff));
				weir_pool_put(pool, object[i]);
			}
			weir_pool_free(pool);
		}
}
END_TEST

START_TEST(the_object_put_last_comes_first)
{
	weir_pool *pool;
	attach();
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = 200), 0);
	void *a = weir_pool_get(pool), *b = weir_pool_get(pool);
	weir_pool_put(pool, a);
	weir_pool_put(pool, b);
	ck_assert_ptr_eq(weir_pool_get(pool), b);
	ck_assert_ptr_eq(weir_pool_get(pool), a);
}
END_TEST

/*
 * What is allocated in a row lies in a row, but for the first few, which lie in the middle of a
 * page: before those below them, and before those behind.
 */
START_TEST(fresh_objects_come_in_the_order_of_their_addresses)
{
	enum { OBJECTS = 200 };
	char *object[OBJECTS];
	unsigned in_order = 0;
	weir_pool *pool;
	attach();
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = 64), 0);
	for (int i = 0; i < OBJECTS; i++) {
		object[i] = weir_pool_get(pool);
		in_order += i > 0 && object[i] == object[i - 1] + 64;
	}
	ck_assert_uint_ge(in_order, OBJECTS - 3);
	for (int i = 0; i < OBJECTS; i++)
		weir_pool_put(pool, object[i]);
}
END_TEST

START_TEST(options_that_make_no_sense_are_refused)
{
	weir_pool *pool = NULL, *largest;
	ck_assert_int_eq(weir_pool_new(&largest, .object_bytes = 512 << 10, .align = 4096), 0);
	weir_pool_free(largest);
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = 0), -EINVAL);
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = (512 << 10) + 1), -EINVAL);
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = 64, .align = 48), -EINVAL);
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = 64, .align = 8192), -EINVAL);
	ck_assert_int_eq(weir_pool_new_with(&pool, NULL), -EINVAL);
	ck_assert_ptr_null(pool);
	weir_pool_free(NULL);
}
END_TEST

/* Of an older program, which knows no .move; and of a newer one. */
START_TEST(options_of_other_versions_are_understood)
{
	struct {
		struct weir_pool_opts opts;
		void *unknown;
	} newer = { .opts = { .size = sizeof(newer), .object_bytes = 64 } };
	struct weir_pool_opts older = { .size = offsetof(struct weir_pool_opts, move),
					.object_bytes = 64,
					.move = (weir_move_fn)1 };
	weir_pool *pool = NULL;
	attach();
	ck_assert_int_eq(weir_pool_new_with(&pool, &older), 0);
	ck_assert_ptr_null((void *)weir__pools[pool->index].move);
	weir_pool_free(pool);
	ck_assert_int_eq(weir_pool_new_with(&pool, &newer.opts), 0);
	weir_pool_free(pool);
	newer.unknown = &newer;
	ck_assert_int_eq(weir_pool_new_with(&pool, &newer.opts), -E2BIG);
	older.size = 7;
	ck_assert_int_eq(weir_pool_new_with(&pool, &older), -EINVAL);
}
END_TEST

START_TEST(freed_pools_make_room_for_new_ones)
{
	weir_pool *pool[WEIR__POOLS_MAX];
	attach();
	for (int round = 0; round < 3; round++) {
		int n = 0;
		int err;
		while ((err = weir_pool_new(&pool[n], .object_bytes = 100)) == 0) {
			weir_pool_put(pool[n], weir_pool_get(pool[n]));
			n++;
		}
		ck_assert_int_eq(err, -ENOSPC);
		ck_assert_int_gt(n, 400);
		while (n > 0)
			weir_pool_free(pool[--n]);
	}
}
END_TEST

static void *get_and_put(void *pool)
{
	attach();
	weir_pool_put(pool, weir_pool_get(pool));
	weir__heap_detach();
	return NULL;
}

START_TEST(a_freed_pool_waits_for_the_heaps_that_have_memory_of_it)
{
	weir_pool *pool, *next;
	pthread_t thread;
	attach();
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = 100), 0);
	void *object = weir_pool_get(pool);
	pthread_create(&thread, NULL, get_and_put, pool);
	pthread_join(thread, NULL);
	uint32_t index = pool->index;
	weir_pool_free(pool); /* one object is still out: against the rules, but contained */
	ck_assert_int_eq(weir_pool_new(&next, .object_bytes = 200), 0);
	ck_assert_uint_ne(next->index, index);
	weir_free(object);
	weir__heap_turn(INT64_C(1) << 40);
	weir_pool *again;
	ck_assert_int_eq(weir_pool_new(&again, .object_bytes = 300, .name = "again"), 0);
	ck_assert_uint_eq(again->index, index);
	ck_assert_ptr_null(stats_of("again").name); /* its counters start anew */
}
END_TEST

struct holder {
	weir_pool *pool;
	pthread_barrier_t meet;
};

static void *hold_object(void *arg)
{
	struct holder *holder = arg;
	attach();
	void *object = weir_pool_get(holder->pool);
	pthread_barrier_wait(&holder->meet); /* it is out */
	pthread_barrier_wait(&holder->meet); /* the pool is freed */
	weir_free(object);
	weir__heap_detach();
	return NULL;
}

START_TEST(a_pool_freed_under_others_is_listed_without_its_name_until_they_are_through)
{
	struct holder holder;
	char name[] = "of the program";
	pthread_t thread;
	attach();
	ck_assert_int_eq(weir_pool_new(&holder.pool, .object_bytes = 100, .name = name), 0);
	pthread_barrier_init(&holder.meet, NULL, 2);
	ck_assert_int_eq(pthread_create(&thread, NULL, hold_object, &holder), 0);
	pthread_barrier_wait(&holder.meet);
	uint32_t index = holder.pool->index;
	weir_pool_free(holder.pool);
	memset(name, 'x', sizeof(name) - 1); /* it was lent until then */
	ck_assert_uint_eq(stats_of("freed pool").in_use, 1);
	weir_pool *next;
	ck_assert_int_eq(weir_pool_new(&next, .object_bytes = 100), 0);
	ck_assert_uint_ne(next->index, index);
	pthread_barrier_wait(&holder.meet);
	pthread_join(thread, NULL);
	weir_pool *again;
	ck_assert_int_eq(weir_pool_new(&again, .object_bytes = 300, .name = "again"), 0);
	ck_assert_uint_eq(again->index, index);
	ck_assert_ptr_null(stats_of("freed pool").name);
	pthread_barrier_destroy(&holder.meet);
}
END_TEST

START_TEST(the_figures_of_a_pool_are_not_those_of_who_had_its_place)
{
	enum { OBJECTS = 300 };
	void *object[OBJECTS];
	struct weir_mem_stats before, after;
	weir_pool *pool, *next;
	attach();
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = 64), 0);
	for (int i = 0; i < OBJECTS; i++)
		object[i] = weir_pool_get(pool);
	weir__heap_turn(INT64_C(1) << 40);
	for (int i = 0; i < OBJECTS; i++)
		weir_pool_put(pool, object[i]);
	uint32_t index = pool->index;
	weir__cache_resize(weir__home_self(), index, 10);
	weir_pool_free(pool);
	weir_mem_stats_get(&before);
	ck_assert_int_eq(weir_pool_new(&next, .object_bytes = 4096, .name = "next"), 0);
	ck_assert_uint_eq(next->index, index);
	weir_mem_stats_get(&after);
	/* what has been handed out has been, whatever its size is called now */
	ck_assert_uint_eq(after.allocs, before.allocs);
	ck_assert_uint_eq(after.misses, before.misses);
	ck_assert_uint_eq(after.allocated_bytes, before.allocated_bytes);
	weir_pool_put(next, weir_pool_get(next));
	ck_assert_uint_eq(stats_of("next").allocs, 1);
	ck_assert_uint_eq(stats_of("next").peak, 0); /* of the epochs so far; nothing is out now */
	ck_assert_uint_eq(stats_of("next").demand, 0);
	ck_assert_uint_eq(stats_of("next").resizes, 0);
	weir_pool_free(next);
	weir_pool_free(next);
	ck_assert_uint_eq(weir__reports, 1);
	weir__heap_turn(INT64_C(1) << 41);
	ck_assert_uint_eq(weir__pools_dead, 1);
}
END_TEST

/* They share a heap that nobody turns. */
static void *make_and_free_pools(void *unused)
{
	weir_pool *pool;
	(void)unused;
	for (int i = 0; i < 3 * WEIR__POOLS_MAX; i++) {
		ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = 100), 0);
		weir_pool_put(pool, weir_pool_get(pool));
		weir_pool_free(pool);
	}
	return NULL;
}

START_TEST(pools_of_threads_without_a_heap_make_room_for_new_ones)
{
	make_and_free_pools(NULL);
}
END_TEST

START_TEST(an_object_of_another_pool_is_reported_and_left_alone)
{
	weir_pool *a, *b;
	attach();
	ck_assert_int_eq(weir_pool_new(&a, .object_bytes = 100), 0);
	ck_assert_int_eq(weir_pool_new(&b, .object_bytes = 100), 0);
	char *object = weir_pool_get(a);
	object[0] = 3;
	weir_pool_put(b, object);
	weir_pool_put(a, object + 8);
	weir_pool_put(a, &object);
	ck_assert_uint_eq(weir__reports, 3);
	ck_assert_int_eq(object[0], 3);
	weir_pool_put(a, object);
	weir_pool_put(a, NULL);
	ck_assert_uint_eq(weir__reports, 3);
}
END_TEST

static void *put_elsewhere(void *arg)
{
	void **pool_and_object = arg;
	weir_pool_put(pool_and_object[0], pool_and_object[1]);
	return NULL;
}

START_TEST(an_object_put_by_a_foreign_thread_comes_home)
{
	weir_pool *pool;
	pthread_t thread;
	attach();
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = 5000, .name = "far"), 0);
	void *arg[2] = { pool, weir_pool_get(pool) };
	ck_assert_uint_eq(stats_of("far").in_use, 1);
	pthread_create(&thread, NULL, put_elsewhere, arg);
	pthread_join(thread, NULL);
	weir__heap_turn(1);
	ck_assert_uint_eq(stats_of("far").in_use, 0);
	ck_assert_uint_eq(stats_of("far").remote_frees, 1);
	ck_assert_ptr_eq(weir_pool_get(pool), arg[1]);
}
END_TEST

START_TEST(counters_say_what_happened)
{
	enum { OBJECTS = 1000 };
	static void *object[OBJECTS];
	weir_pool *pool;
	attach();
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = 96, .name = "counted"), 0);
	ck_assert_ptr_null(stats_of("counted").name); /* never used */
	for (int i = 0; i < OBJECTS; i++)
		object[i] = weir_pool_get(pool);
	struct weir_pool_stats stats = stats_of("counted");
	ck_assert_uint_eq(stats.object_bytes, 96);
	ck_assert_uint_eq(stats.allocs, OBJECTS);
	ck_assert_uint_eq(stats.in_use, OBJECTS);
	ck_assert_uint_ge(stats.misses, 1);
	ck_assert_uint_le(stats.misses, OBJECTS);
	for (int i = 0; i < OBJECTS; i++)
		weir_pool_put(pool, object[i]);
	stats = stats_of("counted");
	ck_assert_uint_eq(stats.in_use, 0);
	ck_assert_uint_le(stats.cached, stats.capacity);
	uint64_t misses = stats.misses;
	for (int i = 0; i < 100000; i++)
		weir_pool_put(pool, weir_pool_get(pool));
	stats = stats_of("counted");
	ck_assert_uint_eq(stats.allocs, OBJECTS + 100000);
	ck_assert_uint_eq(stats.misses, misses); /* a warm pair never misses */
}
END_TEST

START_TEST(get_fails_when_it_is_told_to)
{
	weir_pool *pool;
	attach();
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = 96), 0);
	weir_pool_put(pool, weir_pool_get(pool));
	weir_mem_fail_after(1);
	ck_assert_ptr_null(weir_pool_get(pool));
	weir_pool *other = NULL;
	ck_assert_int_eq(weir_pool_new(&other, .object_bytes = 96), -ENOMEM);
	ck_assert_ptr_null(other);
	weir_mem_fail_after(0);
	ck_assert_ptr_nonnull(weir_pool_get(pool));
}
END_TEST

Suite *alloc_pool_suite(void)
{
	Suite *s = suite_create("alloc_pool");
	TCase *objects = tcase_create("objects");
	tcase_set_tags(objects, "fast");
	tcase_add_test(objects, objects_are_aligned_distinct_and_whole);
	tcase_add_test(objects, the_object_put_last_comes_first);
	tcase_add_test(objects, fresh_objects_come_in_the_order_of_their_addresses);
	tcase_add_test(objects, an_object_of_another_pool_is_reported_and_left_alone);
	tcase_add_test(objects, an_object_put_by_a_foreign_thread_comes_home);
	tcase_add_test(objects, get_fails_when_it_is_told_to);
	suite_add_tcase(s, objects);
	TCase *pools = tcase_create("pools");
	tcase_set_tags(pools, "fast");
	tcase_add_test(pools, options_that_make_no_sense_are_refused);
	tcase_add_test(pools, options_of_other_versions_are_understood);
	tcase_add_test(pools, freed_pools_make_room_for_new_ones);
	tcase_add_test(pools, a_freed_pool_waits_for_the_heaps_that_have_memory_of_it);
	tcase_add_test(pools,
		       a_pool_freed_under_others_is_listed_without_its_name_until_they_are_through);
	tcase_add_test(pools, the_figures_of_a_pool_are_not_those_of_who_had_its_place);
	tcase_add_test(pools, pools_of_threads_without_a_heap_make_room_for_new_ones);
	tcase_add_test(pools, counters_say_what_happened);
	suite_add_tcase(s, pools);
	return s;
}
