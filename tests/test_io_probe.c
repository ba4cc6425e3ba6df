/* SPDX-License-Identifier: MIT */
/*
 * What the machine allows, and what is said when io_uring is refused. Refusals are made with
 * seccomp in a child, as a container makes them.
 */
#include <check.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "alloc/alloc_internal.h"
#include "child.h"
#include "io/probe.h"
#include "runtime/task.h"
#include "tests/descriptors.h"
#include "tests/runtime_test.h"
#include "refuse.h"

struct refusal {
	uint32_t number, err;
	void (*fn)(FILE *);
};

static int print_refused(void *arg)
{
	const struct refusal *refusal = arg;
	int err = refuse_syscall(refusal->number, REFUSE_ANY, refusal->err);
	if (err == 0)
		refusal->fn(stderr);
	return err;
}

/* Leaves in `said` what fn() prints in a child whose system call `number` fails with `err`. */
static void print_without(uint32_t number, uint32_t err, void (*fn)(FILE *))
{
	struct refusal refusal = { number, err, fn };
	ck_assert_int_eq(end_of(print_refused, &refusal), 0);
}

/* For text that was printed here. */
static void assert_has(const char *text, const char *wanted)
{
	ck_assert_msg(strstr(text, wanted) != NULL, "no \"%s\" in:\n%s", wanted, text);
}

static void assert_lacks(const char *text, const char *unwanted)
{
	ck_assert_msg(strstr(text, unwanted) == NULL, "\"%s\" in:\n%s", unwanted, text);
}

/* ---- Trying -------------------------------------------------------------------------------------
 */

START_TEST(what_is_found_can_be_used)
{
	struct weir__probe probe;
	struct io_uring ring;
	ck_assert_int_eq(weir__probe_run(&probe), 0);
	if (probe.setup_err < 0) {
		ck_assert_ptr_null(probe.setup);
		ck_assert_int_lt(io_uring_queue_init(8, &ring, 0), 0);
		return;
	}
	struct io_uring_params params = { .flags = probe.setup_flags, .cq_entries = 64 };
	ck_assert_ptr_nonnull(probe.setup);
	ck_assert_int_eq(io_uring_queue_init_params(8, &ring, &params), 0);
	ck_assert_int_eq(probe.ring_fd, io_uring_register_ring_fd(&ring) == 1);
	io_uring_queue_exit(&ring);
	ck_assert(!probe.recv_multi || probe.bufring);
	ck_assert(!probe.fixed_fd_install || probe.accept_direct);
	ck_assert_uint_gt(probe.cpus, 0);
}
END_TEST

START_TEST(no_descriptor_is_left_open)
{
	struct weir__probe probe;
	ck_assert_int_eq(weir__probe_run(&probe), 0);
	unsigned before = count_descriptors();
	ck_assert_int_eq(weir__probe_run(&probe), 0);
	ck_assert_uint_eq(count_descriptors(), before);
}
END_TEST

START_TEST(too_few_descriptors_are_an_error_and_leave_nothing)
{
	struct weir__probe probe, before;
	unsigned open_before = count_descriptors();
	int refused = 0, lowest = dup(0);
	close(lowest);
	ck_assert_int_eq(weir__probe_run(&probe), 0);
	if (probe.setup_err < 0)
		return;
	before = probe;
	for (rlim_t spare = 0; spare < 12; spare++) {
		struct rlimit limit = { .rlim_cur = (rlim_t)lowest + spare, .rlim_max = 1024 };
		ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
		int err = weir__probe_run(&probe);
		if (err == 0)
			break;
		ck_assert_int_eq(err, -EMFILE);
		ck_assert_mem_eq(&probe, &before, sizeof(probe));
		refused++;
	}
	struct rlimit limit = { .rlim_cur = 1024, .rlim_max = 1024 };
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	ck_assert_uint_eq(count_descriptors(), open_before);
	ck_assert_int_ge(refused, 5); /* a ring and four sockets */
}
END_TEST

static void print_features(FILE *out)
{
	struct weir__probe probe;
	int err = weir__probe_run(&probe);
	fprintf(out, "run %d setup %d seccomp %d\n", err, probe.setup_err, probe.seccomp_mode);
#define XX(field, ...) fprintf(out, #field " %d\n", probe.field);
	WEIR_PROBE_MAP(XX)
#undef XX
}

START_TEST(a_refused_set_up_has_no_features)
{
	static const struct {
		uint32_t err;
		const char *text;
	} refusals[] = { { EPERM, "run 0 setup -1 seccomp 2\n" },
			 { ENOSYS, "run 0 setup -38 seccomp 2\n" },
			 { EINVAL, "run 0 setup -22 seccomp 2\n" } };
	print_without(SYS_io_uring_setup, refusals[_i].err, print_features);
	assert_said(refusals[_i].text);
	assert_not_said(" 1\n");
}
END_TEST

START_TEST(what_is_registered_is_missed_when_registering_is_refused)
{
	struct weir__probe probe;
	char line[64];
	ck_assert_int_eq(weir__probe_run(&probe), 0);
	if (probe.setup_err < 0)
		return;
	print_without(SYS_io_uring_register, EINVAL, print_features);
	assert_said("bufring 0\n");
	assert_said("recv_multi 0\n");
	assert_said("accept_direct 0\n");
	assert_said("fixed_fd_install 0\n");
	assert_said("ring_fd 0\n");
	snprintf(line, sizeof(line), "accept_multi %d\n", probe.accept_multi);
	assert_said(line);
	snprintf(line, sizeof(line), "msg_ring %d\n", probe.msg_ring);
	assert_said(line);
	snprintf(line, sizeof(line), "cancel_any %d\n", probe.cancel_any);
	assert_said(line);
}
END_TEST

/* ---- Explaining ---------------------------------------------------------------------------------
 */

static void explain_what_setup_says(FILE *out)
{
	struct io_uring ring;
	weir__probe_explain_refusal(out, WEIR__SETUP_CALL, io_uring_queue_init(8, &ring, 0));
}

static void explain_as_error(FILE *out)
{
	weir__probe_explain_refusal_as_error(out, WEIR__SETUP_CALL, -EPERM);
}

START_TEST(eperm_under_seccomp_names_the_profile)
{
	print_without(SYS_io_uring_setup, EPERM, explain_what_setup_says);
	assert_said("weir: io_uring is not available: io_uring_setup: EPERM\n");
	if (access("/proc/sys/kernel/io_uring_disabled", F_OK) != 0)
		assert_not_said("io_uring_disabled");
	assert_said("weir:   seccomp filter active (mode 2)        ");
	assert_said("\nweir: using epoll instead. WEIR_DRIVER=uring makes this an error; "
		    "WEIR_QUIET=1 hides it.\n");
}
END_TEST

START_TEST(in_docker_the_text_is_the_documented_one)
{
	struct weir__probe probe;
	ck_assert_int_eq(weir__probe_run(&probe), 0);
	if (probe.container == NULL || strcmp(probe.container, "docker") != 0 ||
	    probe.io_uring_disabled != 0) {
		puts("skipped: not in docker");
		return;
	}
	print_without(SYS_io_uring_setup, EPERM, explain_what_setup_says);
	ck_assert_str_eq(said,
			 "weir: io_uring is not available: io_uring_setup: EPERM\n"
			 "weir:   kernel.io_uring_disabled = 0          ok\n"
			 "weir:   seccomp filter active (mode 2)        likely cause: container "
			 "profile\n"
			 "weir:   try: docker run --security-opt seccomp=unconfined \u2026   (or a "
			 "profile that allows io_uring_*)\n"
			 "weir: using epoll instead. WEIR_DRIVER=uring makes this an error; "
			 "WEIR_QUIET=1 hides it.\n");
}
END_TEST

START_TEST(enosys_under_seccomp_names_the_profile_too)
{
	print_without(SYS_io_uring_setup, ENOSYS, explain_what_setup_says);
	assert_said("weir: io_uring is not available: io_uring_setup: ENOSYS\n");
	assert_said("seccomp filter active (mode 2)        likely cause: ");
	assert_said("weir:   try: ");
	assert_not_said("older than");
}
END_TEST

START_TEST(only_what_is_true_is_said)
{
	char *text;
	size_t len;
	struct weir__probe probe;
	ck_assert_int_eq(weir__probe_run(&probe), 0);
	FILE *out = open_memstream(&text, &len);
	weir__probe_explain_refusal(out, WEIR__SETUP_CALL, -ENOMEM);
	fflush(out);
	assert_has(text, "RLIMIT_MEMLOCK = ");
	assert_has(text, "weir:   try: ulimit -l unlimited");
	assert_lacks(text, "seccomp");
	assert_lacks(text, "io_uring_disabled");
	rewind(out);
	weir__probe_explain_refusal(out, WEIR__SETUP_CALL, -EOVERFLOW);
	fflush(out);
	ck_assert_int_eq(strncmp(text,
				 "weir: io_uring is not available: io_uring_setup: EOVERFLOW\n"
				 "weir: using epoll",
				 76),
			 0);
	fclose(out);
	free(text);
	if (probe.seccomp_mode == 0) {
		out = open_memstream(&text, &len);
		weir__probe_explain_refusal(out, WEIR__SETUP_CALL, -ENOSYS);
		fclose(out);
		assert_lacks(text, "seccomp");
		assert_has(text, probe.kernel);
		assert_has(text, "likely cause: older than Linux 5.11,");
		free(text);
	}
}
END_TEST

START_TEST(who_insists_on_uring_is_not_promised_epoll)
{
	print_without(SYS_io_uring_setup, EPERM, explain_as_error);
	assert_said("weir: io_uring is not available: io_uring_setup: EPERM\n");
	assert_said("weir: nothing was started; WEIR_DRIVER=epoll does without io_uring.\n");
	assert_not_said("using epoll instead");
}
END_TEST

/* ---- Falling back -------------------------------------------------------------------------------
 */

static int say_hello(void *arg)
{
	(void)arg;
	fputs("hello\n", stderr);
	return 0;
}

static int say_result(int err)
{
	fprintf(stderr, "returned %s\n", err == 0 ? "0" : weir_errname(err));
	return 0;
}

static int run_refused_with(uint32_t number, uint32_t refusal, const char *driver)
{
	unsetenv("WEIR_DRIVER");
	if (refuse_syscall(number, REFUSE_ANY, refusal) != 0)
		return -1;
	return say_result(weir_run(say_hello, NULL, .workers = 2, .driver = driver));
}

/* Runs a program on a machine that refuses io_uring. */
static int run_refused(void *arg)
{
	return run_refused_with(SYS_io_uring_setup, EPERM, arg);
}

static int run_refused_otherwise(void *arg)
{
	return run_refused_with(SYS_io_uring_setup, *(const uint32_t *)arg, NULL);
}

static int run_refused_the_rest(void *arg)
{
	return run_refused_with(*(const uint32_t *)arg, EPERM, NULL);
}

START_TEST(a_refused_run_says_so_once_and_goes_on_with_epoll)
{
	unsetenv("WEIR_QUIET");
	ck_assert_int_eq(end_of(run_refused, NULL), 0);
	const char *first = assert_said("weir: io_uring is not available: io_uring_setup: EPERM\n");
	assert_said("weir: using epoll instead.");
	assert_said("hello\nreturned 0\n");
	ck_assert_ptr_null(strstr(first + 1, "weir: io_uring is not available"));
}
END_TEST

/* EINVAL is what Linux 5.1 to 5.5 say, which do not know all we ask for. */
START_TEST(whatever_the_refusal_is_epoll_will_do)
{
	static const uint32_t refusals[] = { ENOSYS, EINVAL, ENOMEM, EACCES, EOPNOTSUPP };

	unsetenv("WEIR_QUIET");
	ck_assert_int_eq(end_of(run_refused_otherwise, (void *)&refusals[_i]), 0);
	assert_said("weir: using epoll instead.");
	assert_said("hello\nreturned 0\n");
}
END_TEST

START_TEST(a_ring_that_cannot_be_used_is_none)
{
	static const uint32_t calls[] = { SYS_io_uring_enter, SYS_io_uring_register };

	unsetenv("WEIR_QUIET");
	ck_assert_int_eq(end_of(run_refused_the_rest, (void *)&calls[_i]), 0);
	assert_said("weir: using epoll instead.");
	assert_said("hello\nreturned 0\n");
	assert_not_said("no seccomp filter");
}
END_TEST

START_TEST(quiet_hides_the_notice)
{
	setenv("WEIR_QUIET", "1", 1);
	ck_assert_int_eq(end_of(run_refused, NULL), 0);
	ck_assert_str_eq(said, "hello\nreturned 0\n");
}
END_TEST

START_TEST(who_insists_on_uring_gets_the_error)
{
	ck_assert_int_eq(end_of(run_refused, (void *)"uring"), 0);
	assert_said("weir: io_uring is not available: io_uring_setup: EPERM\n");
	assert_said("weir: nothing was started; WEIR_DRIVER=epoll does without io_uring.\n");
	assert_said("returned EPERM\n");
	assert_not_said("hello");
}
END_TEST

START_TEST(who_asks_for_epoll_hears_nothing)
{
	ck_assert_int_eq(end_of(run_refused, (void *)"epoll"), 0);
	ck_assert_str_eq(said, "hello\nreturned 0\n");
}
END_TEST

/* ---- What is not the kernel's fault -------------------------------------------------------------
 */

enum { SITES_MAX = 64 };
static int granted; /* allocations in worker `hungry`, before one that is not */
static int hungry;

static bool is_refused_here(void)
{
	return weir_worker_index() == hungry && granted-- == 0;
}

static int run_hungry(void *arg)
{
	unsigned workers = *(unsigned *)arg;
	unsetenv("WEIR_DRIVER");
	weir__fault_ask(is_refused_here);
	int err = weir_run(say_hello, NULL, .workers = workers);
	weir__fault_ask(NULL);
	return say_result(err);
}

/* Refuses one allocation of this worker after the other until that is what is said of the ring. */
static void starve(int worker, unsigned workers)
{
	static const char told[] = "not available: memory for the ring's record: ENOMEM\n";
	unsetenv("WEIR_QUIET");
	hungry = worker;
	for (int site = 0; site < SITES_MAX; site++) {
		granted = site;
		ck_assert_int_eq(end_of(run_hungry, &workers), 0);
		assert_not_said("io_uring_setup");
		assert_not_said("RLIMIT_MEMLOCK");
		if (strstr(said, told) != NULL)
			return;
	}
	ck_abort_msg("never said: %s", told);
}

START_TEST(a_refused_allocation_is_not_laid_on_the_kernel)
{
	starve(0, 1);
	assert_said("weir: using epoll instead.");
	assert_said("hello\nreturned 0\n");
}
END_TEST

START_TEST(a_worker_whose_ring_has_no_memory_takes_the_others_to_epoll)
{
	starve(1, 2);
	assert_said("weir: using epoll instead.");
	assert_said("hello\nreturned 0\n");
}
END_TEST

/* ---- Refused to some ----------------------------------------------------------------------------
 */

/* Worker 0 has its ring by now; threads that it starts get none. */
static void refuse_the_others(unsigned worker, void *user)
{
	(void)user;
	if (worker == 0)
		(void)refuse_syscall(SYS_io_uring_setup, REFUSE_ANY, ENOMEM);
}

static int say_driver(void *arg)
{
	(void)arg;
	fprintf(stderr, "worker %d on %s\n", weir_worker_index(),
		weir__worker_self()->driver->ops->name);
	return 0;
}

static int say_all_drivers(void *arg)
{
	(void)arg;
	for (unsigned i = 0; i < (unsigned)weir_worker_count(); i++) {
		int err = weir_call_on(i, say_driver, NULL);
		if (err < 0)
			return err;
	}
	return 0;
}

static const struct weir_thread_hooks refusing = { .start = refuse_the_others };

static int run_refused_to_some(void *arg)
{
	unsetenv("WEIR_DRIVER");
	return say_result(
		weir_run(say_all_drivers, NULL, .workers = 3, .driver = arg, .hooks = &refusing));
}

static int embed_refused_to_some(void *arg)
{
	weir_embed *embed;

	(void)arg;
	unsetenv("WEIR_DRIVER");
	int err = weir_embed_open(&embed, say_all_drivers, NULL, .workers = 3, .hooks = &refusing);
	if (err == 0) {
		while (weir_embed_turn(embed))
			;
		err = weir_embed_close(embed);
	}
	return say_result(err);
}

static int (*const ways_refused_to_some[])(void *) = { run_refused_to_some, embed_refused_to_some };

START_TEST(where_one_worker_is_refused_a_ring_all_use_epoll_and_one_says_so)
{
	unsetenv("WEIR_QUIET");
	ck_assert_int_eq(end_of(ways_refused_to_some[_i], NULL), 0);
	const char *first =
		assert_said("weir: io_uring is not available: io_uring_setup: ENOMEM\n");
	ck_assert_ptr_null(strstr(first + 1, "weir: io_uring is not available"));
	assert_said("weir: using epoll instead.");
	assert_said("worker 0 on epoll\nworker 1 on epoll\nworker 2 on epoll\nreturned 0\n");
}
END_TEST

START_TEST(who_insists_on_uring_gets_the_error_of_any_worker)
{
	ck_assert_int_eq(end_of(run_refused_to_some, (void *)"uring"), 0);
	assert_said("weir: nothing was started; WEIR_DRIVER=epoll does without io_uring.\n");
	assert_said("returned ENOMEM\n");
	assert_not_said("worker ");
}
END_TEST

/* ---- The doctor ---------------------------------------------------------------------------------
 */

START_TEST(the_doctor_names_every_feature_and_what_it_lacks)
{
	struct weir__probe probe;
	char *text;
	size_t len;
	ck_assert_int_eq(weir__probe_run(&probe), 0);
	FILE *out = open_memstream(&text, &len);
	weir_doctor(out);
	fclose(out);
	assert_has(text, probe.kernel);
	assert_has(text, "open files (ulimit -n)");
	if (probe.setup_err == 0) {
#define XX(field, what, needed)                                                                    \
	assert_has(text, "  " what " ");                                                           \
	ck_assert_int_eq(strstr(text, "needs " needed) == NULL, probe.field);
		WEIR_PROBE_MAP(XX)
#undef XX
	}
	free(text);
}
END_TEST

START_TEST(the_doctor_says_what_to_type)
{
	struct rlimit limit = { .rlim_cur = 256, .rlim_max = 256 };
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	print_without(SYS_io_uring_setup, EPERM, weir_doctor);
	assert_said("weir: io_uring is not available: io_uring_setup: EPERM\n");
	assert_said("weir:   try: ");
	assert_said("256            try: ulimit -n 65536");
	assert_not_said("using epoll");
	assert_not_said("multishot");
}
END_TEST

/* ---- Addresses --------------------------------------------------------------------------------
 */

static int main_of_none(void *arg)
{
	(void)arg;
	return 0;
}

/* In a child. 0: refused for want of memory. */
static int run_within(void *arg)
{
	const unsigned *mib = arg;
	struct rlimit limit = { (rlim_t)*mib << 20, (rlim_t)*mib << 20 };

	if (setrlimit(RLIMIT_AS, &limit) < 0)
		return -errno;
	return weir_run(main_of_none, NULL, .workers = 2) == -ENOMEM ? 0 : -EIO;
}

START_TEST(a_limit_on_addresses_is_told_with_what_would_do)
{
	ck_assert_int_eq(end_of(run_within, &(unsigned){ 250 }), 0);
	assert_said("weir: no memory for the heap of worker 0 of 2: it reserves 2");
	assert_said(" MiB of addresses at the least, and the limit for the process is 250 MiB "
		    "(ulimit -v)\n");
	const char *fix = assert_said("weir:   try: ");
	assert_said("try: a higher limit, or fewer workers: WEIR_WORKERS=1\n");
	ck_assert_ptr_null(strstr(fix + 1, "weir:")); /* once */
}
END_TEST

/* ---- Memcheck ---------------------------------------------------------------------------------
 */

static int say_a_word(weir_conn *conn)
{
	return weir_write(conn, "word\n", 5) == 5 ? 0 : -EPIPE;
}

static int serve_word(void *ln)
{
	return weir_serve(ln, say_a_word);
}

static int hear_it(void *arg)
{
	weir_auto_listener ln = NULL;
	weir_auto_conn conn = NULL;
	char word[8];

	(void)arg;
	int err = weir_listen(&ln, "127.0.0.1:0");
	ck_assert_int_eq(err, 0);
	WEIR_SCOPE(scope, WEIR_FOREVER);
	ck_assert_int_eq(weir_spawn(&scope, serve_word, ln), 0);
	ck_assert_int_eq(weir_connect(&conn, weir_listener_address(ln)), 0);
	ck_assert_int_eq(weir_read_until(conn, '\n', word, sizeof word), 5);
	ck_assert_int_eq(word[0], 'w'); /* memcheck complains of what it takes for unwritten */
	return 0;
}

START_TEST(what_has_come_is_no_news_to_memcheck)
{
	unsetenv("WEIR_DRIVER");
	ck_assert_int_eq(weir_run(hear_it, NULL), 0);
}
END_TEST

Suite *io_probe_suite(void)
{
	Suite *suite = suite_create("io_probe");
	TCase *trying = tcase_create("trying");
	tcase_add_test(trying, what_is_found_can_be_used);
	tcase_add_test(trying, no_descriptor_is_left_open);
	tcase_add_test(trying, too_few_descriptors_are_an_error_and_leave_nothing);
	tcase_add_loop_test(trying, a_refused_set_up_has_no_features, 0, 3);
	tcase_add_test(trying, what_is_registered_is_missed_when_registering_is_refused);
	suite_add_tcase(suite, trying);
	TCase *explaining = tcase_create("explaining");
	tcase_add_test(explaining, eperm_under_seccomp_names_the_profile);
	tcase_add_test(explaining, in_docker_the_text_is_the_documented_one);
	tcase_add_test(explaining, enosys_under_seccomp_names_the_profile_too);
	tcase_add_test(explaining, only_what_is_true_is_said);
	tcase_add_test(explaining, who_insists_on_uring_is_not_promised_epoll);
	suite_add_tcase(suite, explaining);
	TCase *falling_back = tcase_create("falling_back");
	tcase_add_test(falling_back, a_refused_run_says_so_once_and_goes_on_with_epoll);
	tcase_add_loop_test(falling_back, whatever_the_refusal_is_epoll_will_do, 0, 5);
	tcase_add_loop_test(falling_back, a_ring_that_cannot_be_used_is_none, 0, 2);
	tcase_add_test(falling_back, quiet_hides_the_notice);
	tcase_add_test(falling_back, who_insists_on_uring_gets_the_error);
	tcase_add_test(falling_back, who_asks_for_epoll_hears_nothing);
	tcase_add_test(falling_back, a_refused_allocation_is_not_laid_on_the_kernel);
	tcase_add_test(falling_back, a_worker_whose_ring_has_no_memory_takes_the_others_to_epoll);
	tcase_add_loop_test(falling_back,
			    where_one_worker_is_refused_a_ring_all_use_epoll_and_one_says_so, 0, 2);
	tcase_add_test(falling_back, who_insists_on_uring_gets_the_error_of_any_worker);
	suite_add_tcase(suite, falling_back);
	TCase *addresses = tcase_create("addresses");
	tcase_set_tags(addresses, "real"); /* simulated workers begin elsewhere */
	if (!TESTS_SLOW)		   /* whose shadow memory is addresses too */
		tcase_add_test(addresses, a_limit_on_addresses_is_told_with_what_would_do);
	suite_add_tcase(suite, addresses);
	TCase *memcheck = tcase_create("memcheck");
	tcase_set_tags(memcheck, "fast real"); /* a driver of the kernel's */
	tcase_add_test(memcheck, what_has_come_is_no_news_to_memcheck);
	suite_add_tcase(suite, memcheck);
	TCase *doctor = tcase_create("doctor");
	tcase_add_test(doctor, the_doctor_names_every_feature_and_what_it_lacks);
	tcase_add_test(doctor, the_doctor_says_what_to_type);
	suite_add_tcase(suite, doctor);
	return suite;
}
