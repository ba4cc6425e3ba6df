/* SPDX-License-Identifier: MIT */
/*
 * The option table: defaults, WEIR_* variables, what is said about bad ones, and
 * docs/environment.md, which `make docs` writes from here.
 */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <weir/io.h>

#include "child.h"
#include "runtime/config.h"

/* What was printed during a test. */
static char *spoken_text;
static size_t spoken_len;
static FILE *err;

static void start_clean(void)
{
	char name[128];
	for (char **at = environ; *at != NULL;) {
		size_t len = strcspn(*at, "=");
		if (strncmp(*at, "WEIR_", 5) != 0 || len >= sizeof(name)) {
			at++;
			continue;
		}
		memcpy(name, *at, len);
		name[len] = '\0';
		unsetenv(name);
	}
	err = open_memstream(&spoken_text, &spoken_len);
	ck_assert_ptr_nonnull(err);
}

static void end_clean(void)
{
	fclose(err);
	free(spoken_text);
}

static const char *spoken(void)
{
	fflush(err);
	return spoken_text;
}

static int load_with(const char *variable, const char *value, struct weir__config *ret)
{
	ck_assert_int_eq(setenv(variable, value, 1), 0);
	int result = weir__config_load(ret, err);
	unsetenv(variable);
	return result;
}

static unsigned count_words(const char *words)
{
	unsigned count = 1;
	for (; *words != '\0'; words++)
		count += *words == '|';
	return count;
}

/* ---- The table ------------------------------------------------------------------------------- */

START_TEST(each_line_is_consistent)
{
	const struct weir__option_info *option = &weir__option_info[_i];
	ck_assert_int_eq(strncmp(option->variable, "WEIR_", 5), 0);
	ck_assert_uint_le(option->min, option->preset);
	ck_assert_uint_le(option->preset, option->max);
	ck_assert_uint_lt(strlen(option->variable), 64);
	ck_assert_uint_gt(strlen(option->text), 10);
	if (option->type == WEIR__CHOICE)
		ck_assert_uint_eq(option->max, count_words(option->unit) - 1);
	if (option->type == WEIR__SET)
		ck_assert_uint_eq(option->max, (1u << count_words(option->unit)) - 1);
	if (option->type == WEIR__BOOL)
		ck_assert_uint_eq(option->max, 1);
	for (int j = 0; j < _i; j++)
		ck_assert_str_ne(option->variable, weir__option_info[j].variable);
}
END_TEST

START_TEST(printed_values_parse_back)
{
	const struct weir__option_info *option = &weir__option_info[_i];
	const uint64_t values[] = { option->preset, option->min, option->max,
				    (option->min + option->max) / 2 };
	for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
		char text[WEIR__OPTION_TEXT_MAX];
		struct weir__config config;
		weir__option_format(_i, values[i], text, sizeof(text));
		ck_assert_uint_lt(strlen(text), sizeof(text) - 1);
		ck_assert_int_eq(load_with(option->variable, text, &config), 0);
		ck_assert_uint_eq(config.value[_i], values[i]);
		ck_assert_int_eq(config.source[_i], WEIR__SOURCE_ENVIRONMENT);
	}
}
END_TEST

START_TEST(lists_of_sizes_are_checked_kept_and_named)
{
	struct weir__config config;
	char text[WEIR__OPTION_TEXT_MAX];
	static const char list[] = "8k,16k";
	ck_assert_int_eq(load_with("WEIR_POOL_CLASSES", "16k,8k", &config), -EINVAL);
	ck_assert_ptr_nonnull(strstr(spoken(), "WEIR_POOL_CLASSES=\"16k,8k\": want geom4, pow2"));
	ck_assert_int_eq(load_with("WEIR_POOL_RESERVES", "64", &config), -EINVAL);
	ck_assert_ptr_nonnull(strstr(spoken(), "WEIR_POOL_RESERVES=\"64\": want none, zokio"));
	weir__config_init(&config);
	ck_assert_int_eq(weir__config_set_text(&config, WEIR__OPTION_pool_classes, list, stderr),
			 0);
	weir__option_format(WEIR__OPTION_pool_classes, config.pool_classes, text, sizeof(text));
	ck_assert_str_eq(text, list);
}
END_TEST

START_TEST(bounds_are_enforced_and_named)
{
	const struct weir__option_info *option = &weir__option_info[_i];
	struct weir__config config;
	char text[32];
	if (option->type == WEIR__CHOICE || option->type >= WEIR__SET)
		return;
	snprintf(text, sizeof(text), "%llu", (unsigned long long)option->max + 1);
	ck_assert_int_eq(load_with(option->variable, text, &config), -EINVAL);
	ck_assert_ptr_nonnull(strstr(spoken(), option->variable));
	ck_assert_ptr_nonnull(strstr(spoken(), text));
	if (option->min == 0)
		return;
	snprintf(text, sizeof(text), "%llu", (unsigned long long)option->min - 1);
	ck_assert_int_eq(load_with(option->variable, text, &config), -EINVAL);
}
END_TEST

START_TEST(union_view_and_fields_agree)
{
	struct weir__config config;
	weir__config_init(&config);
#define XX(field_, type_, variable_, preset_, ...)                                                 \
	ck_assert_uint_eq(config.field_, (uint64_t)(preset_));                                     \
	ck_assert_ptr_eq(&config.field_, &config.value[WEIR__OPTION_##field_]);                    \
	ck_assert_str_eq(weir__option_info[WEIR__OPTION_##field_].variable, (variable_));          \
	ck_assert_int_eq(config.source[WEIR__OPTION_##field_], WEIR__SOURCE_DEFAULT);
	WEIR_CONFIG_MAP(XX)
#undef XX
}
END_TEST

/* ---- Values ---------------------------------------------------------------------------------- */

START_TEST(an_empty_environment_gives_the_defaults)
{
	struct weir__config config, preset;
	weir__config_init(&preset);
	ck_assert_int_eq(weir__config_load(&config, err), 0);
	ck_assert_mem_eq(config.value, preset.value, sizeof(config.value));
	ck_assert_mem_eq(config.source, preset.source, sizeof(config.source));
	ck_assert_str_eq(spoken(), "");
}
END_TEST

START_TEST(a_bad_value_is_named_with_what_is_accepted)
{
	struct weir__config config;
	ck_assert_int_eq(load_with("WEIR_WORKERS", "lots", &config), -EINVAL);
	ck_assert_str_eq(
		spoken(),
		"weir: WEIR_WORKERS=\"lots\": want a whole number of threads from 0 to 256\n");
}
END_TEST

START_TEST(every_bad_value_is_named_and_nothing_is_stored)
{
	struct weir__config config;
	memset(&config, 0xa5, sizeof(config));
	struct weir__config before = config;
	setenv("WEIR_WORKERS", "2", 1);
	setenv("WEIR_DRIVER", "iocp", 1);
	setenv("WEIR_PIN", "yes", 1);
	ck_assert_int_eq(weir__config_load(&config, err), -EINVAL);
	ck_assert_str_eq(spoken(),
			 "weir: WEIR_DRIVER=\"iocp\": want one of auto, uring, epoll, sim\n"
			 "weir: WEIR_PIN=\"yes\": want 0 or 1\n");
	ck_assert_mem_eq(&config, &before, sizeof(config));
}
END_TEST

START_TEST(numbers_are_digits_and_nothing_else)
{
	static const char *const bad[] = {
		"-1",
		"+1",
		" 1",
		"1 ",
		"0x10",
		"1e3",
		"1.0",
		"4k",
		"1,000",
		"one",
		"\t1",
		"1\n",
		"18446744073709551615",
		"18446744073709551616",
		"36893488147419103233",
		"99999999999999999999999999999999999999999999",
	};
	struct weir__config config;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		ck_assert_msg(load_with("WEIR_WORKERS", bad[i], &config) == -EINVAL, "%s", bad[i]);
	ck_assert_int_eq(load_with("WEIR_WORKERS", "0007", &config), 0);
	ck_assert_uint_eq(config.workers, 7);
}
END_TEST

START_TEST(bytes_take_a_suffix)
{
	static const char *const bad[] = { "k",
					   "4kb",
					   "4kk",
					   "4t",
					   "4 k",
					   "-4k",
					   "4.5k",
					   "17592186044416m",
					   "18446744073709551615g",
					   "17592186044417m",
					   "18014398509481988k",
					   "17179869184g" };
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "512", 512 }, { "4k", 4096 }, { "8K", 8192 }, { "1m", 1 << 20 }, { "1M", 1 << 20 }
	};
	struct weir__config config;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		ck_assert_msg(load_with("WEIR_RECV_BYTES", bad[i], &config) == -EINVAL, "%s",
			      bad[i]);
	setenv("WEIR_RECV_BULK_BYTES", "1m", 1);
	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		ck_assert_int_eq(load_with("WEIR_RECV_BYTES", good[i].text, &config), 0);
		ck_assert_uint_eq(config.recv_bytes, good[i].bytes);
	}
}
END_TEST

START_TEST(a_choice_is_one_whole_word)
{
	static const char *const bad[] = { "ur",    "uring ", "Uring", "uring|epoll",
					   "auto|", "|",      "none",  "0" };
	struct weir__config config;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		ck_assert_msg(load_with("WEIR_DRIVER", bad[i], &config) == -EINVAL, "%s", bad[i]);
	ck_assert_int_eq(load_with("WEIR_DRIVER", "uring", &config), 0);
	ck_assert_uint_eq(config.driver, WEIR__DRIVER_URING);
	ck_assert_int_eq(load_with("WEIR_DRIVER", "epoll", &config), 0);
	ck_assert_uint_eq(config.driver, WEIR__DRIVER_EPOLL);
	ck_assert_int_eq(load_with("WEIR_SWITCH", "ucontext", &config), 0);
	ck_assert_uint_eq(config.context_switch, WEIR__SWITCH_UCONTEXT);
}
END_TEST

START_TEST(a_set_is_words_with_commas)
{
	static const char *const bad[] = { "defer,",   ",defer",     "defer,,coop", "defer coop",
					   "deferred", "defer,none", "defer|coop",  "all" };
	struct weir__config config;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		ck_assert_msg(load_with("WEIR_URING_MASK", bad[i], &config) == -EINVAL, "%s",
			      bad[i]);
	ck_assert_int_eq(load_with("WEIR_URING_MASK", "no_iowait,defer,bufring,defer", &config), 0);
	ck_assert_uint_eq(config.uring_mask,
			  WEIR__URING_NO_IOWAIT | WEIR__URING_DEFER | WEIR__URING_BUFRING);
	ck_assert_int_eq(load_with("WEIR_URING_MASK", "none", &config), 0);
	ck_assert_uint_eq(config.uring_mask, 0);
}
END_TEST

START_TEST(an_empty_value_counts_as_not_set)
{
	struct weir__config config;
	ck_assert_int_eq(load_with("WEIR_STACK_KB", "", &config), 0);
	ck_assert_uint_eq(config.stack_kb, 64);
	ck_assert_int_eq(config.source[WEIR__OPTION_stack_kb], WEIR__SOURCE_DEFAULT);
}
END_TEST

START_TEST(contradicting_wishes_are_refused)
{
	struct weir__config config;
	setenv("WEIR_CQ_ENTRIES", "128", 1);
	ck_assert_int_eq(load_with("WEIR_SQ_ENTRIES", "256", &config), -EINVAL);
	ck_assert_str_eq(spoken(),
			 "weir: WEIR_SQ_ENTRIES=256: want at most WEIR_CQ_ENTRIES, which is 128\n");
	ck_assert_int_eq(load_with("WEIR_SQ_ENTRIES", "128", &config), 0);
	ck_assert_int_eq(weir__config_set(&config, WEIR__OPTION_sq_entries, 129, err), -EINVAL);
	ck_assert_uint_eq(config.sq_entries, 128);
}
END_TEST

START_TEST(a_default_gives_way_to_a_wish)
{
	struct weir__config config;
	ck_assert_int_eq(load_with("WEIR_CQ_ENTRIES", "64", &config), 0);
	ck_assert_uint_eq(config.sq_entries, 64);
	ck_assert_int_eq(load_with("WEIR_RECV_BYTES", "1m", &config), 0);
	ck_assert_uint_eq(config.recv_bulk_bytes, 1 << 20);
	ck_assert_str_eq(spoken(), "");
}
END_TEST

START_TEST(a_hostile_value_cannot_steer_the_terminal)
{
	struct weir__config config;
	char value[4096];
	memset(value, 'x', sizeof(value) - 1);
	memcpy(value, "\033[2J\a\r\n\x9b", 8);
	value[sizeof(value) - 1] = '\0';
	ck_assert_int_eq(load_with("WEIR_BUDGET", value, &config), -EINVAL);
	ck_assert_uint_lt(strlen(spoken()), 200);
	ck_assert_ptr_nonnull(strstr(spoken(), "\"?[2J????xxx"));
	ck_assert_ptr_nonnull(strstr(spoken(), "xxx...\": want"));
}
END_TEST

/* ---- Who decides ----------------------------------------------------------------------------- */

START_TEST(the_program_beats_the_environment)
{
	struct weir__config config;
	ck_assert_int_eq(load_with("WEIR_WORKERS", "3", &config), 0);
	ck_assert_uint_eq(config.workers, 3);
	ck_assert_int_eq(weir__config_set(&config, WEIR__OPTION_workers, 5, err), 0);
	ck_assert_int_eq(weir__config_set_text(&config, WEIR__OPTION_driver, "epoll", err), 0);
	ck_assert_uint_eq(config.workers, 5);
	ck_assert_uint_eq(config.driver, WEIR__DRIVER_EPOLL);
	ck_assert_int_eq(config.source[WEIR__OPTION_workers], WEIR__SOURCE_PROGRAM);
	ck_assert_int_eq(config.source[WEIR__OPTION_driver], WEIR__SOURCE_PROGRAM);
	ck_assert_str_eq(spoken(), "");
}
END_TEST

START_TEST(a_bad_choice_of_the_program_is_refused)
{
	struct weir__config config;
	memset(&config, 0, sizeof(config));
	weir__config_init(&config);
	struct weir__config before = config;
	ck_assert_int_eq(weir__config_set(&config, WEIR__OPTION_workers, 257, err), -EINVAL);
	ck_assert_int_eq(weir__config_set_text(&config, WEIR__OPTION_driver, "kqueue", err),
			 -EINVAL);
	ck_assert_mem_eq(&config, &before, sizeof(config));
	ck_assert_str_eq(
		spoken(),
		"weir: option workers = \"257\": want a whole number of threads from 0 to 256\n"
		"weir: option driver = \"kqueue\": want one of auto, uring, epoll, sim\n");
}
END_TEST

START_TEST(an_unknown_variable_is_named_once_with_the_nearest)
{
	struct weir__config config;
	setenv("WEIR_WORKRES", "2", 1);
	setenv("WEIR_ENTIRELY_ELSE", "2", 1);
	ck_assert_int_eq(weir__config_load(&config, err), 0);
	ck_assert_ptr_nonnull(strstr(spoken(),
				     "weir: WEIR_WORKRES is not known; WEIR_HELP=1 lists what is; "
				     "did you mean WEIR_WORKERS?\n"));
	ck_assert_ptr_nonnull(strstr(
		spoken(), "weir: WEIR_ENTIRELY_ELSE is not known; WEIR_HELP=1 lists what is\n"));
	size_t len = strlen(spoken());
	ck_assert_int_eq(weir__config_load(&config, err), 0);
	ck_assert_uint_eq(strlen(spoken()), len);
}
END_TEST

START_TEST(names_of_any_length_are_survived)
{
	struct weir__config config;
	char name[2000];
	for (size_t len = 5; len < sizeof(name); len += len < 80 ? 1 : 401) {
		memset(name, 'X', len);
		memcpy(name, "WEIR_", 5);
		name[len] = '\0';
		setenv(name, "1", 1);
	}
	ck_assert_int_eq(weir__config_load(&config, err), 0);
	ck_assert_uint_gt(strlen(spoken()), 75 * 20);
}
END_TEST

START_TEST(quiet_hides_unknown_variables_but_no_error)
{
	struct weir__config config;
	setenv("WEIR_QUIET", "1", 1);
	ck_assert_int_eq(load_with("WEIR_WORKRES", "2", &config), 0);
	ck_assert_str_eq(spoken(), "");
	ck_assert_int_eq(load_with("WEIR_WORKERS", "-2", &config), -EINVAL);
	ck_assert_str_ne(spoken(), "");
}
END_TEST

/* ---- Saying what there is -------------------------------------------------------------------- */

START_TEST(help_lists_every_variable)
{
	weir__config_help(err);
	for (unsigned i = 0; i < WEIR__OPTIONS; i++) {
		char line[64];
		snprintf(line, sizeof(line), "\n  %s=", weir__option_info[i].variable);
		ck_assert_ptr_nonnull(strstr(spoken(), line));
		ck_assert_ptr_nonnull(strstr(spoken(), weir__option_info[i].text));
	}
}
END_TEST

START_TEST(dump_says_where_each_value_came_from)
{
	struct weir__config config;
	ck_assert_int_eq(load_with("WEIR_RECV_BYTES", "8192", &config), 0);
	ck_assert_int_eq(weir__config_set(&config, WEIR__OPTION_workers, 4, err), 0);
	weir__config_dump(&config, err);
	ck_assert_ptr_nonnull(
		strstr(spoken(), "weir:   WEIR_WORKERS           4            program\n"));
	ck_assert_ptr_nonnull(
		strstr(spoken(), "weir:   WEIR_RECV_BYTES        8k           environment\n"));
	ck_assert_ptr_nonnull(
		strstr(spoken(), "weir:   WEIR_URING_MASK        none         default\n"));
}
END_TEST

/* ---- In a program -------------------------------------------------------------------------------
 */

static int say_hello(void *arg)
{
	(void)arg;
	fputs("hello\n", stderr);
	return 0;
}

static int run_program(void *arg)
{
	const char *driver = arg;
	dup2(STDERR_FILENO, STDOUT_FILENO);
	int result = weir_run(say_hello, NULL, .driver = driver);
	fprintf(stderr, "returned %d\n", result);
	return fflush(stdout);
}

START_TEST(a_bad_variable_ends_the_start)
{
	setenv("WEIR_WORKERS", "lots", 1);
	ck_assert_int_eq(end_of(run_program, NULL), 0);
	ck_assert_str_eq(
		said, "weir: WEIR_WORKERS=\"lots\": want a whole number of threads from 0 to 256\n"
		      "returned -22\n");
}
END_TEST

START_TEST(a_bad_option_ends_the_start)
{
	ck_assert_int_eq(end_of(run_program, (void *)"kqueue"), 0);
	ck_assert_str_eq(said,
			 "weir: option driver = \"kqueue\": want one of auto, uring, epoll, sim\n"
			 "returned -22\n");
}
END_TEST

START_TEST(help_lists_and_does_not_run)
{
	setenv("WEIR_HELP", "1", 1);
	ck_assert_int_eq(end_of(run_program, NULL), 0);
	assert_said("returned 0\n");
	assert_said("  WEIR_WORKERS=0\n");
	assert_not_said("hello");
}
END_TEST

START_TEST(verbose_dumps_and_runs)
{
	setenv("WEIR_VERBOSE", "1", 1);
	ck_assert_int_eq(end_of(run_program, (void *)"epoll"), 0);
	assert_said("weir:   WEIR_DRIVER            epoll        program\n");
	assert_said("weir:   WEIR_VERBOSE           1            environment\n");
	ck_assert(assert_said("hello\n") > assert_said("WEIR_QUIET"));
	assert_said("returned 0\n");
}
END_TEST

/* ---- The page -----------------------------------------------------------------------------------
 */

static void write_page(FILE *out)
{
	fputs("# Environment\n\n"
	      "A program that uses weir reads these variables once, when `weir_run()` starts. What "
	      "the program\n"
	      "sets itself beats the variable; the variable beats the default. An empty variable "
	      "counts as\n"
	      "not set. A value that does not parse ends the start with -EINVAL and a line on "
	      "stderr that\n"
	      "names the variable, the value and what is accepted. Set-user-id programs read none "
	      "of them.\n\n"
	      "Under `LD_PRELOAD=libweir-malloc.so` the `WEIR_POOL...`, `WEIR_MEM_...` and "
	      "`WEIR_OOM` "
	      "variables hold for\n"
	      "any program, from its first allocation on; one that does not parse is named, and "
	      "none "
	      "counts.\n\n"
	      "`WEIR_HELP=1` prints this list, `WEIR_VERBOSE=1` the values in force and where each "
	      "came from.\n\n"
	      "| variable | default | takes | meaning |\n|---|---|---|---|\n",
	      out);
	for (unsigned i = 0; i < WEIR__OPTIONS; i++) {
		const struct weir__option_info *option = &weir__option_info[i];
		char preset[WEIR__OPTION_TEXT_MAX];
		weir__option_format(i, option->preset, preset, sizeof(preset));
		fprintf(out, "| `%s` | %s | ", option->variable, preset);
		weir__option_accepts(i, out);
		fprintf(out, " | %s |\n", option->text);
	}
	fputs("\nThis page is written by `make docs` from the table in `runtime/config.h`.\n", out);
}

START_TEST(environment_page_is_what_the_table_says)
{
	static const char path[] = "docs/environment.md";
	static char page[1 << 16];
	write_page(err);
	const char *wanted = spoken();
	if (getenv("UPDATE_DOCS") != NULL) {
		FILE *out = fopen(path, "w");
		ck_assert_msg(out != NULL, "cannot write %s: %s", path, strerror(errno));
		fputs(wanted, out);
		ck_assert_int_eq(fclose(out), 0);
	}
	FILE *in = fopen(path, "r");
	ck_assert_msg(in != NULL, "cannot read %s from the current directory: %s", path,
		      strerror(errno));
	page[fread(page, 1, sizeof(page) - 1, in)] = '\0';
	fclose(in);
	ck_assert_msg(strcmp(page, wanted) == 0, "%s is out of date: make docs", path);
}
END_TEST

static TCase *new_case(Suite *suite, const char *name)
{
	TCase *tcase = tcase_create(name);
	tcase_set_tags(tcase, "fast");
	tcase_add_checked_fixture(tcase, start_clean, end_clean);
	suite_add_tcase(suite, tcase);
	return tcase;
}

Suite *runtime_config_suite(void)
{
	Suite *suite = suite_create("runtime_config");
	TCase *table = new_case(suite, "table");
	tcase_add_loop_test(table, each_line_is_consistent, 0, WEIR__OPTIONS);
	tcase_add_loop_test(table, printed_values_parse_back, 0, WEIR__OPTIONS);
	tcase_add_loop_test(table, bounds_are_enforced_and_named, 0, WEIR__OPTIONS);
	tcase_add_test(table, lists_of_sizes_are_checked_kept_and_named);
	tcase_add_test(table, union_view_and_fields_agree);
	TCase *values = new_case(suite, "values");
	tcase_add_test(values, an_empty_environment_gives_the_defaults);
	tcase_add_test(values, a_bad_value_is_named_with_what_is_accepted);
	tcase_add_test(values, every_bad_value_is_named_and_nothing_is_stored);
	tcase_add_test(values, numbers_are_digits_and_nothing_else);
	tcase_add_test(values, bytes_take_a_suffix);
	tcase_add_test(values, a_choice_is_one_whole_word);
	tcase_add_test(values, a_set_is_words_with_commas);
	tcase_add_test(values, an_empty_value_counts_as_not_set);
	tcase_add_test(values, contradicting_wishes_are_refused);
	tcase_add_test(values, a_default_gives_way_to_a_wish);
	tcase_add_test(values, a_hostile_value_cannot_steer_the_terminal);
	TCase *deciding = new_case(suite, "deciding");
	tcase_add_test(deciding, the_program_beats_the_environment);
	tcase_add_test(deciding, a_bad_choice_of_the_program_is_refused);
	tcase_add_test(deciding, an_unknown_variable_is_named_once_with_the_nearest);
	tcase_add_test(deciding, names_of_any_length_are_survived);
	tcase_add_test(deciding, quiet_hides_unknown_variables_but_no_error);
	TCase *program = tcase_create("in_a_program");
	tcase_add_checked_fixture(program, start_clean, end_clean);
	tcase_add_test(program, a_bad_variable_ends_the_start);
	tcase_add_test(program, a_bad_option_ends_the_start);
	tcase_add_test(program, help_lists_and_does_not_run);
	tcase_add_test(program, verbose_dumps_and_runs);
	suite_add_tcase(suite, program);
	TCase *documentation = new_case(suite, "documentation");
	tcase_add_test(documentation, help_lists_every_variable);
	tcase_add_test(documentation, dump_says_where_each_value_came_from);
	tcase_add_test(documentation, environment_page_is_what_the_table_says);
	return suite;
}
