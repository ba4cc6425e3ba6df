/* SPDX-License-Identifier: MIT */
/*
 * What the simulated machine has in common with Linux where a program looks closely: ports that are
 * given out, names of files, what a failed call leaves.
 */
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/runtime_test.h"

/* Simulated, once and without faults; -EIO and the like are a claim's that did not hold. */
static void run_calm(weir_fn fn)
{
	ck_assert_int_eq(weir_sim_run(1, fn, NULL, .calm = true, .workers = 1), 0);
}

/* ---- Ports ---------------------------------------------------------------------------------- */

static int listen_beside(void *arg)
{
	enum { FIRST = 32768, COUNT = 40 };
	weir_listener *fixed[COUNT] = { NULL };
	char address[32];

	(void)arg;
	for (int i = 0; i < COUNT; i++) {
		snprintf(address, sizeof address, "127.0.0.1:%d", FIRST + i);
		TRY(weir_listen(&fixed[i], address));
	}
	for (int i = 0; i < COUNT; i++) {
		weir_auto_listener other = NULL;
		weir_auto_dgram dgram = NULL;
		TRY(weir_listen(&other, "127.0.0.1:0"));
		for (int j = 0; j < COUNT; j++)
			expect(strcmp(weir_listener_address(other),
				      weir_listener_address(fixed[j])) != 0);
		TRY(weir_dgram_open(&dgram, "127.0.0.1:0"));
	}
	for (int i = 0; i < COUNT; i++)
		weir_listener_close(fixed[i]);
	return 0;
}

START_TEST(a_port_that_is_given_out_is_nobody_s)
{
	run_calm(listen_beside);
}
END_TEST

static int open_datagrams_beside(void *arg)
{
	weir_auto_dgram fixed = NULL;
	weir_auto_dgram other = NULL;

	(void)arg;
	TRY(weir_dgram_open(&fixed, "127.0.0.1:32768"));
	TRY(weir_dgram_open(&other, "127.0.0.1:0"));
	return strcmp(weir_dgram_address(fixed), weir_dgram_address(other)) ? 0 : -EADDRINUSE;
}

START_TEST(nor_is_that_of_a_datagram_socket)
{
	run_calm(open_datagrams_beside);
}
END_TEST

/* ---- Names of files ------------------------------------------------------------------------- */

static int make(const char *path)
{
	weir_auto_file file = NULL;

	return weir_file_open(&file, path, O_WRONLY | O_CREAT | O_EXCL);
}

static int rename_oddly(void *arg)
{
	struct stat st;

	(void)arg;
	TRY(weir_dir_make("a", 0777));
	TRY(make("a/file"));
	expect(weir_path_rename("a", "a/b") == -EINVAL); /* nobody could reach it */
	expect(weir_path_rename("a", "a/b/c") == -ENOENT);
	TRY(weir_path_stat("a/file", &st));
	TRY(weir_path_rename("a/", "ab"));
	TRY(weir_path_stat("ab/file", &st));
	expect(weir_path_stat("a/file", &st) == -ENOENT);
	TRY(weir_path_rename("ab", "abc")); /* a longer name, not one below */
	TRY(weir_path_remove("abc/file"));
	return weir_path_remove("abc");
}

START_TEST(a_directory_goes_where_it_can_be_found)
{
	run_calm(rename_oddly);
}
END_TEST

static int try_again(void *arg)
{
	int err = 0, tries = 0;

	(void)arg;
	do
		err = make("once");
	while (err == -EMFILE && ++tries < 1000);
	expect(tries > 0); /* or nothing was tested */
	return err;
}

/* The descriptor comes first: where there is none, nothing was made. */
START_TEST(a_file_that_could_not_be_opened_was_not_made)
{
	struct weir_sim_faults few = { .no_descriptors = 900 };

	unsetenv("WEIR_SIM_SEED");
	ck_assert_int_eq(
		weir_sim_run(1, try_again, NULL, .calm = true, .workers = 1, .faults = &few), 0);
}
END_TEST

Suite *io_sim_world_suite(void)
{
	Suite *suite = suite_create("io_sim_world");
	TCase *ports = tcase_create("ports"), *names = tcase_create("names");

	tcase_set_tags(ports, "fast");
	tcase_add_test(ports, a_port_that_is_given_out_is_nobody_s);
	tcase_add_test(ports, nor_is_that_of_a_datagram_socket);
	suite_add_tcase(suite, ports);
	tcase_set_tags(names, "fast");
	tcase_add_test(names, a_directory_goes_where_it_can_be_found);
	tcase_add_test(names, a_file_that_could_not_be_opened_was_not_made);
	suite_add_tcase(suite, names);
	return suite;
}
