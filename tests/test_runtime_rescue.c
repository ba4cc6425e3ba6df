/* SPDX-License-Identifier: MIT */
/*
 * A worker that has been woken and has no CPU is made room for. Here it does not run because its
 * hook holds it: what a scheduler does to it looks the same to the others.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <unistd.h>

#include "runtime/affinity.h"
#include "runtime/task.h"
#include "tests/runtime_test.h"

enum { SLEEPS = 50 };

static atomic_bool is_to_hold;
static sem_t is_held, may_go;
static cpu_set_t before, after; /* where the one that is held may run */
static unsigned held = 1, helper;

static void hold(unsigned worker, void *user)
{
	bool yes = true;

	(void)user;
	if (worker != held || !atomic_compare_exchange_strong(&is_to_hold, &yes, false))
		return;
	(void)sched_getaffinity(0, sizeof before, &before);
	sem_post(&is_held);
	while (sem_wait(&may_go) < 0)
		;
	(void)sched_getaffinity(0, sizeof after, &after);
}

static uint64_t rescues(void)
{
	struct weir_worker_stats stats;

	ck_assert_int_eq(weir_worker_stats_get((int)helper, &stats), 0);
	return stats.rescues;
}

static int order_hold(void *arg)
{
	(void)arg;
	is_to_hold = true;
	return 0;
}

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

/* Where they stay when they are let go. */
static int move_to(void *arg)
{
	cpu_set_t allowed, one;
	int cpu = 0, skip = *(int *)arg;

	(void)sched_getaffinity(0, sizeof allowed, &allowed);
	skip %= CPU_COUNT(&allowed);
	while (!CPU_ISSET(cpu, &allowed) || skip-- > 0)
		cpu++;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	(void)sched_setaffinity(0, sizeof one, &one);
	return sched_setaffinity(0, sizeof allowed, &allowed);
}

/* What comes for the other worker while it is held on its way to sleep. */
enum comes { NOTHING, A_MESSAGE, A_COMPLETION };

static int ends[2]; /* of a pipe */

static int wait_for_a_byte(void *arg)
{
	(void)arg;
	struct weir_case byte = weir_case_fd(ends[0], POLLIN);

	TRY(weir_select(&byte, 1));
	return byte.result == POLLIN ? 0 : -EIO;
}

/* The helper sleeps and sleeps meanwhile. */
static int sleep_beside(void *arg)
{
	enum comes comes = *(enum comes *)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_spawn(&scope, wait_for_a_byte, NULL, .worker = WEIR_ON_WORKER(held)));
	for (int i = 0; i < 2; i++) /* it has begun to wait when the second one is answered */
		TRY(weir_call_on(held, move_to, &i));
	TRY(move_to(&(int){ 0 }));
	TRY(weir_call_on(held, order_hold, NULL));
	while (sem_wait(&is_held) < 0)
		;
	if (comes == A_MESSAGE)
		TRY(weir_spawn(&scope, nothing, NULL, .worker = WEIR_ON_WORKER(held)));
	if (comes == A_COMPLETION)
		expect(write(ends[1], "", 1) == 1);
	for (int i = 0; i < SLEEPS; i++)
		TRY(weir_sleep(WEIR_MS));
	*(int *)arg = (int)rescues();
	sem_post(&may_go);
	if (comes != A_COMPLETION)
		expect(write(ends[1], "", 1) == 1);
	return weir_scope_wait(&scope);
}

static int run_helper(void *arg)
{
	return weir_call_on(helper, sleep_beside, arg);
}

static bool is_helped(enum comes comes)
{
	const struct weir_thread_hooks hooks = { .park = hold };
	int arg = comes;

	ck_assert_int_eq(pipe(ends), 0);
	ck_assert_int_eq(sem_init(&is_held, 0, 0), 0);
	ck_assert_int_eq(sem_init(&may_go, 0, 0), 0);
	ck_assert_int_eq(weir_run(run_helper, &arg, .workers = 2, .hooks = &hooks), 0);
	ck_assert(CPU_EQUAL(&before, &after));
	return arg > 0;
}

START_TEST(a_worker_that_was_woken_and_has_no_cpu_is_made_room_for)
{
	ck_assert(is_helped(A_MESSAGE));
}
END_TEST

START_TEST(worker_0_is_no_exception)
{
	held = 0;
	helper = 1;
	ck_assert(is_helped(A_MESSAGE));
}
END_TEST

/* Where completions show in memory. */
START_TEST(so_is_one_that_has_a_completion)
{
	const char *driver = getenv("WEIR_DRIVER");

	if (!driver || strcmp(driver, "uring") == 0)
		ck_assert(is_helped(A_COMPLETION));
}
END_TEST

START_TEST(one_that_sleeps_is_left_alone)
{
	ck_assert(!is_helped(NOTHING));
}
END_TEST

START_TEST(with_no_time_set_none_is_made_room_for)
{
	setenv("WEIR_RESCUE_US", "0", 1);
	ck_assert(!is_helped(A_MESSAGE));
}
END_TEST

START_TEST(where_workers_are_pinned_none_is_made_room_for)
{
	setenv("WEIR_PIN", "1", 1);
	ck_assert(!is_helped(A_MESSAGE));
}
END_TEST

/* ---- A thread that blocks ------------------------------------------------------------------- */

static int block(void *arg)
{
	(void)arg;
	sem_post(&is_held);
	while (sem_wait(&may_go) < 0)
		;
	return 0;
}

/* Twice the time after each rest in vain, 100 ms at most: 12 rests, where the like would be 500. */
static int sleep_beside_one_that_blocks(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, block, NULL, .worker = WEIR_ON_WORKER(1)));
	while (sem_trywait(&is_held) < 0)
		TRY(weir_sleep(200 * WEIR_US));
	uint64_t before_it = rescues();
	int64_t begin = weir_now();
	for (int i = 0; i < 10 * SLEEPS; i++)
		TRY(weir_sleep(200 * WEIR_US));
	ck_assert_uint_gt(rescues(), 0);
	ck_assert_uint_le(rescues() - before_it, 40 + (weir_now() - begin) / (100 * WEIR_MS));
	sem_post(&may_go);
	return weir_scope_wait(&scope);
}

static int pin_here(void)
{
	return weir__affinity_set_one(0, (unsigned)sched_getcpu());
}

START_TEST(one_that_blocks_its_thread_is_made_room_for_ever_more_rarely)
{
	ck_assert_int_eq(pin_here(), 0); /* elsewhere it would be fetched, once in a turn of its */
	setenv("WEIR_STALL_MS", "0", 1); /* who asks it what it does gives it CPU time */
	ck_assert_int_eq(sem_init(&is_held, 0, 0), 0);
	ck_assert_int_eq(sem_init(&may_go, 0, 0), 0);
	run_on(2, sleep_beside_one_that_blocks, NULL);
}
END_TEST

/* ---- How often, by a clock of ours ---------------------------------------------------------- */

static void submit_nothing(struct weir__driver *driver, int64_t until_ns)
{
	(void)driver, (void)until_ns;
}

static void *wait_to_go(void *tid)
{
	*(pid_t *)tid = gettid();
	(void)block(NULL);
	return NULL;
}

static bool is_asleep(pid_t tid)
{
	char path[64], state = 0;

	snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
	FILE *file = fopen(path, "re");
	expect(file && fscanf(file, "%*d (%*[^)]) %c", &state) == 1);
	fclose(file);
	return state == 'S';
}

/* The second worker seems to be in a turn: its thread waits for us, on our CPU. */
START_TEST(after_rests_in_vain_the_next_is_later_by_100_ms_at_most)
{
	static const struct weir__driver_ops ops = { .submit_and_wait = submit_nothing };
	static struct weir__worker self, other;
	struct weir__worker *workers[] = { &self, &other };
	struct weir__runtime runtime = { .workers = workers, .workers_count = 2 };
	struct weir__driver driver = { .ops = &ops };
	int64_t period = runtime.rescue_ns = 100 * WEIR_US, pause = period;

	ck_assert_int_eq(pin_here(), 0);
	ck_assert_int_eq(sem_init(&is_held, 0, 0), 0);
	ck_assert_int_eq(sem_init(&may_go, 0, 0), 0);
	ck_assert_int_eq(pthread_create(&other.thread, NULL, wait_to_go, &other.tid), 0);
	while (sem_wait(&is_held) < 0)
		;
	while (!is_asleep(other.tid)) /* and has no CPU time any more */
		usleep(1000);
	self.runtime = other.runtime = &runtime;
	self.driver = other.driver = &driver;
	self.index = 0;
	other.index = 1;
	other.rescue_shown.cpu = sched_getcpu();
	self.now_ns = weir__clock_ns();
	weir__rescue(&self); /* suspects it */
	for (uint64_t n = 1; n <= 15; n++) {
		self.now_ns = self.rescue.look_ns;
		weir__rescue(&self);
		ck_assert_uint_eq(self.counts.rescues, n);
		ck_assert_int_eq(self.rescue.look_ns - self.now_ns, pause + period / 2);
		pause = pause * 2 < 100 * WEIR_MS ? pause * 2 : 100 * WEIR_MS;
	}
	ck_assert_int_eq(pause, 100 * WEIR_MS);
	sem_post(&may_go); /* and has some when it ends */
	pthread_join(other.thread, NULL);
}
END_TEST

Suite *runtime_rescue_suite(void)
{
	Suite *suite = suite_create("runtime_rescue");
	TCase *rescue = tcase_create("rescue");

	/* simulated workers are one thread */
	tcase_set_tags(rescue, "real fast");
	tcase_set_timeout(rescue, 30);
	tcase_add_test(rescue, a_worker_that_was_woken_and_has_no_cpu_is_made_room_for);
	tcase_add_test(rescue, worker_0_is_no_exception);
	tcase_add_test(rescue, so_is_one_that_has_a_completion);
	tcase_add_test(rescue, one_that_sleeps_is_left_alone);
	tcase_add_test(rescue, with_no_time_set_none_is_made_room_for);
	tcase_add_test(rescue, where_workers_are_pinned_none_is_made_room_for);
	tcase_add_test(rescue, one_that_blocks_its_thread_is_made_room_for_ever_more_rarely);
	tcase_add_test(rescue, after_rests_in_vain_the_next_is_later_by_100_ms_at_most);
	suite_add_tcase(suite, rescue);
	return suite;
}
