/* SPDX-License-Identifier: MIT */
/*
 * How files end: closed while others use them, read when the disk breaks off, taken for files
 * though they are none.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/file_test.h"

/* ---- Closing -------------------------------------------------------------------------------- */

static int read_until_closed(void *arg)
{
	weir_file *file = arg;
	static _Thread_local char in[1 << 16];

	for (int i = 0; i < 4; i++) {
		ssize_t n = weir_file_read_at(file, in, sizeof in, 0);
		expect(n == sizeof in);
	}
	return 0;
}

static int close_in_use(void *arg)
{
	static char out[1 << 16];
	weir_file *file;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_file_open(&file, name_of("closed"), O_RDWR | O_CREAT | O_TRUNC));
	expect(weir_file_write_at(file, out, sizeof out, 0) == sizeof out);
	for (unsigned i = 0; i < 8; i++)
		TRY(weir_spawn(&scope, read_until_closed, file, .worker = WEIR_ON_WORKER(i % 2)));
	TRY(weir_scope_wait(&scope));
	weir_file_close(file);
	return weir_path_remove(name_of("closed"));
}

START_TEST(readers_of_two_workers_end_and_the_file_is_closed)
{
	for (int i = 0; i < ROUNDS(20); i++)
		run_file_test(close_in_use);
}
END_TEST

struct call {
	weir_file *file;
	bool has_begun;
	int result;
};

/* Which no driver does without parking. */
static int sync_once(void *arg)
{
	struct call *call = arg;

	call->has_begun = true;
	call->result = weir_file_sync(call->file);
	return 0;
}

static int close_under_a_call(void *arg)
{
	struct call call = { .result = 77 };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_file_open(&call.file, name_of("busy"), O_RDWR | O_CREAT | O_TRUNC));
	expect(weir_file_write_at(call.file, "busy", 4, 0) == 4);
	TRY(weir_spawn(&scope, sync_once, &call,
		       .worker = WEIR_ON_WORKER((unsigned)weir_worker_index())));
	while (!call.has_begun)
		TRY(weir_yield());
	weir_file_close(call.file);
	expect(call.result == 0);
	TRY(weir_scope_wait(&scope));
	return weir_path_remove(name_of("busy"));
}

START_TEST(closing_waits_for_a_call_that_is_under_way)
{
	run_file_test(close_under_a_call);
}
END_TEST

struct closing {
	weir_file *file;
	bool has_begun, is_over;
};

static int close_it(void *arg)
{
	struct closing *closing = arg;

	closing->has_begun = true;
	weir_file_close(closing->file);
	closing->is_over = true;
	return 0;
}

/* What comes while the closer waits for the kernel must not be taken for what it waits for. */
static int call_while_closing(void *arg)
{
	struct closing closing = { 0 };
	int open = count_descriptors();
	char byte;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_file_open(&closing.file, name_of("closing"), O_RDWR | O_CREAT));
	TRY(weir_spawn(&scope, close_it, &closing,
		       .worker = WEIR_ON_WORKER((unsigned)weir_worker_index())));
	while (!closing.has_begun)
		TRY(weir_yield());
	if (!closing.is_over) { /* it waits: nowhere but in the simulator it need not */
		expect(weir_file_size(closing.file) == -EBADF);
		expect(weir_file_read_at(closing.file, &byte, 1, 0) == -EBADF);
		expect(weir_file_sync(closing.file) == -EBADF);
	}
	while (!closing.is_over)
		TRY(weir_yield());
	expect(count_descriptors() == open); /* and has not come back before it is closed */
	TRY(weir_scope_wait(&scope));
	return weir_path_remove(name_of("closing"));
}

START_TEST(a_call_on_a_file_that_is_being_closed_is_ebadf_and_wakes_nobody)
{
	run_on(1, call_while_closing, NULL);
}
END_TEST

/* ---- Whole files ---------------------------------------------------------------------------- */

static int load_a_directory(void *arg)
{
	struct stat st;
	char *text = NULL;
	size_t len = 77;

	(void)arg;
	TRY(weir_path_stat("/tmp", &st));
	/* whatever its size, which says nothing */
	expect(weir_file_load("/tmp", 0, &text, &len) == -EISDIR);
	expect(weir_file_load("/tmp", st.st_size ? (size_t)st.st_size - 1 : 0, &text, &len) ==
	       -EISDIR);
	expect(weir_file_load("/tmp", SIZE_MAX, &text, &len) == -EISDIR);
	return text == NULL && len == 77 ? 0 : -EIO;
}

START_TEST(a_directory_is_no_file_however_large)
{
	run_on(1, load_a_directory, NULL);
}
END_TEST

enum { WHOLE_BYTES = 5000 };

static int load_from_a_broken_disk(void *arg)
{
	static char out[WHOLE_BYTES];
	weir_auto_file file = NULL;
	char *text = NULL;
	size_t len = 77;

	(void)arg;
	TRY(weir_file_open(&file, "half", O_RDWR | O_CREAT));
	expect(weir_file_write_at(file, out, sizeof out, 0) == sizeof out);
	int err = weir_file_load("half", sizeof out, &text, &len);
	expect(err < 0 ? !text && len == 77 : len == sizeof out);
	weir_free(text);
	return err;
}

static void break_reads(struct weir_sim_op *op, void *arg)
{
	const uint64_t *broken = arg;

	if (strcmp(op->name, "read") != 0)
		return;
	op->bytes_max = 1000;
	if (op->nth >= *broken)
		op->error = -EIO;
}

START_TEST(half_a_file_is_not_loaded_for_the_whole)
{
	FILE *nowhere = fopen("/dev/null", "w");
	uint64_t broken;

	/* six reads: the last one finds the end */
	for (broken = 1; broken <= 6; broken++)
		ck_assert_int_eq(weir_sim_run(1, load_from_a_broken_disk, NULL, .calm = true,
					      .workers = 1, .script = break_reads,
					      .script_arg = &broken, .report = nowhere),
				 -EIO);
	fclose(nowhere);
	broken = 1000;
	ck_assert_int_eq(weir_sim_run(1, load_from_a_broken_disk, NULL, .calm = true, .workers = 1,
				      .script = break_reads, .script_arg = &broken),
			 0);
}
END_TEST

/* ---- Cancelling ----------------------------------------------------------------------------- */

/* Every call once; the first error. */
static int call_everything(void)
{
	weir_auto_file file = NULL;
	struct stat st;
	char in[16], *text, **names;
	size_t len;

	TRY(weir_file_open(&file, name_of("calls"), O_RDWR | O_CREAT));
	TRY((int)weir_file_write_at(file, "text", 4, 0));
	TRY(weir_file_truncate(file, 4));
	TRY(weir_file_sync_data(file));
	TRY((int)weir_file_read_at(file, in, sizeof in, 0));
	TRY(weir_file_stat(file, &st));
	TRY((int)weir_file_size(file));
	TRY(weir_path_stat(name_of("calls"), &st));
	TRY(weir_file_load(name_of("calls"), 100, &text, &len));
	weir_free(text);
	TRY(weir_dir_list("/tmp", &names));
	weir_free(names);
	TRY(weir_path_rename(name_of("calls"), name_of("renamed")));
	return weir_path_remove(name_of("renamed"));
}

static int call_until_late(void *arg)
{
	int err;

	(void)arg;
	do {
		err = call_everything();
		if (err == -ENOENT) /* renamed by a call that was interrupted after it */
			err = 0;
	} while (err == 0);
	return err;
}

static int run_out_of_time(void *arg)
{
	uint64_t seed = test_seed();

	(void)arg;
	for (int i = 0; i < ROUNDS(200); i++) {
		WEIR_SCOPE(scope, (int64_t)(random_next(&seed) % 300000));
		int err = call_until_late(NULL);
		expect(err == -ETIME);
	}
	(void)!weir_path_remove(name_of("calls"));
	(void)!weir_path_remove(name_of("renamed"));
	return 0;
}

START_TEST(a_deadline_ends_every_call)
{
	run_file_test(run_out_of_time);
}
END_TEST

static int call_until_cancelled(void *result)
{
	return *(int *)result = call_until_late(NULL);
}

static int cancel_calls(void *arg)
{
	uint64_t seed = test_seed();
	int result;

	(void)arg;
	for (int i = 0; i < ROUNDS(200); i++) {
		result = -ECANCELED; /* should it not even begin */
		{
			WEIR_SCOPE(scope, WEIR_FOREVER);
			TRY(weir_spawn(&scope, call_until_cancelled, &result,
				       .worker = WEIR_ON_WORKER((unsigned)i % 2)));
			TRY(weir_sleep((int64_t)(random_next(&seed) % 300000)));
		}
		expect(result == -ECANCELED);
	}
	(void)!weir_path_remove(name_of("calls"));
	(void)!weir_path_remove(name_of("renamed"));
	return 0;
}

START_TEST(a_cancellation_ends_every_call)
{
	run_file_test(cancel_calls);
}
END_TEST

static int call_when_cancelled(void *arg)
{
	weir_file *file = NULL;
	char byte = 7, **names = NULL;
	struct stat st;

	(void)arg;
	TRY(weir_file_open(&file, name_of("late"), O_RDWR | O_CREAT));
	WEIR_SCOPE(scope, WEIR_FOREVER);
	weir_scope_cancel(&scope);
	weir_file *none = NULL;
	expect(weir_file_open(&none, name_of("late"), O_RDWR) == -ECANCELED && !none);
	expect(weir_file_read_at(file, &byte, 1, 0) == -ECANCELED && byte == 7);
	expect(weir_file_write_at(file, "x", 1, 0) == -ECANCELED);
	expect(weir_file_sync(file) == -ECANCELED && weir_file_truncate(file, 1) == -ECANCELED);
	expect(weir_file_size(file) == -ECANCELED && weir_file_stat(file, &st) == -ECANCELED);
	expect(weir_path_rename("/tmp", "/tmp") == -ECANCELED);
	expect(weir_path_remove(name_of("late")) == -ECANCELED);
	expect(weir_dir_make(name_of("late"), 0700) == -ECANCELED);
	expect(weir_dir_list("/tmp", &names) == -ECANCELED && !names);
	weir_file_close(file); /* which works nevertheless */
	WEIR_SHIELD(clean_up, WEIR_SEC);
	return weir_path_remove(name_of("late"));
}

START_TEST(a_cancelled_task_does_nothing_to_files_but_close_them)
{
	run_file_test(call_when_cancelled);
}
END_TEST

Suite *io_file_ending_suite(void)
{
	Suite *suite = suite_create("io_file_ending");
	TCase *closing = tcase_create("closing"), *whole = tcase_create("whole files");

	tcase_add_test(closing, a_call_on_a_file_that_is_being_closed_is_ebadf_and_wakes_nobody);
	tcase_add_test(closing, readers_of_two_workers_end_and_the_file_is_closed);
	tcase_add_test(closing, closing_waits_for_a_call_that_is_under_way);
	suite_add_tcase(suite, closing);
	tcase_set_tags(whole, "fast");
	tcase_add_test(whole, a_directory_is_no_file_however_large);
	tcase_add_test(whole, half_a_file_is_not_loaded_for_the_whole);
	suite_add_tcase(suite, whole);
	TCase *cancelling = tcase_create("cancelling");
	tcase_add_test(cancelling, a_deadline_ends_every_call);
	tcase_add_test(cancelling, a_cancellation_ends_every_call);
	tcase_add_test(cancelling, a_cancelled_task_does_nothing_to_files_but_close_them);
	suite_add_tcase(suite, cancelling);
	return suite;
}
