/* SPDX-License-Identifier: MIT */
/* Memory getting short: levels, stages, reclaimers of all sorts, movable objects, the limit. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "alloc/heap.h"

static int64_t now;

static void attach(void)
{
	ck_assert_int_eq(weir__heap_attach(), 0);
	now = weir__os_now();
	weir_mem_level_force(WEIR_MEM_NONE); /* whatever this machine feels */
	weir__heap_turn(now);
}

static void pass(int64_t ms)
{
	weir__heap_turn(now += ms * WEIR__MS);
}

static struct weir_mem_stats stats(void)
{
	struct weir_mem_stats ret;
	weir_mem_stats_get(&ret);
	return ret;
}

static void limit(uint64_t bytes)
{
	struct weir__alloc_config config;
	weir__alloc_config_get(&config);
	config.mem_limit = bytes;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
}

/* ---- Levels --------------------------------------------------------------------------------- */

START_TEST(levels_rise_at_once_and_fall_one_by_one)
{
	const int64_t soon = 1000 * WEIR__MS, later = 2000 * WEIR__MS;
	ck_assert_uint_eq(weir__level_next(WEIR_MEM_NONE, 699, later), WEIR_MEM_NONE);
	ck_assert_uint_eq(weir__level_next(WEIR_MEM_NONE, 700, 0), WEIR_MEM_LOW);
	ck_assert_uint_eq(weir__level_next(WEIR_MEM_NONE, 970, 0), WEIR_MEM_CRITICAL);
	ck_assert_uint_eq(weir__level_next(WEIR_MEM_CRITICAL, 0, soon), WEIR_MEM_CRITICAL);
	ck_assert_uint_eq(weir__level_next(WEIR_MEM_CRITICAL, 0, later), WEIR_MEM_HIGH);
	ck_assert_uint_eq(weir__level_next(WEIR_MEM_MEDIUM, 799, later), WEIR_MEM_MEDIUM);
	ck_assert_uint_eq(weir__level_next(WEIR_MEM_MEDIUM, 750, later), WEIR_MEM_MEDIUM);
	ck_assert_uint_eq(weir__level_next(WEIR_MEM_MEDIUM, 749, later), WEIR_MEM_LOW);
}
END_TEST

START_TEST(a_steady_reading_never_oscillates)
{
	for (unsigned permille = 0; permille <= 1000; permille++) {
		uint32_t level = WEIR_MEM_NONE;
		unsigned changes = 0;
		for (int i = 0; i < 20; i++) {
			uint32_t next = weir__level_next(level, permille, 2000 * WEIR__MS);
			changes += next != level;
			level = next;
		}
		ck_assert_uint_le(changes, 1);
	}
}
END_TEST

static atomic_bool looked_enough;

static void *look_again_and_again(void *unused)
{
	int64_t time = weir__os_now();
	(void)unused;
	ck_assert_int_eq(weir__heap_attach(), 0);
	while (!looked_enough)
		weir__heap_turn(time += 3000 * WEIR__MS);
	weir__heap_detach();
	return NULL;
}

START_TEST(a_forced_level_is_not_overruled_by_a_look_under_way)
{
	pthread_t looker;
	ck_assert_int_eq(pthread_create(&looker, NULL, look_again_and_again, NULL), 0);
	for (int i = 0; i < 100; i++) {
		weir_mem_level_force(-1);
		for (int n = 0; n < 100 && weir_mem_level_get() == WEIR_MEM_CRITICAL; n++)
			sched_yield();
		weir_mem_level_force(WEIR_MEM_CRITICAL);
		sched_yield();
		if (weir_mem_level_get() != WEIR_MEM_CRITICAL)
			ck_abort_msg("round %d: level %d", i, (int)weir_mem_level_get());
	}
	looked_enough = true;
	pthread_join(looker, NULL);
}
END_TEST

START_TEST(stalls_of_all_tasks_count_for_more_than_those_of_some)
{
	char path[] = "/tmp/weir_stalls_XXXXXX";
	int fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_gt(dprintf(fd, "some avg10=2.60 avg60=0.00 avg300=0.00 total=1\n"
				     "full avg10=2.50 avg60=0.00 avg300=0.00 total=1\n"),
			 0);
	close(fd);
	strcpy(weir__stall_path, path);
	ck_assert_int_eq(weir__heap_attach(), 0);
	weir__heap_turn(weir__os_now());
	unlink(path);
	ck_assert_int_ge(weir_mem_level_get(), WEIR_MEM_MEDIUM); /* 832, and not 260 */
}
END_TEST

static void stall(const char *percent)
{
	FILE *file = fopen(weir__stall_path, "w");
	ck_assert_ptr_nonnull(file);
	fprintf(file, "some avg10=%s avg60=0.00 avg300=0.00 total=1\n", percent);
	fclose(file);
}

/* Not only two seconds after it has fallen. */
START_TEST(a_level_that_rose_stays_for_two_seconds)
{
	char path[] = "/tmp/weir_stalls_XXXXXX";
	int fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	close(fd);
	strcpy(weir__stall_path, path);
	ck_assert_int_eq(weir__heap_attach(), 0);
	now = weir__os_now();
	stall("9.80");
	pass(0);
	ck_assert_int_eq(weir_mem_level_get(), WEIR_MEM_CRITICAL);
	stall("0.00");
	pass(1000);
	ck_assert_int_eq(weir_mem_level_get(), WEIR_MEM_CRITICAL);
	pass(1000);
	ck_assert_int_eq(weir_mem_level_get(), WEIR_MEM_HIGH);
	pass(1000);
	ck_assert_int_eq(weir_mem_level_get(), WEIR_MEM_HIGH);
	unlink(path);
}
END_TEST

/* ---- Stages --------------------------------------------------------------------------------- */

enum { BLOCKS = 20000 };
static void *block[BLOCKS], *more[BLOCKS * 5];

static void fill_and_free(void)
{
	for (int i = 0; i < BLOCKS; i++)
		memset(block[i] = weir_alloc(1024), 1, 1024);
	for (int i = 0; i < BLOCKS; i++)
		weir_free(block[i]);
}

START_TEST(forced_compaction_leaves_next_to_nothing)
{
	attach();
	fill_and_free();
	ck_assert_uint_gt(stats().span_bytes, 15u << 20);
	size_t returned = weir_mem_compact(SIZE_MAX, WEIR_MEM_CRITICAL);
	ck_assert_uint_gt(returned, 15u << 20);
	ck_assert_uint_lt(stats().span_bytes, 1u << 20);
	ck_assert_uint_eq(stats().cached_bytes, 0);
	weir_free(weir_alloc(1024)); /* life goes on */
}
END_TEST

START_TEST(compaction_frees_more_with_every_level)
{
	uint64_t cached[WEIR_MEM_CRITICAL + 1];
	attach();
	for (int level = WEIR_MEM_NONE; level <= WEIR_MEM_CRITICAL; level++) {
		for (int i = 0; i < 3; i++) { /* grows the caches */
			fill_and_free();
			pass(100);
		}
		(void)weir_mem_compact(SIZE_MAX, (enum weir_mem_level)level);
		cached[level] = stats().cached_bytes;
	}
	ck_assert_uint_gt(cached[WEIR_MEM_NONE], 100u << 10);
	ck_assert_uint_eq(cached[WEIR_MEM_LOW], cached[WEIR_MEM_NONE]);
	ck_assert_uint_lt(cached[WEIR_MEM_MEDIUM], 16u << 10);
	ck_assert_uint_eq(cached[WEIR_MEM_HIGH], 0);
	ck_assert_uint_eq(cached[WEIR_MEM_CRITICAL], 0);
}
END_TEST

START_TEST(under_pressure_caches_do_not_grow)
{
	weir_pool *pool;
	attach();
	weir_mem_level_force(WEIR_MEM_LOW);
	pass(100);
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = 100), 0);
	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < 1000; i++)
			block[i] = weir_pool_get(pool);
		for (int i = 0; i < 1000; i++)
			weir_pool_put(pool, block[i]);
		pass(100);
	}
	ck_assert_uint_eq(weir__home_self()->bins[pool->index].resizes, 0);
}
END_TEST

START_TEST(a_level_is_acted_on_in_the_next_epoch_and_every_second)
{
	attach();
	fill_and_free();
	weir_mem_level_force(WEIR_MEM_HIGH);
	pass(100);
	ck_assert_uint_eq(stats().compactions, 1);
	ck_assert_uint_eq(stats().cached_bytes, 0);
	pass(500);
	ck_assert_uint_eq(stats().compactions, 1);
	pass(600);
	ck_assert_uint_eq(stats().compactions, 2);
	weir_mem_level_force(WEIR_MEM_NONE);
	pass(5000);
	ck_assert_uint_eq(stats().compactions, 2);
}
END_TEST

/* ---- Reclaimers ----------------------------------------------------------------------------- */

static struct {
	void *held[100];
	unsigned count, calls;
	enum weir_mem_level level;
	char order[8];
} app;

static void hold(void)
{
	while (app.count < 100)
		app.held[app.count++] = weir_alloc(64 << 10);
}

static size_t give_all(const struct weir_reclaim_request *request, void *arg)
{
	(void)arg;
	app.calls++;
	app.level = request->level;
	while (app.count > 0)
		weir_free(app.held[--app.count]);
	return 0; /* it does not even say so */
}

START_TEST(a_reclaimer_is_believed_by_its_effect)
{
	weir_reclaimer *r;
	attach();
	ck_assert_int_eq(weir_reclaimer_add(&r, .name = "held", .fn = give_all), 0);
	hold();
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_MEDIUM);
	ck_assert_uint_eq(app.calls, 0);
	size_t returned = weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	ck_assert_uint_eq(app.calls, 1);
	ck_assert_int_eq(app.level, WEIR_MEM_HIGH);
	ck_assert_uint_ge(stats().reclaimed_bytes, 100u * (64 << 10));
	ck_assert_uint_lt(stats().reclaimed_bytes, 110u * (64 << 10));
	(void)returned; /* its pages were never touched: there may be nothing to return */
	weir_reclaimer_del(r);
	hold();
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	ck_assert_uint_eq(app.calls, 1);
	weir_reclaimer_del(NULL);
}
END_TEST

static size_t note_contiguous(const struct weir_reclaim_request *request, void *arg)
{
	*(size_t *)arg = request->contiguous;
	return 0;
}

START_TEST(reclaimers_hear_of_the_largest_block_that_was_refused)
{
	weir_reclaimer *r;
	size_t heard[2] = { 1, 1 };
	attach();
	ck_assert_int_eq(weir_reclaimer_add(&r, .fn = note_contiguous, .arg = &heard[0]), 0);
	ck_assert_int_eq(weir_reclaimer_add(&r, .fn = note_contiguous, .arg = &heard[1]), 0);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	ck_assert_uint_eq(heard[0], 0);
	weir_mem_fail_after(1);
	ck_assert_ptr_null(weir_alloc(100));
	ck_assert_ptr_null(weir_alloc(3 << 20));
	ck_assert_ptr_null(weir_alloc(5000));
	weir_mem_fail_after(0);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	ck_assert_uint_eq(heard[0], 3 << 20);
	ck_assert_uint_eq(heard[1], 3 << 20);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	ck_assert_uint_eq(heard[0], 0);
}
END_TEST

/* As much as is wanted and no more. */
static size_t give_wanted(const struct weir_reclaim_request *request, void *arg)
{
	(void)arg;
	app.calls++;
	for (size_t freed = 0; freed < request->want && app.count > 0; freed += 64 << 10)
		weir_free(app.held[--app.count]);
	return 0;
}

START_TEST(each_call_by_hand_asks_for_what_it_wants)
{
	weir_reclaimer *r;
	attach();
	ck_assert_int_eq(weir_reclaimer_add(&r, .fn = give_wanted), 0);
	hold();
	for (unsigned call = 1; call <= 10; call++) {
		(void)weir_mem_compact(64 << 10, WEIR_MEM_HIGH);
		ck_assert_uint_eq(app.calls, call);
		ck_assert_uint_eq(app.count, 100 - call);
	}
	pass(100); /* this heap has done what was asked of all */
	ck_assert_uint_eq(app.count, 90);
}
END_TEST

static size_t lie(const struct weir_reclaim_request *request, void *arg)
{
	++*(unsigned *)arg;
	return request->want;
}

/* What one has freed the next is not asked for. */
static size_t note_want_and_give(const struct weir_reclaim_request *request, void *want)
{
	*(size_t *)want = request->want;
	weir_free(app.held[--app.count]);
	return 0;
}

START_TEST(reclaimers_are_asked_for_what_is_still_wanted)
{
	weir_reclaimer *r;
	size_t want[2] = { 0, 0 };
	attach();
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(weir_reclaimer_add(&r, .fn = note_want_and_give, .arg = &want[i],
						    .priority = i),
				 0);
	hold();
	(void)weir_mem_compact(100 << 10, WEIR_MEM_HIGH);
	ck_assert_uint_eq(want[0], 100 << 10);
	ck_assert_uint_eq(want[1], (100 - 64) << 10);
}
END_TEST

static size_t give_each_third_time(const struct weir_reclaim_request *request, void *arg)
{
	(void)request, (void)arg;
	if (++app.calls % 3 == 0)
		weir_free(app.held[--app.count]);
	return 0;
}

START_TEST(one_that_frees_something_now_and_then_is_asked_each_time)
{
	weir_reclaimer *r;
	attach();
	ck_assert_int_eq(weir_reclaimer_add(&r, .fn = give_each_third_time), 0);
	hold();
	for (unsigned call = 1; call <= 30; call++) {
		(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
		ck_assert_uint_eq(app.calls, call);
	}
}
END_TEST

/* Two workers see the same shortage; the second comes with the same question. */
START_TEST(pressure_asks_a_reclaimer_of_all_workers_once_a_second)
{
	weir_reclaimer *r;
	unsigned calls = 0, of_each = 0;
	attach();
	ck_assert_int_eq(weir_reclaimer_add(&r, .fn = lie, .arg = &calls), 0);
	ck_assert_int_eq(weir_reclaimer_add(&r, .fn = lie, .arg = &of_each, .every_worker = true),
			 0);
	weir_mem_level_force(WEIR_MEM_HIGH);
	pass(100);
	weir_mem_level_force(WEIR_MEM_CRITICAL);
	pass(100);
	ck_assert_uint_eq(calls, 1);
	ck_assert_uint_eq(of_each, 2);
	pass(1000);
	ck_assert_uint_eq(calls, 2);
}
END_TEST

START_TEST(one_that_frees_nothing_is_asked_less_and_less)
{
	weir_reclaimer *r;
	unsigned calls = 0;
	attach();
	ck_assert_int_eq(weir_reclaimer_add(&r, .fn = lie, .arg = &calls, .every_worker = true), 0);
	for (int i = 0; i < 100; i++)
		(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	ck_assert_uint_ge(calls, 3);
	ck_assert_uint_le(calls, 12);
	ck_assert_uint_eq(stats().reclaimed_bytes, 0);
}
END_TEST

static size_t misbehave(const struct weir_reclaim_request *request, void *arg)
{
	weir_reclaimer *other;
	(void)request;
	app.calls++;
	if (weir_alloc(100) != NULL || weir_alloc(100u << 20) != NULL ||
	    weir_alloc_aligned(128 << 10, 100) != NULL)
		app.order[0] = 'a';
	if (weir_mem_compact(SIZE_MAX, WEIR_MEM_CRITICAL) != 0)
		app.order[0] = 'c';
	if (weir_reclaimer_add(&other, .fn = misbehave) != -EBUSY)
		app.order[0] = 'r';
	nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	weir_reclaimer_del(*(weir_reclaimer **)arg);
	return SIZE_MAX;
}

START_TEST(one_that_allocates_reenters_sleeps_and_deletes_itself_is_contained)
{
	weir_reclaimer *r;
	attach();
	weir_free(weir_alloc(100)); /* the cache could serve */
	ck_assert_int_eq(weir_reclaimer_add(&r, .fn = misbehave, .arg = &r, .every_worker = true),
			 0);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	ck_assert_uint_eq(app.calls, 1);
	ck_assert_int_eq(app.order[0], '\0');
	ck_assert_uint_eq(stats().reclaim_overruns, 1);
	void *p = weir_alloc(100);
	ck_assert_ptr_nonnull(p);
	weir_free(p);
}
END_TEST

static size_t note(const struct weir_reclaim_request *request, void *arg)
{
	(void)request;
	app.order[app.calls++] = *(const char *)arg;
	return 0;
}

START_TEST(the_cheapest_to_lose_are_asked_first)
{
	weir_reclaimer *r;
	attach();
	ck_assert_int_eq(weir_reclaimer_add(&r, .fn = note, .arg = "b", .priority = 5), 0);
	ck_assert_int_eq(weir_reclaimer_add(&r, .fn = note, .arg = "c", .priority = 9), 0);
	ck_assert_int_eq(weir_reclaimer_add(&r, .fn = note, .arg = "a", .priority = -1), 0);
	ck_assert_int_eq(
		weir_reclaimer_add(&r, .fn = note, .arg = "x", .min_level = WEIR_MEM_CRITICAL), 0);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	ck_assert_str_eq(app.order, "abc");
}
END_TEST

START_TEST(options_without_a_function_are_refused)
{
	weir_reclaimer *r = NULL;
	ck_assert_int_eq(weir_reclaimer_add(&r, .name = "none"), -EINVAL);
	ck_assert_int_eq(weir_reclaimer_add_with(&r, NULL), -EINVAL);
	/* an older program's, which knows no more than this */
	struct weir_reclaimer_opts older = { .size = offsetof(struct weir_reclaimer_opts, arg),
					     .fn = note };
	ck_assert_int_eq(weir_reclaimer_add_with(&r, &older), 0);
	for (int i = 1; i < 64; i++)
		ck_assert_int_eq(weir_reclaimer_add(&r, .fn = note), 0);
	ck_assert_int_eq(weir_reclaimer_add(&r, .fn = note), -ENOSPC);
}
END_TEST

/* ---- Movable objects ------------------------------------------------------------------------ */

enum { MOVABLES = 8000, KEPT = 16 };

static struct movable {
	unsigned number;
	char payload[500];
} * object[MOVABLES];

static bool move(void *from, void *to, void *arg)
{
	struct movable *copy = to;
	ck_assert_ptr_eq(arg, object);
	if (object[copy->number] != from || copy->number % 64 == 0)
		return false; /* this one is pinned */
	object[copy->number] = to;
	return true;
}

START_TEST(movable_objects_are_gathered_and_the_rest_is_freed)
{
	weir_pool *pool;
	attach();
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = sizeof(struct movable),
				       .name = "movable", .move = move, .move_arg = object),
			 0);
	for (unsigned i = 0; i < MOVABLES; i++) {
		object[i] = weir_pool_get(pool);
		object[i]->number = i;
		memset(object[i]->payload, (int)i, sizeof(object[i]->payload));
	}
	for (unsigned i = 0; i < MOVABLES; i++) /* every span keeps a few */
		if (i % KEPT != 1) {
			weir_pool_put(pool, object[i]);
			object[i] = NULL;
		}
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_MEDIUM);
	uint32_t spans = weir__home_self()->bins[pool->index].spans;
	ck_assert_uint_gt(spans, 50);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	uint32_t gathered = weir__home_self()->bins[pool->index].spans;
	ck_assert_uint_lt(gathered * 4, spans);
	ck_assert_uint_gt(stats().moved, 100);
	for (unsigned i = 1; i < MOVABLES; i += KEPT) {
		ck_assert_uint_eq(object[i]->number, i);
		ck_assert_int_eq(object[i]->payload[499], (char)i);
		weir_pool_put(pool, object[i]);
	}
	weir_pool_free(pool);
}
END_TEST

/* ---- The limit ------------------------------------------------------------------------------ */

START_TEST(the_limit_is_kept_and_service_goes_on)
{
	enum { LIMIT = 64 << 20 };
	limit(LIMIT);
	attach();
	for (int round = 0; round < 5; round++) {
		size_t size = (size_t)1000 << (2 * round); /* other classes each time */
		int n = 0;
		while (n < BLOCKS && (block[n] = weir_alloc(size)) != NULL)
			memset(block[n++], 1, size);
		ck_assert_uint_le(weir__committed(), LIMIT);
		ck_assert(n == BLOCKS || (size_t)n * size > LIMIT / 2);
		while (n > 0)
			weir_free(block[--n]);
		pass(100);
	}
	ck_assert_ptr_null(weir_alloc(100u << 20));
	ck_assert_ptr_nonnull(weir_alloc(100));
}
END_TEST

START_TEST(nearing_the_limit_raises_the_level)
{
	limit(64 << 20);
	ck_assert_int_eq(weir__heap_attach(), 0);
	now = weir__os_now();
	pass(1000);
	ck_assert_int_lt(weir_mem_level_get(), WEIR_MEM_HIGH);
	for (int i = 0; i < 60; i++)
		block[i] = weir_alloc(1 << 20);
	pass(2000);
	ck_assert_int_ge(weir_mem_level_get(), WEIR_MEM_HIGH);
	ck_assert_uint_ge(stats().level_raises, 1);
	for (int i = 0; i < 60; i++)
		weir_free(block[i]);
	for (int i = 0; i < 10; i++)
		pass(2500);
	ck_assert_int_lt(weir_mem_level_get(), WEIR_MEM_HIGH);
}
END_TEST

START_TEST(a_refusal_has_the_level_looked_at_before_a_second_is_over)
{
	limit(64 << 20);
	ck_assert_int_eq(weir__heap_attach(), 0);
	now = weir__os_now();
	pass(1000); /* a look: there is enough */
	ck_assert_int_lt(weir_mem_level_get(), WEIR_MEM_HIGH);
	for (int i = 0; i < 60; i++)
		block[i] = weir_alloc(1 << 20);
	pass(100);
	ck_assert_int_lt(weir_mem_level_get(), WEIR_MEM_HIGH); /* not yet seen */
	ck_assert_ptr_null(weir_alloc(8 << 20));
	pass(100);
	ck_assert_int_ge(weir_mem_level_get(), WEIR_MEM_HIGH);
	for (int i = 0; i < 60; i++)
		weir_free(block[i]);
}
END_TEST

/* ---- A cgroup ------------------------------------------------------------------------------- */

static const struct {
	const char *directory, *limit;
} cgroups[] = { { "/sys/fs/cgroup/memory/weir_test", "memory.limit_in_bytes" },
		{ "/sys/fs/cgroup/weir_test", "memory.max" } };

static bool write_to(const char *directory, const char *file, const char *text)
{
	char path[200];
	snprintf(path, sizeof(path), "%s/%s", directory, file);
	int fd = open(path, O_WRONLY);
	bool written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	if (fd >= 0)
		close(fd);
	return written;
}

static void leave_cgroups(void) /* in the runner: the test's process is gone */
{
	rmdir(cgroups[0].directory);
	rmdir(cgroups[1].directory);
}

static bool enter_cgroup(const char *limit_text)
{
	for (int i = 0; i < 2; i++) {
		mkdir(cgroups[i].directory, 0755);
		if (write_to(cgroups[i].directory, cgroups[i].limit, limit_text) &&
		    write_to(cgroups[i].directory, "cgroup.procs", "0"))
			return true;
	}
	return false;
}

static const struct {
	const char *text;
	int version;
	const char *path;
} membership[] = {
	{ "0::/user.slice/a.service\n", 2, "/user.slice/a.service" },
	{ "4:cpu,cpuacct:/b\n2:memory:/a\n", 1, "/a" },
	{ "4:cpu,memory:/a\n1:name=systemd:/b\n", 1, "/a" },
	{ "4:memory,hugetlb:/a\n3:cpu:/b\n", 1, "/a" },
	{ "0::/b\n2:memory:/a\n", 1, "/a" },
	{ "2:memory:/a\n0::/b\n", 1, "/a" },
	{ "2:memory2:/b\n1:name=memory:/b\n0::/a:memory:/c\n", 2, "/a:memory:/c" },
	{ "1:name=systemd:/b\n", 0, NULL },
	{ "", 0, NULL },
	{ "\nmemory\n:\n0:", 0, NULL },
};

START_TEST(the_group_whose_memory_it_is_is_found_however_it_is_mounted)
{
	char text[100];
	const char *path = NULL;

	snprintf(text, sizeof(text), "%s", membership[_i].text);
	ck_assert_int_eq(weir__cgroup_find(text, &path), membership[_i].version);
	ck_assert_pstr_eq(path, membership[_i].path);
}
END_TEST

START_TEST(in_a_cgroup_of_64_mb_nothing_is_killed)
{
	if (!enter_cgroup("67108864")) {
		puts("skipped: no cgroup to be had");
		return;
	}
	ck_assert_int_eq(weir__heap_attach(), 0);
	now = weir__os_now();
	for (int round = 0; round < 5; round++) {
		size_t size = (size_t)1000 << (2 * round);
		pass(2000); /* looks at the cgroup */
		int n = 0;
		while (n < BLOCKS * 5 && (more[n] = weir_alloc(size)) != NULL)
			memset(more[n++], 1, size);
		ck_assert_int_lt(n, BLOCKS * 5); /* refused, not killed */
		ck_assert_uint_gt((size_t)n * size, 32u << 20);
		pass(2000);
		ck_assert_int_ge(weir_mem_level_get(), WEIR_MEM_HIGH);
		while (n > 0)
			weir_free(more[--n]);
		pass(20000);
	}
	ck_assert_ptr_nonnull(weir_alloc(1 << 20));
}
END_TEST

Suite *alloc_pressure_suite(void)
{
	Suite *s = suite_create("alloc_pressure");
	TCase *levels = tcase_create("levels");
	tcase_set_timeout(levels, 20);
	tcase_add_test(levels, levels_rise_at_once_and_fall_one_by_one);
	tcase_add_test(levels, a_steady_reading_never_oscillates);
	tcase_add_test(levels, a_forced_level_is_not_overruled_by_a_look_under_way);
	tcase_add_test(levels, stalls_of_all_tasks_count_for_more_than_those_of_some);
	tcase_add_test(levels, a_level_that_rose_stays_for_two_seconds);
	suite_add_tcase(s, levels);
	TCase *stages = tcase_create("stages");
	tcase_add_test(stages, forced_compaction_leaves_next_to_nothing);
	if (!WEIR__ASAN) { /* where caches do not grow anyway */
		tcase_add_test(stages, compaction_frees_more_with_every_level);
		tcase_add_test(stages, under_pressure_caches_do_not_grow);
	}
	tcase_add_test(stages, a_level_is_acted_on_in_the_next_epoch_and_every_second);
	suite_add_tcase(s, stages);
	TCase *reclaimers = tcase_create("reclaimers");
	tcase_add_test(reclaimers, a_reclaimer_is_believed_by_its_effect);
	tcase_add_test(reclaimers, each_call_by_hand_asks_for_what_it_wants);
	tcase_add_test(reclaimers, reclaimers_hear_of_the_largest_block_that_was_refused);
	tcase_add_test(reclaimers, reclaimers_are_asked_for_what_is_still_wanted);
	tcase_add_test(reclaimers, one_that_frees_something_now_and_then_is_asked_each_time);
	tcase_add_test(reclaimers, pressure_asks_a_reclaimer_of_all_workers_once_a_second);
	tcase_add_test(reclaimers, one_that_frees_nothing_is_asked_less_and_less);
	tcase_add_test(reclaimers,
		       one_that_allocates_reenters_sleeps_and_deletes_itself_is_contained);
	tcase_add_test(reclaimers, the_cheapest_to_lose_are_asked_first);
	tcase_add_test(reclaimers, options_without_a_function_are_refused);
	suite_add_tcase(s, reclaimers);
	TCase *movable = tcase_create("movable");
	tcase_add_test(movable, movable_objects_are_gathered_and_the_rest_is_freed);
	suite_add_tcase(s, movable);
	TCase *within = tcase_create("limit");
	tcase_set_timeout(within, 20);
	tcase_add_test(within, the_limit_is_kept_and_service_goes_on);
	tcase_add_test(within, nearing_the_limit_raises_the_level);
	tcase_add_test(within, a_refusal_has_the_level_looked_at_before_a_second_is_over);
	suite_add_tcase(s, within);
	TCase *cgroup = tcase_create("cgroup");
	tcase_set_timeout(cgroup, 20);
	tcase_add_unchecked_fixture(cgroup, NULL, leave_cgroups);
	if (!WEIR__ASAN && !WEIR__TSAN) /* whose own memory would not fit */
		tcase_add_test(cgroup, in_a_cgroup_of_64_mb_nothing_is_killed);
	tcase_add_loop_test(cgroup, the_group_whose_memory_it_is_is_found_however_it_is_mounted, 0,
			    sizeof(membership) / sizeof(*membership));
	suite_add_tcase(s, cgroup);
	return s;
}
