/* SPDX-License-Identifier: MIT */
/* What is said when memory runs out: by whom, how often, and that it takes no memory to say it. */
#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "alloc/heap.h"
#include "child.h"

static void configure(uint32_t oom, uint64_t limit)
{
	struct weir__alloc_config config;
	weir__alloc_config_get(&config);
	config.oom = oom;
	config.mem_limit = limit;
	ck_assert_int_eq(weir__alloc_configure(&config), 0);
}

static uint64_t refusals(void)
{
	struct weir_mem_stats stats;
	weir_mem_stats_get(&stats);
	return stats.refusals;
}

/* Until there is no more, twice. */
static int exhaust(void *oom)
{
	configure((uint32_t)(uintptr_t)oom, 16 << 20);
	if (weir__heap_attach() < 0)
		return 1;
	weir_mem_level_force(WEIR_MEM_NONE);
	for (int i = 0; i < 2; i++)
		while (weir_alloc(5000) != NULL)
			;
	return refusals() == 2 ? 0 : 1;
}

START_TEST(nothing_is_said_unless_it_was_asked_for)
{
	ck_assert_int_eq(end_of(exhaust, (void *)WEIR__OOM_ERROR), 0);
	ck_assert_str_eq(said, "");
}
END_TEST

START_TEST(the_first_refusal_says_why_and_what_memory_is_used_for)
{
	ck_assert_int_eq(end_of(exhaust, (void *)WEIR__OOM_DUMP), 0);
	const char *first = assert_said("memory: 5000 bytes refused: the limit is reached\n");
	assert_said("16384 KiB held of 16384 KiB");
	assert_said("level none; refused 1\n");
	const char *heading = assert_said("pool                       KiB");
	const char *user = assert_said("memory: 5 KiB ");
	ck_assert_ptr_eq(strchr(heading, '\n') + 1 + strlen("weir: "), user); /* the first */
	ck_assert_ptr_null(strstr(strchr(first, '\n'), "refused: "));	      /* once */
}
END_TEST

START_TEST(the_process_ends_when_that_was_asked_for)
{
	int status = end_of(exhaust, (void *)WEIR__OOM_ABORT);
	ck_assert(WIFSIGNALED(status));
	ck_assert_int_eq(WTERMSIG(status), SIGABRT);
	assert_said("memory: 5 KiB ");
}
END_TEST

/* ---- Each cause, and each kind of request --------------------------------------------------- */

static int injected(void *kind)
{
	void *none = NULL;
	configure(WEIR__OOM_DUMP, 0);
	if (weir__heap_attach() < 0)
		return 1;
	(void)weir_mem_fail_after(1);
	switch (*(const char *)kind) {
	case 's':
		none = weir_alloc(100);
		break;
	case 'l':
		none = weir_alloc(100u << 20);
		break;
	case 'a':
		none = weir_alloc_aligned(1 << 20, 2 << 20);
		break;
	case 'A':
		none = weir_alloc_aligned(1 << 20, 100u << 20);
		break;
	case 't':
		none = weir__stack_get(4096);
		break;
	}
	return none == NULL && refusals() == 1 ? 0 : 1;
}

START_TEST(every_kind_of_request_is_counted_and_told_of)
{
	static const char *const kinds[] = { "s", "l", "a", "A", "t" };
	for (unsigned i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		ck_assert_int_eq(end_of(injected, (void *)(uintptr_t)kinds[i]), 0);
		assert_said(" bytes refused: a test has it fail\n");
	}
}
END_TEST

/* Blocks of 1 GiB, of which no machine has many. */
static int without_address_space(void *arg)
{
	struct rlimit limit = { 8ul << 30, 8ul << 30 };
	(void)arg;
	configure(WEIR__OOM_DUMP, 0);
	if (weir__heap_attach() < 0 || setrlimit(RLIMIT_AS, &limit) < 0)
		return 1;
	return weir_alloc(9ul << 30) == NULL ? 0 : 1;
}

START_TEST(a_mapping_that_the_system_refuses_is_told_apart_from_the_limit)
{
	ck_assert_int_eq(end_of(without_address_space, NULL), 0);
	assert_said(" bytes refused: the system gives no more\n");
}
END_TEST

static size_t allocate(const struct weir_reclaim_request *request, void *arg)
{
	(void)request;
	*(bool *)arg = weir_alloc(100) == NULL;
	return 0;
}

START_TEST(what_a_reclaimer_does_not_get_is_no_want_of_memory)
{
	weir_reclaimer *reclaimer;
	bool refused = false;
	ck_assert_int_eq(weir__heap_attach(), 0);
	ck_assert_int_eq(weir_reclaimer_add(&reclaimer, .fn = allocate, .arg = &refused), 0);
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	ck_assert(refused);
	ck_assert_uint_eq(refusals(), 0);
}
END_TEST

/* ---- The dump ------------------------------------------------------------------------------- */

static int dump_by_signal_fd;

static void dump_by_signal(int signal)
{
	(void)signal;
	weir_mem_dump(dump_by_signal_fd);
}

/* Pools, of which the largest user is known, and spans that are nearly empty. */
static int dump_of_a_known_load(void *arg)
{
	weir_pool *pool;
	static void *block[4096];
	(void)arg;
	if (weir__heap_attach() < 0 || weir_pool_new(&pool, .object_bytes = 1024,
						     .name = "a name of more than 23 letters") < 0)
		return 1;
	for (unsigned i = 0; i < 4096; i++)
		block[i] = weir_pool_get(pool);
	for (unsigned i = 0; i < 4096; i++)
		if (i % 64 != 0)
			weir_pool_put(pool, block[i]);
	weir__cache_close(weir__home_self(), pool->index);
	dump_by_signal_fd = STDERR_FILENO;
	signal(SIGUSR1, dump_by_signal);
	return raise(SIGUSR1);
}

START_TEST(the_dump_can_be_had_from_a_signal_handler_and_shows_sparse_spans)
{
	ck_assert_int_eq(end_of(dump_of_a_known_load, NULL), 0);
	const char *row = assert_said("memory: a name of more than 23  ");
	unsigned kib, used, cached, percent, sparse, half, most, nearly, full;
	ck_assert_int_eq(sscanf(row, "memory: a name of more than 23 %u %u %u %u %u %u %u %u %u",
				&kib, &used, &cached, &percent, &sparse, &half, &most, &nearly,
				&full),
			 9);
	ck_assert_uint_eq(kib, 4096);
	ck_assert_uint_eq(used, 64);
	ck_assert_uint_eq(cached, 0);
	ck_assert_uint_eq(percent, 1);
	ck_assert_uint_eq(sparse, 64);
	ck_assert_uint_eq(half + most + nearly + full, 0);
}
END_TEST

/* The counts of spans by fullness are kept beside the lists that they count. */
START_TEST(the_counts_by_fullness_are_those_of_the_lists)
{
	enum { BLOCKS = 3000 };
	static void *block[BLOCKS];
	ck_assert_int_eq(weir__heap_attach(), 0);
	struct weir__home *home = weir__home_self();
	uint32_t random = 1;
	for (unsigned i = 0; i < 20 * BLOCKS; i++) {
		random = random * 1664525 + 1013904223;
		void **at = &block[(random >> 8) % BLOCKS];
		weir_free(*at);
		*at = random >> 31 ? weir_alloc(1 + (random >> 4) % 5000) : NULL;
	}
	for (uint32_t index = 1; index < home->bins_end; index++)
		for (unsigned list = 0; list < WEIR__PARTIAL_LISTS; list++) {
			uint32_t count = 0;
			for (struct weir__span *s = home->bins[index].partial[list]; s != NULL;
			     s = s->next)
				count++;
			ck_assert_uint_eq(home->bins[index].partial_count[list], count);
		}
}
END_TEST

START_TEST(before_the_first_heap_there_is_a_dump_too)
{
	int fds[2];
	char text[1000];
	ck_assert_int_eq(pipe(fds), 0);
	weir_mem_dump(fds[1]);
	close(fds[1]);
	ck_assert_int_gt(read(fds[0], text, sizeof(text)), 0);
	weir_mem_dump(-1); /* nobody to tell */
}
END_TEST

Suite *alloc_mem_dump_suite(void)
{
	Suite *s = suite_create("alloc_mem_dump");
	TCase *refusal = tcase_create("refusal");
	tcase_set_tags(refusal, "fast");
	tcase_add_test(refusal, nothing_is_said_unless_it_was_asked_for);
	tcase_add_test(refusal, the_first_refusal_says_why_and_what_memory_is_used_for);
	tcase_add_test(refusal, the_process_ends_when_that_was_asked_for);
	tcase_add_test(refusal, every_kind_of_request_is_counted_and_told_of);
	tcase_add_test(refusal, what_a_reclaimer_does_not_get_is_no_want_of_memory);
	suite_add_tcase(s, refusal);
	TCase *system = tcase_create("system");
	if (!WEIR__ASAN && !WEIR__TSAN) /* whose own address space is larger than any limit */
		tcase_add_test(system,
			       a_mapping_that_the_system_refuses_is_told_apart_from_the_limit);
	suite_add_tcase(s, system);
	TCase *dump = tcase_create("dump");
	tcase_set_tags(dump, "fast");
	tcase_add_test(dump, the_dump_can_be_had_from_a_signal_handler_and_shows_sparse_spans);
	tcase_add_test(dump, the_counts_by_fullness_are_those_of_the_lists);
	tcase_add_test(dump, before_the_first_heap_there_is_a_dump_too);
	suite_add_tcase(s, dump);
	return s;
}
