/* SPDX-License-Identifier: MIT */
/*
 * The statistics as text: read back by parsers that take nothing on trust, and compared with the
 * structs they were made from.
 */
#include <check.h>
#include <ctype.h>
#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "alloc/heap.h"

enum { LINES_MAX = 20000 };

static const char *const odd_name = "quoted \" and \\ and\nnewline";

static char *text_of(int (*write)(FILE *))
{
	char *text = NULL;
	size_t length = 0;
	FILE *out = open_memstream(&text, &length);
	ck_assert_ptr_nonnull(out);
	ck_assert_int_eq(write(out), 0);
	ck_assert_int_eq(fclose(out), 0);
	return text;
}

/* Two heaps, some classes, two pools of one name. */
static void have_a_past(void)
{
	weir_pool *pool[2];
	void *block[200];
	ck_assert_int_eq(weir__heap_attach(), 0);
	weir__heap_set_worker(7);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(weir_pool_new(&pool[i], .object_bytes = 100, .name = odd_name), 0);
		ck_assert_ptr_nonnull(weir_pool_get(pool[i]));
	}
	for (int i = 0; i < 200; i++)
		block[i] = weir_alloc(100 + 50 * (size_t)i);
	for (int i = 0; i < 150; i++)
		weir_free(block[i]);
	struct weir__heap *own = weir__heap_self;
	weir__heap_self = &weir__heap_none;
	ck_assert_ptr_nonnull(weir_alloc(64)); /* the heap of threads without */
	weir__heap_self = own;
}

/* ---- OpenMetrics ---------------------------------------------------------------------------- */

static char *lines[LINES_MAX];

static unsigned split_lines(char *text)
{
	unsigned n = 0;
	ck_assert_int_eq(text[strlen(text) - 1], '\n');
	for (char *at = text; *at != '\0'; n++) {
		ck_assert_uint_lt(n, LINES_MAX);
		lines[n] = at;
		at = strchr(at, '\n');
		*at++ = '\0';
	}
	return n;
}

/* Returns what follows the label set. */
static const char *skip_labels(const char *at)
{
	while (*at != '}') {
		ck_assert(islower(*at) != 0);
		at += strcspn(at, "=");
		ck_assert_int_eq(at[1], '"');
		for (at += 2; *at != '"'; at++) {
			ck_assert(*at != '\0');
			at += *at == '\\';
		}
		at += at[1] == ',' ? 2 : 1;
	}
	return at + 1;
}

/* Family by family, the declaration first; a counter's samples end in _total. */
static void check_sample(const char *line, const char *family, bool counts)
{
	size_t n = strlen(family);
	ck_assert_msg(strncmp(line, family, n) == 0, "\"%s\" in family %s", line, family);
	const char *at = line + n;
	if (counts) {
		ck_assert_msg(strncmp(at, "_total", 6) == 0, "%s", line);
		at += 6;
	}
	if (*at == '{')
		at = skip_labels(at + 1);
	char *end;
	ck_assert_int_eq(*at, ' ');
	(void)strtod(at + 1, &end);
	ck_assert_msg(end > at + 1 && *end == '\0', "%s", line);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* No family twice and no series twice: everything before the value differs. */
static void check_unique(unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		*strrchr(lines[i], ' ') = '\0';
	qsort(lines, n, sizeof(*lines), by_text);
	for (unsigned i = 1; i < n; i++)
		ck_assert_msg(strcmp(lines[i - 1], lines[i]) != 0, "twice: %s", lines[i]);
}

START_TEST(openmetrics_text_keeps_the_rules_of_the_format)
{
	char family[100] = "", type[20] = "";
	have_a_past();
	char *text = text_of(weir_mem_write_openmetrics);
	unsigned n = split_lines(text), kept = 0;
	for (unsigned i = 0; i < n; i++) {
		if (strncmp(lines[i], "# TYPE ", 7) == 0)
			ck_assert_int_eq(sscanf(lines[i] + 7, "%99s %19s", family, type), 2);
		else if (strncmp(lines[i], "# HELP ", 7) == 0)
			ck_assert_int_eq(strncmp(lines[i] + 7, family, strlen(family)), 0);
		else
			check_sample(lines[i], family, strcmp(type, "counter") == 0);
		if (strncmp(lines[i], "# HELP ", 7) != 0)
			lines[kept++] = lines[i];
	}
	ck_assert_uint_gt(kept, 100);
	check_unique(kept);
	free(text);
}
END_TEST

static double sample(const char *text, const char *series)
{
	const char *at = strstr(text, series);
	ck_assert_msg(at != NULL, "no %s", series);
	return strtod(at + strlen(series), NULL);
}

START_TEST(the_figures_are_those_of_the_structs)
{
	struct weir_heap_stats heap;
	struct weir_pool_stats pool;
	char series[200];
	have_a_past();
	char *text = text_of(weir_mem_write_openmetrics);
	ck_assert_int_eq(weir_heap_stats_get(0, &heap), 0);
	ck_assert_int_eq(heap.worker, 7);
	ck_assert_double_eq(sample(text, "weir_heap_worker{heap=\"0\"}"), 7);
	ck_assert_double_eq(sample(text, "weir_heap_worker{heap=\"1\"}"), -1);
	ck_assert_double_eq(sample(text, "weir_heap_cached_bytes{heap=\"0\"}"),
			    (double)heap.cached_bytes);
	for (uint32_t i = 1; i <= WEIR_CLASS_COUNT; i++) {
		if (!weir__heap_pool_stats(0, i, &pool))
			continue;
		snprintf(series, sizeof(series),
			 "weir_pool_allocs_total{heap=\"0\",id=\"%u\",pool=\"%s\"}", i, pool.name);
		ck_assert_double_eq(sample(text, series), (double)pool.allocs);
	}
	ck_assert_ptr_nonnull(strstr(text, "pool=\"quoted \\\" and \\\\ and?newline\"} 1\n"));
	free(text);
}
END_TEST

/* ---- JSON ----------------------------------------------------------------------------------- */

static const char *value_end(const char *at);

static const char *string_end(const char *at)
{
	ck_assert_int_eq(*at, '"');
	for (at++; *at != '"'; at++) {
		ck_assert((unsigned char)*at >= ' ');
		at += *at == '\\';
	}
	return at + 1;
}

static const char *blank_end(const char *at)
{
	return at + strspn(at, " \n");
}

static const char *members_end(const char *at, char close)
{
	at = blank_end(at + 1);
	while (*at != close) {
		if (close == '}') {
			at = string_end(at);
			ck_assert_int_eq(*at++, ':');
		}
		at = value_end(at);
		ck_assert(*at == ',' || *at == close);
		if (*at == ',')
			ck_assert(*(at = blank_end(at + 1)) != close);
	}
	return at + 1;
}

static const char *value_end(const char *at)
{
	if (*at == '{')
		return members_end(at, '}');
	if (*at == '[')
		return members_end(at, ']');
	if (*at == '"')
		return string_end(at);
	ck_assert(isdigit((unsigned char)*at) || *at == '-');
	return at + strspn(at, "-0123456789.");
}

START_TEST(json_is_one_object_and_nothing_else)
{
	have_a_past();
	char *text = text_of(weir_mem_write_json);
	ck_assert_str_eq(value_end(text), "\n");
	ck_assert_ptr_nonnull(strstr(text, "{\"heap\":0,\"worker\":7,"));
	ck_assert_ptr_nonnull(strstr(text, "\"pool\":\"quoted \\\" and \\\\ and?newline\","));
	free(text);
}
END_TEST

START_TEST(before_the_first_heap_there_is_text_too)
{
	char *text = text_of(weir_mem_write_json);
	ck_assert_str_eq(value_end(text), "\n");
	free(text);
	text = text_of(weir_mem_write_openmetrics);
	ck_assert_double_eq(sample(text, "weir_mem_level"), 0);
	free(text);
}
END_TEST

START_TEST(a_stream_that_fails_is_an_error)
{
	FILE *full = fopen("/dev/full", "w");
	ck_assert_ptr_nonnull(full);
	ck_assert_int_eq(weir_mem_write_json(full), -EIO);
	ck_assert_int_eq(weir_mem_write_openmetrics(full), -EIO);
	fclose(full);
}
END_TEST

/* ---- Names and locales ---------------------------------------------------------------------- */

/* A name is its owner's, and shown up to 63 bytes. */
static const struct {
	const char *name, *shown;
} names[] = {
	{ "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80",
	  "\"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\"" },
	{ "latin \xe9 and", "\"latin ? and\"" },
	{ "alone \x80, cut \xe2\x82", "\"alone ?, cut ??\"" },
	{ "long for / \xc0\xaf and \xe0\x80\xaf", "\"long for / ?? and ???\"" },
	{ "half \xed\xa0\x80, beyond \xf4\x90\x80\x80 \xf5", "\"half ???, beyond ???? ?\"" },
	{ "0123456789012345678901234567890123456789012345678901234567890\xe2\x82\xac",
	  "\"0123456789012345678901234567890123456789012345678901234567890??\"" },
	{ "del \x7f tab \t", "\"del \x7f tab ?\"" },
};

START_TEST(names_are_utf_8_or_question_marks)
{
	weir_pool *pool;
	ck_assert_int_eq(weir__heap_attach(), 0);
	ck_assert_int_eq(weir_pool_new(&pool, .object_bytes = 100, .name = names[_i].name), 0);
	ck_assert_ptr_nonnull(weir_pool_get(pool));
	char *json = text_of(weir_mem_write_json), *metrics = text_of(weir_mem_write_openmetrics);
	ck_assert_msg(strstr(json, names[_i].shown) != NULL, "%s", names[_i].shown);
	ck_assert_msg(strstr(metrics, names[_i].shown) != NULL, "%s", names[_i].shown);
	free(json);
	free(metrics);
}
END_TEST

/* What localedef(1) makes of a decimal comma. */
static const unsigned char comma[] = {
	0x14, 0x11, 0x03, 0x20, 6, 0, 0,   0,	 0x20, 0, 0,   0,    0x22, 0,	0,   0,	   0x23,
	0,    0,    0,	  0x24, 0, 0, 0,   0x28, 0,    0, 0,   0x2c, 0,	   0,	0,   0x2c, 0,
	0,    0,    0x2c, 0,	0, 0, ',', 0,	 0,    0, 'U', 'T',  'F',  '-', '8', 0,
};

static bool set_comma(void)
{
	char directory[] = "/tmp/weir_locale_XXXXXX", path[100];
	ck_assert_ptr_nonnull(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/comma", directory);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/comma/LC_NUMERIC", directory);
	FILE *file = fopen(path, "w");
	ck_assert_ptr_nonnull(file);
	fwrite(comma, 1, sizeof(comma), file);
	fclose(file);
	setenv("LOCPATH", directory, 1);
	bool is_set = setlocale(LC_NUMERIC, "comma") != NULL;
	unlink(path);
	*strrchr(path, '/') = '\0';
	rmdir(path);
	rmdir(directory);
	return is_set;
}

START_TEST(where_a_comma_is_written_figures_have_a_point)
{
	char text[20];
	if (!set_comma()) {
		puts("skipped: this C library has other locales");
		return;
	}
	snprintf(text, sizeof(text), "%.1f", 0.5);
	ck_assert_str_eq(text, "0,5");
	have_a_past();
	(void)weir_mem_compact(SIZE_MAX, WEIR_MEM_HIGH);
	char *metrics = text_of(weir_mem_write_openmetrics);
	const char *at = strstr(metrics, "weir_mem_stage_seconds_total{level=\"high\"} 0.0");
	ck_assert_ptr_nonnull(at);
	ck_assert(strstr(metrics, "pool=\"1.25 KiB\"}") != NULL);
	for (at = metrics; *at != '\0'; at += *at != '\0') {
		at += strcspn(at, " \n");
		if (*at == ' ') /* no value, label or text has one in a number */
			ck_assert(!isdigit((unsigned char)at[-1]) ||
				  at[1 + strspn(at + 1, "0123456789")] != ',');
	}
	free(metrics);
}
END_TEST

/* ---- What is measured ----------------------------------------------------------------------- */

START_TEST(heaps_that_do_not_exist_are_refused)
{
	struct weir_heap_stats heap;
	struct weir_pool_stats pool;
	have_a_past();
	ck_assert_int_eq(weir_heap_stats_get(2, &heap), -EINVAL);
	ck_assert_int_eq(weir_heap_pool_stats_get(2, &pool, 1), -EINVAL);
	ck_assert_int_eq(weir_heap_pool_stats_get(0, &pool, 1), 1);
	ck_assert_int_eq(weir_heap_pool_stats_get(0, &pool, 0), 0);
}
END_TEST

/* Only cold calls are seen, so each of these is one. */
START_TEST(waste_is_told_from_what_was_asked_for)
{
	struct weir_pool_stats pool;
	void *block[20];
	ck_assert_int_eq(weir__heap_attach(), 0);
	for (int i = 0; i < 20; i++)
		block[i] = weir_alloc(900 << 10); /* of 1 MiB */
	ck_assert(weir__heap_pool_stats(0, weir_size_class(900 << 10) + 1, &pool));
	ck_assert_uint_eq(pool.object_bytes, 1 << 20);
	ck_assert_uint_gt(pool.sampled, 10);
	ck_assert_uint_eq(pool.sampled_bytes, pool.sampled * (900 << 10));
	for (int i = 0; i < 20; i++)
		weir_free(block[i]);
}
END_TEST

START_TEST(the_peak_stays_when_demand_is_gone)
{
	struct weir_pool_stats pool;
	void *block[1000];
	ck_assert_int_eq(weir__heap_attach(), 0);
	int64_t now = weir__os_now();
	weir__heap_turn(now);
	for (int i = 0; i < 1000; i++)
		block[i] = weir_alloc(500);
	for (int i = 0; i < 1000; i++)
		weir_free(block[i]);
	weir__heap_turn(now += 200 * WEIR__MS);
	weir__heap_turn(now += 200 * WEIR__MS);
	ck_assert(weir__heap_pool_stats(0, weir_size_class(500) + 1, &pool));
	ck_assert_uint_eq(pool.in_use, 0);
	if (!WEIR__ASAN) { /* where the water marks are not kept */
		ck_assert_uint_ge(pool.peak, 1000);
		ck_assert_uint_le(pool.peak, 1100);
		ck_assert_uint_ge(pool.demand, 900);
	}
}
END_TEST

START_TEST(only_memory_that_was_there_counts_as_returned)
{
	struct weir_mem_stats stats;
	enum { BLOCKS = 100, BYTES = 64 << 10 };
	static char *block[BLOCKS];
	ck_assert_int_eq(weir__heap_attach(), 0);
	for (int i = 0; i < BLOCKS; i++)
		block[i] = weir_alloc(BYTES);
	for (int i = 0; i < BLOCKS / 2; i++)
		memset(block[i], 1, BYTES / 2);
	for (int i = 0; i < BLOCKS; i++)
		weir_free(block[i]);
	size_t returned = weir_mem_compact(SIZE_MAX, WEIR_MEM_CRITICAL);
	ck_assert_uint_ge(returned, BLOCKS / 2 * BYTES / 2);
	ck_assert_uint_lt(returned, BLOCKS / 2 * BYTES / 2 + (256 << 10));
	weir_mem_stats_get(&stats);
	ck_assert_uint_eq(stats.stages[WEIR_MEM_CRITICAL].runs, 1);
	ck_assert_uint_eq(stats.stages[WEIR_MEM_CRITICAL].returned_bytes, returned);
	ck_assert_uint_gt(stats.stages[WEIR_MEM_CRITICAL].ns, 0);
	ck_assert_uint_eq(stats.os_purged_bytes, returned);
}
END_TEST

Suite *alloc_text_suite(void)
{
	Suite *s = suite_create("alloc_text");
	TCase *metrics = tcase_create("openmetrics");
	tcase_add_test(metrics, openmetrics_text_keeps_the_rules_of_the_format);
	tcase_add_test(metrics, the_figures_are_those_of_the_structs);
	suite_add_tcase(s, metrics);
	TCase *json = tcase_create("json");
	tcase_add_test(json, json_is_one_object_and_nothing_else);
	suite_add_tcase(s, json);
	TCase *both = tcase_create("both");
	tcase_add_test(both, before_the_first_heap_there_is_text_too);
	tcase_add_test(both, a_stream_that_fails_is_an_error);
	tcase_add_loop_test(both, names_are_utf_8_or_question_marks, 0,
			    sizeof(names) / sizeof(*names));
	tcase_add_test(both, where_a_comma_is_written_figures_have_a_point);
	suite_add_tcase(s, both);
	TCase *measured = tcase_create("measured");
	tcase_add_test(measured, heaps_that_do_not_exist_are_refused);
	tcase_add_test(measured, waste_is_told_from_what_was_asked_for);
	tcase_add_test(measured, the_peak_stays_when_demand_is_gone);
	if (!WEIR__ASAN && !WEIR__TSAN)
		tcase_add_test(measured, only_memory_that_was_there_counts_as_returned);
	suite_add_tcase(s, measured);
	return s;
}
