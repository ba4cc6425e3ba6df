/* SPDX-License-Identifier: MIT */
/*
 * Everything at once: workers, attached threads and threads without a heap come and go, hand blocks
 * to each other, resize, compact and turn, with a pattern in every block and the seed in every
 * message. At debug level 2 the allocator's own patterns and canaries are there too. `make soak`
 * lets it go on for a minute a level.
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "alloc/heap.h"

enum { THREADS = 6, LIVES = 3, OPS = 15000, BOXES = 256 };
enum kind { WORKER, ATTACHED, FOREIGN, KINDS };

struct parcel {
	size_t size;
	unsigned char payload[];
};

static struct parcel *_Atomic boxes[BOXES];
static weir_pool *pool;
static unsigned seed;
static time_t soak_until;

static unsigned char pattern(size_t size)
{
	return (unsigned char)(size * 31);
}

static struct parcel *pack(size_t payload_bytes)
{
	size_t size = sizeof(struct parcel) + payload_bytes;
	struct parcel *parcel = weir_alloc(size);
	if (parcel == NULL)
		ck_abort_msg("seed %u: out of memory", seed);
	parcel->size = size;
	memset(parcel->payload, pattern(size), payload_bytes);
	return parcel;
}

static void verify(const struct parcel *parcel)
{
	size_t last = parcel->size - sizeof(*parcel) - 1;
	unsigned char want = pattern(parcel->size);
	if (parcel->payload[0] != want || parcel->payload[last / 2] != want ||
	    parcel->payload[last] != want)
		ck_abort_msg("seed %u: %zu bytes overwritten", seed, parcel->size);
}

static void exchange(unsigned *state)
{
	bool large = rand_r(state) % 50 == 0;
	struct parcel *parcel = pack(1 + (size_t)rand_r(state) % (large ? 200000 : 3000));
	parcel = atomic_exchange(&boxes[rand_r(state) % BOXES], parcel);
	if (parcel == NULL)
		return;
	verify(parcel);
	if (rand_r(state) % 4 == 0) {
		parcel = weir_realloc(parcel, parcel->size + 500);
		verify(parcel);
	}
	weir_free(parcel);
}

static void live_once(enum kind kind, unsigned *state)
{
	for (int i = 0; i < OPS; i++) {
		exchange(state);
		if (i % 3 == 0)
			weir_pool_put(pool, memset(weir_pool_get(pool), 1, 120));
		if (kind != FOREIGN && i % 200 == 0)
			weir__heap_turn(weir__os_now());
		if (kind == WORKER && i % 5000 == 0)
			(void)weir_mem_compact(1 << 20,
					       i % 2 == 0 ? WEIR_MEM_HIGH : WEIR_MEM_CRITICAL);
	}
}

static void *live(void *arg)
{
	enum kind kind = (enum kind)((uintptr_t)arg % KINDS);
	unsigned state = seed + (unsigned)(uintptr_t)arg;
	for (int i = 0; i < LIVES || time(NULL) < soak_until; i++) {
		if (kind != FOREIGN)
			ck_assert_int_eq(
				kind == WORKER ? weir__heap_attach() : weir_thread_attach(), 0);
		live_once(kind, &state);
		if (kind == WORKER) {
			(void)weir__heap_idle(weir__os_now());
			weir__heap_detach();
		} else if (kind == ATTACHED) {
			weir_thread_detach();
		}
	}
	return NULL;
}

static uint64_t blocks_in_use(void)
{
	static struct weir_pool_stats stats[WEIR__POOLS_MAX];
	uint64_t sum = 0;
	for (size_t i = weir_pool_stats_get(stats, WEIR__POOLS_MAX); i-- > 0;)
		sum += stats[i].in_use;
	return sum;
}

START_TEST(threads_of_all_kinds_lose_and_corrupt_nothing)
{
	pthread_t thread[THREADS];
	struct weir__alloc_config config;
	seed = (unsigned)time(NULL);
	const char *soak = getenv("WEIR_SOAK_SECONDS");
	soak_until = soak == NULL ? 0 : time(NULL) + atoi(soak);
	weir__alloc_config_get(&config);
	config.debug = (uint32_t)_i;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = 120), 0);
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&thread[i], NULL, live, (void *)i);
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	for (int i = 0; i < BOXES; i++)
		weir_free(boxes[i]);
	ck_assert_int_eq(weir__heap_attach(), 0);
	(void)weir__heap_idle(weir__os_now() + (INT64_C(1) << 40)); /* all heaps take theirs home */
	if (weir__reports != 0)
		ck_abort_msg("seed %u: %lu reports", seed, (unsigned long)weir__reports);
	if (config.debug == 0 && blocks_in_use() != 0) /* else some wait in quarantine */
		ck_abort_msg("seed %u: %lu blocks lost", seed, (unsigned long)blocks_in_use());
	ck_assert_uint_eq(weir_mem_leaks(-1), 0);
}
END_TEST

Suite *alloc_stress_suite(void)
{
	Suite *s = suite_create("alloc_stress");
	TCase *t = tcase_create("churn");
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, threads_of_all_kinds_lose_and_corrupt_nothing, 0, 3);
	suite_add_tcase(s, t);
	return s;
}
