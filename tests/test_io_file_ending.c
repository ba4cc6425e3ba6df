/* SPDX-License-Identifier: MIT */
/*
 * How files end: closed while others use them, read when the disk breaks off, taken for files
 * though they are none.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/descriptors.h"
#include "tests/runtime_test.h"

/* A name of this process's own, in turn out of four. */
static const char *name_of(const char *what)
{
	static char names[4][64];
	static unsigned next;
	char *name = names[next++ % 4];

	snprintf(name, sizeof names[0], "/tmp/weir-ending-%d-%s", (int)getpid(), what);
	return name;
}

/* ---- Closing -------------------------------------------------------------------------------- */

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

Suite *io_file_ending_suite(void)
{
	Suite *suite = suite_create("io_file_ending");
	TCase *closing = tcase_create("closing"), *whole = tcase_create("whole files");

	tcase_add_test(closing, a_call_on_a_file_that_is_being_closed_is_ebadf_and_wakes_nobody);
	suite_add_tcase(suite, closing);
	tcase_set_tags(whole, "fast");
	tcase_add_test(whole, a_directory_is_no_file_however_large);
	tcase_add_test(whole, half_a_file_is_not_loaded_for_the_whole);
	suite_add_tcase(suite, whole);
	return suite;
}
