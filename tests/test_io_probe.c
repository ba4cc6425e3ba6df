/* SPDX-License-Identifier: MIT */
/*
 * What the machine allows, and what is said when io_uring is refused. Refusals are made with
 * seccomp in a child, as a container makes them.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/probe.h"
#include "refuse.h"

/* What fn() printed, in a child whose io_uring_`name`() fails with `err`. Valid until the next
 * call. */
static const char *said_in_child(uint32_t refused, uint32_t err, void (*fn)(FILE *))
{
	static char text[1 << 14];
	int pipe_fds[2], status;
	size_t len = 0;
	ssize_t got;
	ck_assert_int_eq(pipe(pipe_fds), 0);
	fflush(NULL);
	pid_t child = fork();
	ck_assert_int_ge(child, 0);
	if (child == 0) {
		FILE *out = fdopen(pipe_fds[1], "w");
		if (refuse_syscall(refused, REFUSE_ANY, err) != 0)
			_exit(2);
		fn(out);
		_exit(fclose(out) == 0 ? 0 : 3);
	}
	close(pipe_fds[1]);
	while ((got = read(pipe_fds[0], text + len, sizeof(text) - 1 - len)) > 0)
		len += (size_t)got;
	text[len] = '\0';
	close(pipe_fds[0]);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	return text;
}

static void assert_says(const char *text, const char *wanted)
{
	ck_assert_msg(strstr(text, wanted) != NULL, "no \"%s\" in:\n%s", wanted, text);
}

static void assert_silent(const char *text, const char *unwanted)
{
	ck_assert_msg(strstr(text, unwanted) == NULL, "\"%s\" in:\n%s", unwanted, text);
}

static unsigned count_descriptors(void)
{
	unsigned count = 0;
	DIR *dir = opendir("/proc/self/fd");
	ck_assert_ptr_nonnull(dir);
	while (readdir(dir) != NULL)
		count++;
	closedir(dir);
	return count;
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
	const char *text = said_in_child(SYS_io_uring_setup, refusals[_i].err, print_features);
	assert_says(text, refusals[_i].text);
	assert_silent(text, " 1\n");
}
END_TEST

START_TEST(what_is_registered_is_missed_when_registering_is_refused)
{
	struct weir__probe probe;
	char line[64];
	ck_assert_int_eq(weir__probe_run(&probe), 0);
	if (probe.setup_err < 0)
		return;
	const char *text = said_in_child(SYS_io_uring_register, EINVAL, print_features);
	assert_says(text, "bufring 0\n");
	assert_says(text, "recv_multi 0\n");
	assert_says(text, "accept_direct 0\n");
	assert_says(text, "fixed_fd_install 0\n");
	assert_says(text, "ring_fd 0\n");
	snprintf(line, sizeof(line), "accept_multi %d\n", probe.accept_multi);
	assert_says(text, line);
	snprintf(line, sizeof(line), "msg_ring %d\n", probe.msg_ring);
	assert_says(text, line);
	snprintf(line, sizeof(line), "cancel_any %d\n", probe.cancel_any);
	assert_says(text, line);
}
END_TEST

/* ---- Explaining ---------------------------------------------------------------------------------
 */

static void explain_what_setup_says(FILE *out)
{
	struct io_uring ring;
	weir__probe_explain_refusal(out, io_uring_queue_init(8, &ring, 0));
}

static void explain_as_error(FILE *out)
{
	weir__probe_explain_refusal_as_error(out, -EPERM);
}

START_TEST(eperm_under_seccomp_names_the_profile)
{
	const char *text = said_in_child(SYS_io_uring_setup, EPERM, explain_what_setup_says);
	assert_says(text, "weir: io_uring is not available: io_uring_setup: EPERM\n");
	if (access("/proc/sys/kernel/io_uring_disabled", F_OK) != 0)
		assert_silent(text, "io_uring_disabled");
	assert_says(text, "weir:   seccomp filter active (mode 2)        ");
	assert_says(text, "\nweir: using epoll instead. WEIR_DRIVER=uring makes this an error; "
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
	ck_assert_str_eq(
		said_in_child(SYS_io_uring_setup, EPERM, explain_what_setup_says),
		"weir: io_uring is not available: io_uring_setup: EPERM\n"
		"weir:   kernel.io_uring_disabled = 0          ok\n"
		"weir:   seccomp filter active (mode 2)        likely cause: container profile\n"
		"weir:   try: docker run --security-opt seccomp=unconfined \u2026   (or a profile "
		"that "
		"allows io_uring_*)\n"
		"weir: using epoll instead. WEIR_DRIVER=uring makes this an error; WEIR_QUIET=1 "
		"hides "
		"it.\n");
}
END_TEST

START_TEST(enosys_under_seccomp_names_the_profile_too)
{
	const char *text = said_in_child(SYS_io_uring_setup, ENOSYS, explain_what_setup_says);
	assert_says(text, "weir: io_uring is not available: io_uring_setup: ENOSYS\n");
	assert_says(text, "seccomp filter active (mode 2)        likely cause: ");
	assert_says(text, "weir:   try: ");
	assert_silent(text, "older than");
}
END_TEST

START_TEST(only_what_is_true_is_said)
{
	char *text;
	size_t len;
	struct weir__probe probe;
	ck_assert_int_eq(weir__probe_run(&probe), 0);
	FILE *out = open_memstream(&text, &len);
	weir__probe_explain_refusal(out, -ENOMEM);
	fflush(out);
	assert_says(text, "RLIMIT_MEMLOCK = ");
	assert_says(text, "weir:   try: ulimit -l unlimited");
	assert_silent(text, "seccomp");
	assert_silent(text, "io_uring_disabled");
	rewind(out);
	weir__probe_explain_refusal(out, -EINVAL);
	fflush(out);
	ck_assert_int_eq(strncmp(text,
				 "weir: io_uring is not available: io_uring_setup: EINVAL\n"
				 "weir: using epoll",
				 72),
			 0);
	fclose(out);
	free(text);
	if (probe.seccomp_mode == 0) {
		out = open_memstream(&text, &len);
		weir__probe_explain_refusal(out, -ENOSYS);
		fclose(out);
		assert_silent(text, "seccomp");
		assert_says(text, probe.kernel);
		assert_says(text, "likely cause: older than Linux 5.1");
		free(text);
	}
}
END_TEST

START_TEST(who_insists_on_uring_is_not_promised_epoll)
{
	const char *text = said_in_child(SYS_io_uring_setup, EPERM, explain_as_error);
	assert_says(text, "weir: io_uring is not available: io_uring_setup: EPERM\n");
	assert_says(text, "weir: nothing was started; WEIR_DRIVER=epoll does without io_uring.\n");
	assert_silent(text, "using epoll instead");
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
	assert_says(text, probe.kernel);
	assert_says(text, "open files (ulimit -n)");
	if (probe.setup_err == 0) {
#define XX(field, what, needed)                                                                    \
	assert_says(text, "  " what " ");                                                          \
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
	const char *text = said_in_child(SYS_io_uring_setup, EPERM, weir_doctor);
	assert_says(text, "weir: io_uring is not available: io_uring_setup: EPERM\n");
	assert_says(text, "weir:   try: ");
	assert_says(text, "256            try: ulimit -n 65536");
	assert_silent(text, "using epoll");
	assert_silent(text, "multishot");
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
	TCase *doctor = tcase_create("doctor");
	tcase_add_test(doctor, the_doctor_names_every_feature_and_what_it_lacks);
	tcase_add_test(doctor, the_doctor_says_what_to_type);
	suite_add_tcase(suite, doctor);
	return suite;
}
