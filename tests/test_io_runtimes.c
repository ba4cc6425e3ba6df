/* SPDX-License-Identifier: MIT */
/*
 * Runtimes as a process sees them: several at once, on how many CPUs, with hooks on their threads;
 * and what the system does to them: fork, signals without end, threads that stand still.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "child.h"
#include "io/cpus.h"
#include "runtime/affinity.h"
#include "tests/echo_test.h"
#include "tests/refuse.h"
#include "tests/runtime_test.h"

static void nap(int64_t ns)
{
	struct timespec time = { ns / WEIR_SEC, ns % WEIR_SEC };

	while (nanosleep(&time, &time) < 0)
		;
}

/* ---- A bit of everything: timers, messages between workers, an echo over a socket -------------
 */

static int serve(void *arg)
{
	return weir_serve(arg, echo);
}

static int talk(const char *address, int rounds)
{
	char sent[256], got[256];
	weir_auto_conn conn = NULL;

	TRY(weir_connect(&conn, address));
	for (int i = 0; i < rounds; i++) {
		memset(sent, i, sizeof sent);
		expect(weir_write(conn, sent, sizeof sent) == sizeof sent);
		TRY(weir_read_full(conn, got, sizeof got));
		expect(memcmp(sent, got, sizeof got) == 0);
	}
	return 0;
}

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

struct work {
	int rounds;
	_Atomic bool is_over;
};

static int work(void *arg)
{
	struct work *todo = arg;
	unsigned workers = (unsigned)weir_worker_count();
	weir_auto_listener listener = NULL;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_listen(&listener, "127.0.0.1:0"));
	TRY(weir_spawn(&scope, serve, listener));
	for (int i = 0; i < todo->rounds; i++) {
		TRY(talk(weir_listener_address(listener), 20));
		for (unsigned k = 0; k < 20; k++)
			TRY(weir_call_on(k % workers, nothing, NULL));
		int64_t before = weir_now();
		TRY(weir_sleep(100 * WEIR_US));
		expect(weir_now() - before >= 100 * WEIR_US);
	}
	weir_scope_cancel(&scope);
	int err = weir_scope_wait(&scope);
	todo->is_over = true;
	return err == -ECANCELED ? 0 : err;
}

/* ---- Several at once ------------------------------------------------------------------------ */

static void *run_work(void *arg)
{
	const char *driver = arg;

	for (int i = 0; i < ROUNDS(40); i++) {
		struct work todo = { 2, false };
		ck_assert_int_eq(weir_run(work, &todo, .workers = 1 + (unsigned)i % 3,
					  .driver = driver, .signals_ignored = i % 2),
				 0);
	}
	return NULL;
}

START_TEST(runtimes_come_and_go_beside_each_other)
{
	pthread_t threads[3];

	/* one of them on a driver of its own, perhaps */
	for (unsigned i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, run_work, i ? NULL : "epoll"),
				 0);
	for (unsigned i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
}
END_TEST

static weir_chan *there, *back;

static int answer(void *arg)
{
	int item;

	(void)arg;
	while (weir_chan_recv(there, &item) == 0)
		TRY(weir_chan_send(back, &item));
	return 0;
}

static void *run_answer(void *arg)
{
	(void)arg;
	ck_assert_int_eq(weir_run(answer, NULL, .workers = 1, .driver = "epoll"), 0);
	return NULL;
}

static int ask(void *arg)
{
	weir_auto_chan own_there = weir_chan_new(sizeof(int), 1);
	weir_auto_chan own_back = weir_chan_new(sizeof(int), 1);
	pthread_t thread;

	(void)arg;
	there = own_there;
	back = own_back;
	ck_assert_int_eq(pthread_create(&thread, NULL, run_answer, NULL), 0);
	for (int i = 0, got = -1; i < ROUNDS(20000); i++) {
		TRY(weir_chan_send(there, &i));
		TRY(weir_chan_recv(back, &got));
		expect(got == i);
	}
	weir_chan_close(there);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	return 0;
}

START_TEST(tasks_of_two_runtimes_share_a_channel)
{
	run_on(1, ask, NULL);
}
END_TEST

/* ---- Hooks ---------------------------------------------------------------------------------- */

enum { HOOKS = 4, WORKERS_MAX = 3 };

static _Atomic unsigned called[HOOKS][WORKERS_MAX];

static void count(unsigned hook, unsigned worker, void *user)
{
	ck_assert_ptr_eq(user, &called);
	ck_assert_int_eq(weir_worker_index(), (int)worker);
	ck_assert_int_eq(weir_sleep(WEIR_MS), -EINVAL);
	called[hook][worker]++;
}

static void on_start(unsigned worker, void *user)
{
	count(0, worker, user);
}

static void on_stop(unsigned worker, void *user)
{
	count(1, worker, user);
}

static void on_park(unsigned worker, void *user)
{
	ck_assert_uint_eq(called[2][worker], called[3][worker]);
	count(2, worker, user);
}

static void on_unpark(unsigned worker, void *user)
{
	count(3, worker, user);
}

static int visit_all(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < WORKERS_MAX; i++) {
		ck_assert_uint_eq(called[0][i], 1);
		TRY(weir_call_on(i, nothing, NULL));
	}
	return weir_sleep(20 * WEIR_MS);
}

START_TEST(hooks_run_on_each_worker)
{
	const struct weir_thread_hooks hooks = { on_start, on_stop, on_park, on_unpark, &called };

	ck_assert_int_eq(weir_run(visit_all, NULL, .workers = WORKERS_MAX, .hooks = &hooks), 0);
	for (unsigned i = 0; i < WORKERS_MAX; i++) {
		ck_assert_uint_eq(called[0][i], 1);
		ck_assert_uint_eq(called[1][i], 1);
		ck_assert_uint_gt(called[2][i], 0);
		ck_assert_uint_eq(called[2][i], called[3][i]);
	}
}
END_TEST

/* ---- How many workers ----------------------------------------------------------------------- */

static char fake_root[64];

/* A file below fake_root, with its directories. */
static void write_file(const char *path, const char *text)
{
	char whole[256];

	snprintf(whole, sizeof whole, "%s%s", fake_root, path);
	for (char *at = whole + strlen(fake_root) + 1; (at = strchr(at, '/')) != NULL; at++) {
		*at = '\0';
		ck_assert(mkdir(whole, 0700) == 0 || errno == EEXIST);
		*at = '/';
	}
	FILE *file = fopen(whole, "w");
	ck_assert_ptr_nonnull(file);
	ck_assert_int_ge(fputs(text, file), 0);
	ck_assert_int_eq(fclose(file), 0);
}

static void make_root(void)
{
	strcpy(fake_root, "/tmp/weir-cpus-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(fake_root));
}

static void remove_root(void)
{
	char command[128];

	snprintf(command, sizeof command, "rm -rf %s", fake_root);
	ck_assert_int_eq(system(command), 0);
}

static unsigned allowed_cpus(void)
{
	cpu_set_t allowed;

	ck_assert_int_eq(sched_getaffinity(0, sizeof allowed, &allowed), 0);
	return (unsigned)CPU_COUNT(&allowed);
}

static unsigned min(unsigned a, unsigned b)
{
	return a < b ? a : b;
}

START_TEST(a_quota_of_any_level_limits_the_count)
{
	unsigned cpus = allowed_cpus();

	ck_assert_uint_eq(weir__cpus_count(fake_root), cpus); /* nothing can be read */
	write_file("/proc/self/cgroup", "0::/a/b\n");
	write_file("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
	ck_assert_uint_eq(weir__cpus_count(fake_root), cpus);
	write_file("/sys/fs/cgroup/a/b/cpu.max", "110000 100000\n");
	ck_assert_uint_eq(weir__cpus_count(fake_root), min(cpus, 2)); /* rounded up */
	write_file("/sys/fs/cgroup/a/cpu.max", "50000 100000\n");
	ck_assert_uint_eq(weir__cpus_count(fake_root), 1);
	write_file("/sys/fs/cgroup/a/cpu.max", "max 100000\n");
	write_file("/sys/fs/cgroup/cpu.max", "20000 100000\n"); /* a container's own */
	ck_assert_uint_eq(weir__cpus_count(fake_root), 1);
}
END_TEST

START_TEST(so_does_one_of_the_old_kind)
{
	unsigned cpus = allowed_cpus();

	write_file("/proc/self/cgroup", "3:memory:/m\n2:cpuset:/s\n1:cpu,cpuacct:/a/b\n");
	write_file("/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us", "-1\n");
	write_file("/sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us", "100000\n");
	ck_assert_uint_eq(weir__cpus_count(fake_root), cpus);
	write_file("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "90000\n");
	write_file("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
	ck_assert_uint_eq(weir__cpus_count(fake_root), 1);
	write_file("/sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n");
	write_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n"); /* the other mount point */
	write_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
	ck_assert_uint_eq(weir__cpus_count(fake_root), 1);
}
END_TEST

static int count_workers(void *arg)
{
	(void)arg;
	return weir_worker_count();
}

static void allow_only(int wanted)
{
	cpu_set_t allowed, fewer;

	ck_assert_int_eq(sched_getaffinity(0, sizeof allowed, &allowed), 0);
	CPU_ZERO(&fewer);
	for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&fewer) < wanted; cpu++)
		if (CPU_ISSET(cpu, &allowed))
			CPU_SET(cpu, &fewer);
	ck_assert_int_eq(sched_setaffinity(0, sizeof fewer, &fewer), 0);
}

START_TEST(workers_are_as_many_as_cpus_allowed)
{
	ck_assert_int_eq(unsetenv("WEIR_WORKERS"), 0);
	ck_assert_int_eq(weir_run(count_workers, NULL), (int)weir__cpus_count(""));
	allow_only(1);
	ck_assert_int_eq(weir_run(count_workers, NULL), 1);
}
END_TEST

/* As a kernel does that has up to 4,096 CPUs. */
static void refuse_small_sets(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sched_getaffinity, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 4096 / 8, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = sizeof code / sizeof *code, .filter = code };

	ck_assert_int_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	ck_assert_int_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

START_TEST(where_a_cpu_set_is_too_small_cpus_are_counted_all_the_same)
{
	unsigned cpus = allowed_cpus();
	cpu_set_t none;

	refuse_small_sets();
	ck_assert_int_lt(sched_getaffinity(0, sizeof none, &none), 0);
	ck_assert_uint_eq(weir__cpus_count(fake_root), cpus);
}
END_TEST

static int here(void *arg)
{
	(void)arg;
	return sched_getcpu();
}

START_TEST(where_a_cpu_set_is_too_small_a_worker_is_pinned_and_let_go)
{
	struct weir__affinity before, pinned, after;

	refuse_small_sets();
	ck_assert_int_eq(weir__affinity_get(0, &before), 0);
	ck_assert_int_eq(setenv("WEIR_PIN", "1", 1), 0);
	ck_assert_int_eq(setenv("WEIR_WORKERS", "1", 1), 0);
	int cpu = weir_run(here, NULL);
	ck_assert_int_ge(cpu, 0);
	ck_assert(weir__affinity_has(&before, (unsigned)cpu));
	ck_assert_int_eq(weir__affinity_get(0, &after), 0);
	ck_assert(CPU_EQUAL_S(after.bytes, after.set, before.set));
	ck_assert_int_eq(weir__affinity_set_one(0, (unsigned)cpu), 0);
	ck_assert_int_eq(weir__affinity_get(0, &pinned), 0);
	ck_assert_uint_eq(weir__affinity_count(&pinned), 1);
	weir__affinity_free(&before);
	weir__affinity_free(&after);
	weir__affinity_free(&pinned);
}
END_TEST

static int note_cpus(void *arg)
{
	return sched_getaffinity(0, sizeof(cpu_set_t), arg);
}

static int note_all_cpus(void *arg)
{
	for (unsigned i = 0; i < 2; i++)
		TRY(weir_call_on(i, note_cpus, (cpu_set_t *)arg + i));
	return 0;
}

START_TEST(pinned_workers_have_a_cpu_each)
{
	cpu_set_t before, after, own[2], both;
	int cpus = (int)allowed_cpus();

	ck_assert_int_eq(sched_getaffinity(0, sizeof before, &before), 0);
	ck_assert_int_eq(weir_run(note_all_cpus, own, .workers = 2, .pin = true), 0);
	CPU_OR(&both, &own[0], &own[1]);
	ck_assert_int_eq(CPU_COUNT(&own[0]), 1);
	ck_assert_int_eq(CPU_COUNT(&own[1]), 1);
	ck_assert_int_eq(CPU_COUNT(&both), cpus > 1 ? 2 : 1);
	ck_assert_int_eq(sched_getaffinity(0, sizeof after, &after), 0);
	ck_assert(CPU_EQUAL(&before, &after));
}
END_TEST

/* ---- fork ----------------------------------------------------------------------------------- */

static int five(void *arg)
{
	(void)arg;
	return weir_sleep(WEIR_MS) == 0 ? 5 : 0;
}

static bool is_outside(void)
{
	struct sigaction action;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	if (weir_worker_index() != -1 || weir_sleep(WEIR_MS) != -EINVAL ||
	    weir_spawn(&scope, nothing, NULL) != -EINVAL || weir_runtime_self().id != 0)
		return false;
	if (sigaction(SIGTERM, NULL, &action) < 0 || action.sa_handler != SIG_IGN)
		return false;
	void *block = weir_alloc(1000);
	weir_free(block);
	/* TSan does not let a child start threads */
	return block && (TESTS_SLOW || weir_run(five, NULL, .workers = 1) == 5);
}

static int fork_and_go_on(void *arg)
{
	int status = -1;
	weir_runtime own = weir_runtime_self();

	(void)arg;
	pid_t child = fork();
	ck_assert_int_ge(child, 0);
	if (child == 0) {
		bool is_good = is_outside() && weir_submit(own, nothing, NULL) == -ESHUTDOWN;
		_exit(is_good ? 0 : 1);
	}
	while (waitpid(child, &status, WNOHANG) == 0)
		TRY(weir_sleep(WEIR_MS));
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0);
	return weir_call_on(1, nothing, NULL);
}

static int fork_amid_work(void *arg)
{
	struct work todo = { 10, false };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, work, &todo));
	TRY(weir_spawn(&scope, fork_and_go_on, NULL, .worker = WEIR_ON_WORKER(0)));
	return weir_scope_wait(&scope);
}

START_TEST(a_child_of_fork_is_outside_and_the_parent_goes_on)
{
	ck_assert(signal(SIGTERM, SIG_IGN) != SIG_ERR); /* what the child must find */
	ck_assert_int_eq(weir_run(fork_amid_work, NULL, .workers = 2), 0);
}
END_TEST

/* ---- Signals without end, threads that stand still ------------------------------------------ */

static _Atomic unsigned alarms;

static void on_alarm(int number)
{
	(void)number;
	alarms++;
}

static void catch_signal(int number, void (*handler)(int))
{
	struct sigaction action = { .sa_handler = handler }; /* no SA_RESTART */

	sigemptyset(&action.sa_mask);
	ck_assert_int_eq(sigaction(number, &action, NULL), 0);
}

START_TEST(interrupted_calls_are_no_errors)
{
	const struct itimerval storm = { { 0, 100 }, { 0, 100 } }, calm = { { 0, 0 }, { 0, 0 } };
	struct work todo = { ROUNDS(40), false };

	catch_signal(SIGALRM, on_alarm);
	ck_assert_int_eq(setitimer(ITIMER_REAL, &storm, NULL), 0);
	run_on(2, work, &todo);
	ck_assert_int_eq(setitimer(ITIMER_REAL, &calm, NULL), 0);
	ck_assert_uint_gt(alarms, 10);
}
END_TEST

/* On the worker's own thread, which is in the kernel all the time; each ends the system call. */
static int sleep_amid_signals(void *arg)
{
	const struct itimerval often = { { 0, 2000 }, { 0, 2000 } }, calm = { { 0, 0 }, { 0, 0 } };
	struct weir_worker_stats before, after;

	(void)arg;
	TRY(weir_sleep(WEIR_MS));
	ck_assert_int_eq(setitimer(ITIMER_REAL, &often, NULL), 0);
	TRY(weir_worker_stats_get(0, &before));
	TRY(weir_sleep(300 * WEIR_MS));
	TRY(weir_worker_stats_get(0, &after));
	ck_assert_int_eq(setitimer(ITIMER_REAL, &calm, NULL), 0);
	ck_assert_uint_gt(alarms, 10);
	ck_assert_uint_le(after.turns - before.turns, 8);
	return 0;
}

START_TEST(signals_end_no_sleep)
{
	catch_signal(SIGALRM, on_alarm);
	setenv("WEIR_POOL_EPOCH_MS", "60000", 1); /* its heap lets it sleep */
	setenv("WEIR_MEM_DECAY_MS", "3600000", 1);
	run_on(1, sleep_amid_signals, NULL);
}
END_TEST

static pthread_t worker_thread;
static _Atomic bool is_known;
static _Atomic unsigned stands;

static void stand_still(int number)
{
	int saved = errno;

	(void)number;
	nap(5 * WEIR_MS);
	stands++;
	errno = saved;
}

/* Our own threads block the application's signals: this one takes SIGUSR1 from here on. */
static int make_known(void *arg)
{
	sigset_t set;

	(void)arg;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	TRY(-pthread_sigmask(SIG_UNBLOCK, &set, NULL));
	worker_thread = pthread_self();
	is_known = true;
	return 0;
}

static void *stop_worker(void *arg)
{
	struct work *todo = arg;

	while (!is_known)
		nap(WEIR_MS);
	while (!todo->is_over && stands < 20) {
		ck_assert_int_eq(pthread_kill(worker_thread, SIGUSR1), 0);
		nap(7 * WEIR_MS);
	}
	return NULL;
}

static int work_known(void *arg)
{
	TRY(weir_call_on(1, make_known, NULL));
	int err = work(arg);
	while (stands == 0)
		TRY(weir_sleep(WEIR_MS));
	return err;
}

START_TEST(a_worker_that_stands_still_loses_nothing)
{
	struct work todo = { ROUNDS(60), false };
	pthread_t thread;

	catch_signal(SIGUSR1, stand_still);
	ck_assert_int_eq(pthread_create(&thread, NULL, stop_worker, &todo), 0);
	run_on(2, work_known, &todo);
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
}
END_TEST

/* SIGSTOP and SIGCONT, to the process. */
START_TEST(a_process_that_is_stopped_goes_on)
{
	int status = -1;
	pid_t child = fork();

	ck_assert_int_ge(child, 0);
	if (child == 0) {
		struct work todo = { ROUNDS(200), false };
		_exit(weir_run(work, &todo, .workers = 2) == 0 ? 0 : 1);
	}
	for (int i = 0; i < 5 && waitpid(child, &status, WNOHANG) == 0; i++) {
		nap(5 * WEIR_MS);
		(void)kill(child, SIGSTOP);
		nap(20 * WEIR_MS);
		(void)kill(child, SIGCONT);
	}
	if (status < 0)
		ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert(WIFEXITED(status));
	ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

/* ---- Allocating before the first ------------------------------------------------------------ */

static int run_this_again(void *variable)
{
	char *argv[] = { "run", "io_runtimes", NULL };

	setenv("CK_RUN_CASE", "early", 1);
	setenv(variable, strcmp(variable, "WEIR_MEM_DEBUG") == 0 ? "3" : "pow2", 1);
	return execv("/proc/self/exe", argv);
}

static int free_it(void *block)
{
	weir_free(block);
	return 0;
}

/* In this process and in programs that are started with what heaps cannot change. */
START_TEST(memory_may_be_allocated_before_the_first_runtime)
{
	bool is_again = getenv("WEIR_MEM_DEBUG") || getenv("WEIR_POOL_CLASSES");
	char *block = weir_alloc(600);

	ck_assert_ptr_nonnull(block);
	if (getenv("WEIR_POOL_CLASSES"))
		ck_assert_uint_eq(weir_usable_size(block), 1024);
	run_on(1, free_it, block);
	if (is_again)
		return;
	ck_assert_int_eq(end_of(run_this_again, "WEIR_MEM_DEBUG"), 0);
	ck_assert_int_eq(end_of(run_this_again, "WEIR_POOL_CLASSES"), 0);
}
END_TEST

Suite *io_runtimes_suite(void)
{
	Suite *suite = suite_create("io_runtimes");
	TCase *several = tcase_create("several");
	TCase *hooks = tcase_create("hooks");
	TCase *limits = tcase_create("limits");
	TCase *cpus = tcase_create("cpus");
	TCase *early = tcase_create("early");
	TCase *forking = tcase_create("forking");
	TCase *system = tcase_create("system");

	tcase_set_tags(several, "real"); /* on threads of the system's */
	tcase_set_timeout(several, 30);
	tcase_add_test(several, runtimes_come_and_go_beside_each_other);
	tcase_add_test(several, tasks_of_two_runtimes_share_a_channel);
	suite_add_tcase(suite, several);

	tcase_add_test(hooks, hooks_run_on_each_worker);
	suite_add_tcase(suite, hooks);

	tcase_set_tags(limits, "fast");
	tcase_add_checked_fixture(limits, make_root, remove_root);
	tcase_add_test(limits, a_quota_of_any_level_limits_the_count);
	tcase_add_test(limits, so_does_one_of_the_old_kind);
	tcase_add_test(limits, where_a_cpu_set_is_too_small_cpus_are_counted_all_the_same);
	suite_add_tcase(suite, limits);

	tcase_set_tags(cpus, "fast real");
	tcase_add_test(cpus, workers_are_as_many_as_cpus_allowed);
	tcase_add_test(cpus, pinned_workers_have_a_cpu_each);
	tcase_add_test(cpus, where_a_cpu_set_is_too_small_a_worker_is_pinned_and_let_go);
	suite_add_tcase(suite, cpus);

	tcase_set_timeout(early, 30);
	tcase_add_test(early, memory_may_be_allocated_before_the_first_runtime);
	suite_add_tcase(suite, early);

	tcase_set_timeout(forking, 30);
	tcase_add_test(forking, a_child_of_fork_is_outside_and_the_parent_goes_on);
	suite_add_tcase(suite, forking);

	tcase_set_tags(system, "real"); /* signals, and threads that are stopped */
	tcase_set_timeout(system, 30);
	tcase_add_test(system, interrupted_calls_are_no_errors);
	tcase_add_test(system, signals_end_no_sleep);
	/* swapcontext() gives each task the signal mask it began with: none takes SIGUSR1 */
	if (!getenv("WEIR_SWITCH"))
		tcase_add_test(system, a_worker_that_stands_still_loses_nothing);
	tcase_add_test(system, a_process_that_is_stopped_goes_on);
	suite_add_tcase(suite, system);
	return suite;
}
