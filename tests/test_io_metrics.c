/* SPDX-License-Identifier: MIT */
/*
 * weir_metrics_write(): OpenMetrics text of everything that is counted.
 */
#include <ctype.h>
#include <string.h>

#include "runtime/count.h"
#include "tests/runtime_test.h"

static char *metrics(void)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	expect(out != NULL);
	expect(weir_metrics_write(out) == 0);
	fclose(out);
	return text;
}

/* The value of the sample that begins so; -1: there is none. */
static long long value_of(const char *text, const char *sample)
{
	size_t len = strlen(sample);

	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, sample, len) == 0 && line[len] == ' ')
			return atoll(line + len + 1);
	}
	return -1;
}

static int wait_a_little(void *arg)
{
	(void)arg;
	return weir_sleep(WEIR_MS);
}

/* ---- What is in it -------------------------------------------------------------------------- */

static int count_something(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	for (unsigned i = 0; i < 10; i++)
		expect(weir_spawn(&scope, wait_a_little, NULL, .worker = WEIR_ON_WORKER(1)) == 0);
	expect(weir_scope_wait(&scope) == 0);
	char *text = metrics();
	expect(value_of(text, "weir_worker_spawns_total{worker=\"0\"}") == 10);
	expect(value_of(text, "weir_worker_spawns_total{worker=\"1\"}") == 0);
	expect(value_of(text, "weir_worker_switches_total{worker=\"1\"}") >= 20);
	expect(value_of(text, "weir_worker_tasks{worker=\"0\"}") == 1);
	expect(value_of(text, "weir_worker_spawns_total{worker=\"2\"}") == -1);
	expect(value_of(text, "weir_serve_open") == 0);
	expect(strstr(text, "\n# TYPE weir_odd_events counter\n") != NULL);
	expect(strstr(text, "# TYPE weir_worker_tasks gauge\n") != NULL);
	expect(strstr(text, "weir_stack_measured_total{site=\"weir_run\",stack=\"256K\"} 1\n") !=
	       NULL);
	expect(value_of(text, "weir_stack_deepest_bytes{site=\"weir_run\",stack=\"256K\"}") > 100);
	free(text);
	return 0;
}

/* On worker 0, which is woken by nobody while it sleeps. */
static int wake_for_each_reason(void *arg)
{
	struct weir_worker_stats at_first, slept, posted;

	(void)arg;
	ck_assert_int_eq(weir_worker_stats_get(0, &at_first), 0);
	for (int i = 0; i < 10; i++)
		expect(weir_sleep(3 * WEIR_MS) == 0);
	ck_assert_int_eq(weir_worker_stats_get(0, &slept), 0);
	ck_assert_uint_ge(slept.wakes_timer - at_first.wakes_timer, 9);
	ck_assert_uint_eq(slept.wakes_io, at_first.wakes_io);
	for (int i = 0; i < 10; i++)
		expect(weir_call_on(1, wait_a_little, NULL) == 0);
	ck_assert_int_eq(weir_worker_stats_get(0, &posted), 0);
	ck_assert_uint_ge(posted.wakes - slept.wakes, 5); /* or it was awake to look out for them */
	ck_assert_uint_ge(posted.wakes + posted.wakes_io + posted.wakes_timer + posted.wakes_heap +
				  posted.wakes_other,
			  posted.parks);
	char *text = metrics();
	expect(value_of(text, "weir_worker_wakes_timer_total{worker=\"0\"}") >= 9);
	expect(value_of(text, "weir_worker_wakes_heap_total{worker=\"0\"}") >= 0);
	free(text);
	return 0;
}

START_TEST(what_ended_each_sleep_is_counted)
{
	run_on(2, wake_for_each_reason, NULL);
}
END_TEST

START_TEST(each_worker_has_its_own_samples)
{
	run_on(2, count_something, NULL);
}
END_TEST

static bool is_name(const char *at, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)at[i]) && at[i] != '_')
			return false;
	return len > 0;
}

/* Each sample belongs to the family whose TYPE line came last; families are not told twice. */
static int check_format(void *arg)
{
	char *text = metrics(), *rest = text, *line, family[128] = "";
	char seen[1 << 15] = "\n";

	(void)arg;
	while ((line = strsep(&rest, "\n")) != NULL && strcmp(line, "# EOF") != 0) {
		if (strncmp(line, "# TYPE ", 7) == 0) {
			char needle[132];
			expect(sscanf(line, "# TYPE %127s", family) == 1);
			snprintf(needle, sizeof needle, "\n%s\n", family);
			if (strstr(seen, needle))
				ck_abort_msg("%s came twice", family);
			expect(strlen(seen) + strlen(needle) < sizeof seen);
			strcat(seen, needle + 1);
			continue;
		}
		if (*line == '#')
			continue;
		if (strncmp(line, family, strlen(family)) != 0)
			ck_abort_msg("%s is not of %s", line, family);
		expect(is_name(line, strcspn(line, "{ ")));
		const char *value = strrchr(line, ' ');
		expect(value != NULL && isdigit((unsigned char)value[1]));
	}
	/* and nothing behind it */
	expect(line != NULL && rest != NULL && *rest == '\0');
	free(text);
	return 0;
}

START_TEST(the_text_is_what_the_format_wants)
{
	run_on(2, check_format, NULL);
}
END_TEST

static int provoke(int n)
{
	int odd = 0;

	for (int i = 0; i < n; i++)
		odd += WEIR_COUNT(i % 3 == 0, "divisible by three");
	return odd;
}

static int show_odd(void *arg)
{
	char sample[160];

	(void)arg;
	expect(provoke(10) == 4);
	char *text = metrics();
	const char *at = strstr(text, "weir_odd_events_total{why=\"divisible by three\",site=\"");
	expect(at != NULL);
	snprintf(sample, sizeof sample, "%.*s", (int)strcspn(at, "}") + 1, at);
	expect(value_of(text, sample) == 4);
	free(text);
	return 0;
}

START_TEST(odd_events_are_counted_with_their_reason_and_place)
{
	run_on(1, show_odd, NULL);
}
END_TEST

static int write_to_a_full_disk(void *arg)
{
	FILE *full = fopen("/dev/full", "w");

	(void)arg;
	expect(full != NULL);
	expect(weir_metrics_write(full) == -EIO);
	fclose(full);
	return 0;
}

START_TEST(what_cannot_be_written_is_an_error)
{
	ck_assert_int_eq(weir_metrics_write(stdout), -EINVAL); /* outside a runtime */
	run_on(1, write_to_a_full_disk, NULL);
}
END_TEST

/* ---- Before the first task and after the last ------------------------------------------------ */

enum { WORKERS = 4 };

static _Atomic unsigned asked;

/* Some workers may not have a driver yet, or none any more. */
static void ask_all(void)
{
	struct weir_worker_stats stats;
	FILE *out = fopen("/dev/null", "w");

	expect(out != NULL);
	for (int i = WEIR_ALL_WORKERS; i < WORKERS; i++)
		expect(weir_worker_stats_get(i, &stats) == 0);
	expect(weir_metrics_write(out) == 0);
	fclose(out);
	asked++;
}

/* On the simulator there is nobody to be waited for, and no task is listed. */
static void ask_in_hook(unsigned worker, void *user)
{
	FILE *out = fopen("/dev/null", "w");

	(void)worker;
	(void)user;
	expect(out != NULL);
	int err = weir_tasks_write(out);
	expect(err == 0 || err == -ESHUTDOWN);
	fclose(out);
	ask_all();
}

static void ask_in_post(void *arg)
{
	int worker = weir_worker_index();
	int err = weir_post((unsigned)(worker + 1) % WORKERS, ask_in_post, arg);

	expect(err == 0 || err == -ESHUTDOWN);
	ask_all();
}

static void post_in_hook(unsigned worker, void *user)
{
	expect(weir_post((worker + 1) % WORKERS, ask_in_post, user) == 0);
	ask_all();
}

/* The posts go on until they are refused: the last run when others have closed what they had. */
START_TEST(it_can_be_asked_for_from_the_first_hook_to_the_last)
{
	struct weir_thread_hooks hooks = { .start = post_in_hook, .stop = ask_in_hook };

	for (int i = 0; i < 10; i++)
		ck_assert_int_eq(weir_run(wait_a_little, NULL, .workers = WORKERS, .hooks = &hooks),
				 0);
	ck_assert_uint_ge(asked, 10 * 2 * WORKERS);
}
END_TEST

Suite *io_metrics_suite(void)
{
	Suite *suite = suite_create("io_metrics");
	TCase *metrics_case = tcase_create("metrics");

	tcase_set_tags(metrics_case, "fast");
	tcase_set_timeout(metrics_case, 20);
	tcase_add_test(metrics_case, each_worker_has_its_own_samples);
	tcase_add_test(metrics_case, what_ended_each_sleep_is_counted);
	tcase_add_test(metrics_case, the_text_is_what_the_format_wants);
	tcase_add_test(metrics_case, odd_events_are_counted_with_their_reason_and_place);
	tcase_add_test(metrics_case, what_cannot_be_written_is_an_error);
	tcase_add_test(metrics_case, it_can_be_asked_for_from_the_first_hook_to_the_last);
	suite_add_tcase(suite, metrics_case);
	return suite;
}
