/* SPDX-License-Identifier: MIT */
/*
 * main.c: one runner for all suites.
 *
 *   run                    everything
 *   run alloc_heap io_     the suite of this name, or those whose names begin so
 *
 * Check's variables work as documented: CK_RUN_SUITE, CK_RUN_CASE, CK_FORK, CK_VERBOSITY,
 * CK_INCLUDE_TAGS. What the suites say about a driver holds for the one WEIR_DRIVER names; with
 * WEIR_DRIVER=sim they run in the simulator, with the seed WEIR_SIM_SEED, but for cases tagged
 * `real`. suites.h is made by tests.mk from the names of the files.
 *
 * Nothing else of where the runner was started changes a result: other variables of the library's
 * and signals that a shell has ignored are put back to what a program begins with, and the limits
 * of time are there to end what hangs, far from what a busy machine needs.
 */
#include <check.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

#define SUITE(name) Suite *name##_suite(void);
#include "suites.h"
#undef SUITE

static const struct {
	const char *name;
	Suite *(*make)(void);
} suites[] = {
#define SUITE(name) { #name, name##_suite },
#include "suites.h"
#undef SUITE
};
#define SUITES (sizeof(suites) / sizeof(*suites))

static bool is_a_suite(const char *name)
{
	for (size_t i = 0; i < SUITES; i++)
		if (strcmp(suites[i].name, name) == 0)
			return true;
	return false;
}

static bool is_wanted(const char *name, char *const *words)
{
	if (*words == NULL)
		return true;
	for (; *words != NULL; words++)
		if (strcmp(name, *words) == 0 ||
		    (!is_a_suite(*words) && strncmp(name, *words, strlen(*words)) == 0))
			return true;
	return false;
}

static int no_such_suite(void)
{
	fprintf(stderr, "no suite begins so; there are:");
	for (size_t i = 0; i < SUITES; i++)
		fprintf(stderr, " %s", suites[i].name);
	fputc('\n', stderr);
	return 2;
}

/* By which a run of the suites is chosen; the suites set what else they test. */
static const char *const kept[] = { "WEIR_DRIVER=",    "WEIR_URING_MASK=",   "WEIR_SWITCH=",
				    "WEIR_STALL_MS=",  "WEIR_SIM_",	     "WEIR_TEST_SEED=",
				    "WEIR_MEM_DEBUG=", "WEIR_POOL_CLASSES=", "WEIR_SOAK_SECONDS=" };

static bool is_kept(const char *variable)
{
	for (size_t i = 0; i < sizeof(kept) / sizeof(*kept); i++)
		if (strncmp(variable, kept[i], strlen(kept[i])) == 0)
			return true;
	return strncmp(variable, "WEIR_", 5) != 0;
}

static void forget_variables(void)
{
	for (char **at = environ; *at != NULL;) {
		char name[64];
		const char *variable = *at;
		snprintf(name, sizeof(name), "%.*s", (int)strcspn(variable, "="), variable);
		if (!is_kept(variable))
			unsetenv(name); /* moves the next one here */
		if (*at == variable)
			at++;
	}
}

/*
 * On a busy machine every task may look as if it held its worker, so reports of that are off but
 * where they are tested. A shell starts what runs in the background with two signals ignored.
 */
static void begin_plainly(void)
{
	forget_variables();
	setenv("WEIR_STALL_MS", "0", 0);
	setenv("CK_DEFAULT_TIMEOUT", "20", 0);
	setenv("CK_TIMEOUT_MULTIPLIER", "4", 0);
	signal(SIGINT, SIG_DFL);
	signal(SIGQUIT, SIG_DFL);
	signal(SIGHUP, SIG_DFL);
}

/* Threads, signals, children and descriptors of the system are nothing a seed can repeat. */
static void leave_out_real(void)
{
	const char *driver = getenv("WEIR_DRIVER"), *others = getenv("CK_EXCLUDE_TAGS");
	char tags[256];

	if (!driver || strcmp(driver, "sim") != 0)
		return;
	snprintf(tags, sizeof tags, "real %s", others ? others : "");
	setenv("CK_EXCLUDE_TAGS", tags, 1);
}

int main(int argc, char **argv)
{
	SRunner *runner = srunner_create(NULL);
	size_t wanted = 0;
	(void)argc;
	begin_plainly();
	leave_out_real();
	for (size_t i = 0; i < SUITES; i++) {
		if (!is_wanted(suites[i].name, argv + 1))
			continue;
		srunner_add_suite(runner, suites[i].make());
		wanted++;
	}
	if (wanted == 0)
		return no_such_suite();
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
