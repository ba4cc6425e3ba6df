/* SPDX-License-Identifier: MIT */
/* How memory goes back and where it comes from: what the options do, as the kernel sees it. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "alloc/heap.h"
#include "tests/rollup.h"

enum { BLOCKS = 32, BLOCK_BYTES = 1 << 20 };

static int64_t now;

static void attach(uint32_t purge, uint32_t huge_pages, uint32_t numa)
{
	struct weir__alloc_config config;
	weir__alloc_config_get(&config);
	config.purge = purge;
	config.huge_pages = huge_pages;
	config.numa = numa;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
	ck_assert_int_eq(weir__heap_attach(), 0);
	now = weir__os_now();
	weir_mem_level_force(WEIR_MEM_NONE);
	weir__heap_turn(now);
}

/* Of what lies there; elsewhere a system that is set to `always` has some, too. */
static size_t huge_bytes(const void *address, size_t bytes)
{
	unsigned long begin, end, kib;
	uintptr_t from = (uintptr_t)address;
	bool is_there = false;
	size_t sum = 0;
	char line[256];
	FILE *file = fopen("/proc/self/smaps", "r");
	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file) != NULL)
		if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
			is_there = begin < from + bytes && end > from;
		else if (is_there && sscanf(line, "AnonHugePages: %lu kB", &kib) == 1)
			sum += kib * 1024;
	fclose(file);
	return sum;
}

static struct weir_mem_stats stats(void)
{
	struct weir_mem_stats ret;
	weir_mem_stats_get(&ret);
	return ret;
}

static void use_and_free(void)
{
	static char *block[BLOCKS];
	for (int i = 0; i < BLOCKS; i++)
		memset(block[i] = weir_alloc(BLOCK_BYTES), i, BLOCK_BYTES);
	for (int i = 0; i < BLOCKS; i++) {
		ck_assert_int_eq(block[i][0], i);
		ck_assert_int_eq(block[i][BLOCK_BYTES - 1], i);
		weir_free(block[i]);
	}
}

/* Until the heap wants to sleep for good. */
static void idle(void)
{
	int64_t next = weir__heap_idle(now);
	for (unsigned wakes = 0; next != INT64_MAX; wakes++) {
		ck_assert_uint_lt(wakes, 200);
		next = weir__heap_idle(now = next);
	}
}

/* ---- Purging -------------------------------------------------------------------------------- */

START_TEST(what_is_purged_is_gone_at_once)
{
	attach(WEIR__PURGE_DONTNEED, WEIR__HUGE_NEVER, WEIR__NUMA_NONE);
	size_t before = rollup("Anonymous");
	use_and_free();
	idle();
	ck_assert_uint_lt(rollup("Anonymous"), before + (2 << 20));
	ck_assert_uint_eq(rollup("LazyFree"), 0);
	ck_assert_uint_ge(stats().os_purged_bytes, BLOCKS * (size_t)BLOCK_BYTES);
	ck_assert_uint_eq(stats().kept_bytes, 0);
}
END_TEST

START_TEST(what_is_released_stays_until_the_kernel_or_pressure_wants_it)
{
	attach(WEIR__PURGE_FREE, WEIR__HUGE_NEVER, WEIR__NUMA_NONE);
	size_t before = rollup("Anonymous");
	use_and_free();
	idle();
	ck_assert_uint_ge(stats().kept_bytes, (BLOCKS - 1) * (size_t)BLOCK_BYTES);
	ck_assert_uint_ge(rollup("LazyFree") * 2, BLOCKS * (size_t)BLOCK_BYTES); /* some is taken */
	use_and_free(); /* as good as new */
	ck_assert_uint_lt(stats().kept_bytes, 2 << 20);
	idle();
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_MEDIUM);
	ck_assert_uint_eq(stats().kept_bytes, 0);
	ck_assert_uint_eq(rollup("LazyFree"), 0);
	ck_assert_uint_lt(rollup("Anonymous"), before + (2 << 20));
}
END_TEST

START_TEST(a_clean_run_is_no_reason_to_wake_up)
{
	attach(WEIR__PURGE_DONTNEED, WEIR__HUGE_NEVER, WEIR__NUMA_NONE);
	struct weir__home *home = weir__home_self();
	void *old = weir_alloc(10 << 20), *fence = weir_alloc(BLOCK_BYTES);
	void *young = weir_alloc(5 << 20), *end = weir_alloc(BLOCK_BYTES);
	weir_free(old);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH); /* it is a free run, and clean */
	ck_assert_uint_eq(home->dirty_units, 0);
	ck_assert_int_eq(weir__runs_due(home, 5000 * WEIR__MS), WEIR__NEVER);
	weir__heap_turn(now += 1000 * WEIR__MS);
	weir_free(young);
	weir__cache_flush(home, weir__class_pool(5 << 20), 1);
	ck_assert_uint_gt(home->dirty_units, 0);
	ck_assert_int_eq(weir__runs_due(home, 5000 * WEIR__MS), now + 5000 * WEIR__MS);
	weir_free(fence);
	weir_free(end);
}
END_TEST

/* What lies before and behind an aligned block was never anybody's. */
START_TEST(around_an_aligned_block_there_is_nothing_to_give_back)
{
	attach(WEIR__PURGE_DONTNEED, WEIR__HUGE_NEVER, WEIR__NUMA_NONE);
	void *first = weir_alloc(100);
	char *aligned = weir_alloc_aligned(2 << 20, 100);
	ck_assert_uint_eq(stats().free_bytes, 0);
	weir_free(aligned);
	weir__cache_flush(weir__home_self(), weir__class_pool(WEIR__UNIT_BYTES + 1), 1);
	ck_assert_uint_eq(stats().free_bytes, 128 << 10); /* what it was, no more */
	weir_free(first);
}
END_TEST

START_TEST(locked_memory_is_given_back_as_well)
{
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0) {
		puts("skipped: no memory may be locked here");
		return;
	}
	attach(_i == 0 ? WEIR__PURGE_DONTNEED : WEIR__PURGE_FREE, WEIR__HUGE_NEVER,
	       WEIR__NUMA_NONE);
	size_t before = rollup("Anonymous");
	use_and_free();
	ck_assert_uint_ge(weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH), BLOCKS * (size_t)BLOCK_BYTES);
	if (!WEIR__ASAN && !WEIR__TSAN) /* whose shadows count, too */
		ck_assert_uint_lt(rollup("Anonymous"), before + BLOCKS / 2 * (size_t)BLOCK_BYTES);
}
END_TEST

/* ---- Huge pages ----------------------------------------------------------------------------- */

static bool has_huge_pages(void)
{
	char text[100] = "";
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
	bool known = file != NULL && fgets(text, sizeof(text), file) != NULL;
	if (file != NULL)
		fclose(file);
	if (!known || strstr(text, "[never]") != NULL)
		puts("skipped: no huge pages here");
	return known && strstr(text, "[never]") == NULL;
}

START_TEST(huge_pages_are_used_and_given_back_whole)
{
	if (!has_huge_pages())
		return;
	attach(WEIR__PURGE_DONTNEED, WEIR__HUGE_ALWAYS, WEIR__NUMA_NONE);
	size_t before = rollup("Anonymous");
	use_and_free();
	ck_assert_uint_ge(rollup("AnonHugePages"), BLOCKS * (size_t)BLOCK_BYTES / 2);
	void *fence = weir_alloc(BLOCK_BYTES / 2);
	memset(fence, 1, BLOCK_BYTES / 2);
	idle();
	size_t left = rollup("Anonymous") - before;
	ck_assert_uint_lt(left, 5 << 20);
	ck_assert_uint_eq(rollup("AnonHugePages") % WEIR__HUGE_BYTES, 0);
	ck_assert_uint_gt(stats().kept_bytes, 0); /* beside the fence: giving it back would split */
	ck_assert_uint_lt(stats().kept_bytes, WEIR__HUGE_BYTES);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_MEDIUM);
	ck_assert_uint_eq(stats().kept_bytes, 0);
	ck_assert_uint_lt(rollup("Anonymous") - before, left);
	weir_free(fence);
}
END_TEST

/* Both ends of the run are inside of a huge page, whose other part is in use. */
START_TEST(no_huge_page_is_split)
{
	if (!has_huge_pages())
		return;
	attach(WEIR__PURGE_DONTNEED, WEIR__HUGE_ALWAYS, WEIR__NUMA_NONE);
	const size_t odd = WEIR__HUGE_BYTES / 2;
	char *before = weir_alloc(odd), *run = weir_alloc(7 * odd), *behind = weir_alloc(odd);
	memset(before, 1, odd);
	memset(run, 1, 7 * odd);
	memset(behind, 1, odd);
	size_t had = huge_bytes(before, 9 * odd);
	weir_free(run);
	idle();
	uintptr_t from = ((uintptr_t)run + WEIR__HUGE_BYTES - 1) & -(uintptr_t)WEIR__HUGE_BYTES;
	uintptr_t to = ((uintptr_t)run + 7 * odd) & -(uintptr_t)WEIR__HUGE_BYTES;
	size_t left = huge_bytes(before, 9 * odd);
	ck_assert_uint_lt(left, had);
	ck_assert_uint_le(had - left, to - from); /* less, where the kernel had no more */
	ck_assert_uint_gt(stats().kept_bytes, 0);
	weir_free(before);
	weir_free(behind);
}
END_TEST

START_TEST(huge_pages_can_be_for_large_blocks_alone)
{
	enum { LARGE = 64 << 20 };
	if (!has_huge_pages())
		return;
	attach(WEIR__PURGE_DONTNEED, WEIR__HUGE_LARGE, WEIR__NUMA_NONE);
	const struct weir__heap *heap = &weir__home_self()->heap;
	use_and_free();
	ck_assert_uint_eq(huge_bytes((void *)heap->window, heap->window_bytes), 0);
	char *block = weir_alloc(LARGE);
	memset(block, 1, LARGE);
	ck_assert_uint_ge(huge_bytes(block, LARGE), LARGE / 2);
	weir_free(block);
}
END_TEST

/* ---- Nodes ---------------------------------------------------------------------------------- */

static bool policy_of_window(char *ret, int room)
{
	char line[512];
	unsigned long address;
	FILE *file = fopen("/proc/self/numa_maps", "r");
	if (file == NULL)
		puts("skipped: a kernel without NUMA");
	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		if (sscanf(line, "%lx", &address) == 1 && address == weir__heap_self->window) {
			snprintf(ret, (size_t)room, "%s", strchr(line, ' ') + 1);
			fclose(file);
			return true;
		}
	if (file != NULL)
		fclose(file);
	return false;
}

static const struct {
	uint32_t numa;
	const char *policy;
} placement[] = {
	{ WEIR__NUMA_NONE, "default" },
	{ WEIR__NUMA_LOCAL, "prefer" },
	{ WEIR__NUMA_INTERLEAVE, "interleave:" },
};

START_TEST(the_kernel_is_told_where_memory_should_come_from)
{
	char policy[512];
	attach(WEIR__PURGE_DONTNEED, WEIR__HUGE_NEVER, placement[_i].numa);
	use_and_free();
	if (policy_of_window(policy, sizeof(policy)))
		ck_assert_msg(strncmp(policy, placement[_i].policy, strlen(placement[_i].policy)) ==
				      0,
			      "%s", policy);
}
END_TEST

/* ---- Accounts ------------------------------------------------------------------------------- */

/* What the runs claim to have is what the bits say, unit for unit. */
static void check_accounts(const struct weir__home *home, unsigned seed)
{
	uint64_t dirty = 0, kept = 0;
	for (uint32_t unit = 0; unit < home->frontier; unit++) {
		if (weir__unit_pool(weir__unit_at(home, unit)) != 0)
			continue;
		bool is_dirty = home->dirty[unit / 64] >> (unit % 64) & 1;
		bool is_kept = home->kept[unit / 64] >> (unit % 64) & 1;
		dirty += is_dirty;
		kept += is_kept;
		if (is_dirty && is_kept)
			ck_abort_msg("seed %u: unit %u is both", seed, unit);
	}
	if (dirty != home->dirty_units || kept != home->kept_units)
		ck_abort_msg("seed %u: %lu dirty, not %lu; %lu kept, not %lu", seed,
			     (unsigned long)dirty, (unsigned long)home->dirty_units,
			     (unsigned long)kept, (unsigned long)home->kept_units);
}

START_TEST(accounts_of_free_runs_are_exact_whatever_happens)
{
	enum { SLOTS = 60 };
	static void *slot[SLOTS];
	unsigned seed = (unsigned)time(NULL) + (unsigned)_i, state = seed;
	attach(_i & 1 ? WEIR__PURGE_FREE : WEIR__PURGE_DONTNEED,
	       _i & 2 ? WEIR__HUGE_ALWAYS : WEIR__HUGE_NEVER, WEIR__NUMA_NONE);
	for (int i = 0; i < 3000; i++) {
		void **at = &slot[rand_r(&state) % SLOTS];
		weir_free(*at);
		*at = rand_r(&state) % 3 == 0 ? NULL
					      : weir_alloc((size_t)1 << (10 + rand_r(&state) % 13));
		if (rand_r(&state) % 20 == 0)
			weir__heap_turn(now += (int64_t)(rand_r(&state) % 4000) * WEIR__MS);
		if (rand_r(&state) % 200 == 0)
			(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_MEDIUM);
		check_accounts(weir__home_self(), seed);
	}
	for (int i = 0; i < SLOTS; i++)
		weir_free(slot[i]);
	idle();
	check_accounts(weir__home_self(), seed);
	ck_assert_uint_eq(weir__home_self()->dirty_units, 0);
}
END_TEST

Suite *alloc_purge_suite(void)
{
	Suite *s = suite_create("alloc_purge");
	bool plain = !WEIR__ASAN && !WEIR__TSAN; /* else memory is the sanitizer's */
	TCase *purging = tcase_create("purging");
	if (plain) {
		tcase_add_test(purging, what_is_purged_is_gone_at_once);
		tcase_add_test(purging,
			       what_is_released_stays_until_the_kernel_or_pressure_wants_it);
	}
	tcase_add_test(purging, a_clean_run_is_no_reason_to_wake_up);
	tcase_add_test(purging, around_an_aligned_block_there_is_nothing_to_give_back);
	tcase_add_loop_test(purging, locked_memory_is_given_back_as_well, 0, 2);
	suite_add_tcase(s, purging);
	TCase *huge = tcase_create("huge_pages");
	if (plain) {
		tcase_add_test(huge, huge_pages_are_used_and_given_back_whole);
		tcase_add_test(huge, no_huge_page_is_split);
		tcase_add_test(huge, huge_pages_can_be_for_large_blocks_alone);
	}
	suite_add_tcase(s, huge);
	TCase *nodes = tcase_create("nodes");
	tcase_add_loop_test(nodes, the_kernel_is_told_where_memory_should_come_from, 0,
			    sizeof(placement) / sizeof(*placement));
	suite_add_tcase(s, nodes);
	TCase *accounts = tcase_create("accounts");
	tcase_set_timeout(accounts, 20);
	tcase_add_loop_test(accounts, accounts_of_free_runs_are_exact_whatever_happens, 0, 4);
	suite_add_tcase(s, accounts);
	return s;
}
