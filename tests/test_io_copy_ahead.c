/* SPDX-License-Identifier: MIT */
/*
 * Reading ahead of the end that is written to: what overlaps, what is gathered, and how much is
 * under way at the most. In virtual time.
 */
#include "tests/net_test.h"

/* ---- Reading ahead, in virtual time ---------------------------------------------------------- */

/* A source of `pieces` of so many bytes, one each `pace_ns`, and a sink that takes its time. */
struct slow {
	int pieces, read, errors_at;
	size_t piece_bytes;
	int64_t pace_ns, sink_ns;
	int writes, fails_at;
	size_t taken;
	bool is_wrong; /* a byte out of place */
};

static ssize_t read_slow(struct weir_end *end, weir_buf *ret, size_t most)
{
	struct slow *slow = end->of;
	size_t n = slow->piece_bytes < most ? slow->piece_bytes : most;
	int err = slow->pace_ns ? weir_sleep(slow->pace_ns) : 0;

	if (err == 0 && slow->errors_at && slow->read == slow->errors_at)
		err = -EIO;
	if (err < 0 || slow->read == slow->pieces)
		return err;
	if (weir_buf_get(ret, n) < 0)
		return -ENOMEM;
	memset(ret->data, slow->read++, ret->len = n);
	return (ssize_t)n;
}

static ssize_t write_slow(struct weir_end *end, weir_buf *buf)
{
	struct slow *slow = end->of;
	ssize_t n = (ssize_t)buf->len;

	for (size_t i = 0; i < buf->len; i++)
		slow->is_wrong |= buf->data[i] != (char)((slow->taken + i) / slow->piece_bytes);
	int err = weir_sleep(slow->sink_ns);
	weir_buf_release(buf);
	if (err == 0 && ++slow->writes == slow->fails_at)
		err = -ENOSPC;
	slow->taken += err == 0 ? (size_t)n : 0;
	return err < 0 ? err : n;
}

static int64_t copy_slow(struct slow *slow, unsigned ahead, int64_t bytes_max, int64_t *moved)
{
	struct weir_end from = { .read = read_slow, .of = slow };
	struct weir_end to = { .write = write_slow, .of = slow };

	return weir_copy(from, to, .ahead = ahead, .bytes_max = bytes_max, .moved = moved);
}

static int small_and_slow(void *arg)
{
	struct slow slow = {
		.pieces = 100, .piece_bytes = 100, .pace_ns = WEIR_MS, .sink_ns = 9 * WEIR_MS
	};
	int64_t begun = weir_now();

	(void)arg;
	ck_assert_int_eq(copy_slow(&slow, 20, 0, NULL), 10000);
	ck_assert_uint_eq(slow.taken, 10000);
	ck_assert(!slow.is_wrong);
	ck_assert_int_le(slow.writes, 13); /* nine or ten at a time */
	ck_assert_int_le(weir_now() - begun, 130 * WEIR_MS);
	return 0;
}

START_TEST(small_pieces_that_have_waited_are_written_together)
{
	ck_assert_int_eq(weir_sim_run(1, small_and_slow, NULL, .calm = true, .workers = 1), 0);
}
END_TEST

/* Large ones are not copied, and so come one by one. */
static int large_and_slow(void *arg)
{
	struct slow slow = {
		.pieces = 10, .piece_bytes = 9000, .pace_ns = 5 * WEIR_MS, .sink_ns = 5 * WEIR_MS
	};
	int64_t begun = weir_now();

	(void)arg;
	ck_assert_int_eq(copy_slow(&slow, 2, 0, NULL), 90000);
	ck_assert(!slow.is_wrong);
	ck_assert_int_eq(slow.writes, 10);
	ck_assert_int_le(weir_now() - begun, 61 * WEIR_MS); /* else 105: the two overlap */
	return 0;
}

START_TEST(what_takes_time_at_both_ends_overlaps)
{
	ck_assert_int_eq(weir_sim_run(1, large_and_slow, NULL, .calm = true, .workers = 1), 0);
}
END_TEST

static int copy_three_ahead(void *arg)
{
	return (int)copy_slow(arg, 3, 0, NULL);
}

static int stuck_sink(void *arg)
{
	struct slow slow = { .pieces = 100,
			     .piece_bytes = *(size_t *)arg,
			     .sink_ns = WEIR_FOREVER };
	{
		WEIR_SCOPE(scope, WEIR_FOREVER);
		spawn(&scope, copy_three_ahead, &slow);
		ck_assert_int_eq(weir_sleep(WEIR_SEC), 0);
		/* and with the sink is one, or the small ones that were there when it began */
		ck_assert_int_eq(slow.read, slow.piece_bytes < 4096 ? 3 + 3 : 1 + 3);
	}
	ck_assert_uint_eq(slow.taken, 0);
	return 0;
}

START_TEST(so_many_leases_are_read_ahead_and_no_more)
{
	size_t piece_bytes[] = { 100, 5000 };

	ck_assert_int_eq(weir_sim_run(1, stuck_sink, &piece_bytes[_i], .calm = true, .workers = 1),
			 0);
}
END_TEST

static int broken_ends(void *arg)
{
	struct slow source = {
		.pieces = 9, .errors_at = 6, .piece_bytes = 5000, .sink_ns = WEIR_MS
	};
	struct slow sink = { .pieces = 9, .piece_bytes = 5000, .fails_at = 2, .sink_ns = WEIR_MS };
	struct slow silent = { .pieces = 9, .piece_bytes = 5000, .pace_ns = WEIR_FOREVER };
	int64_t moved = 0;

	(void)arg;
	ck_assert_int_eq(copy_slow(&source, 3, 0, &moved), -EIO);
	ck_assert_int_eq(moved, 30000); /* all that came before it */
	moved = 0;
	ck_assert_int_eq(copy_slow(&sink, 3, 0, &moved), -ENOSPC);
	ck_assert_int_eq(moved, 5000);
	WEIR_SCOPE(patience, 50 * WEIR_MS);
	ck_assert_int_eq(copy_slow(&silent, 3, 0, &moved), -ETIME);
	return 0;
}

START_TEST(an_error_comes_behind_what_was_read_before_it)
{
	ck_assert_int_eq(weir_sim_run(1, broken_ends, NULL, .calm = true, .workers = 1), 0);
}
END_TEST

/* Each allocation in turn: the channel's, also while it fills, the reader's, the leases'. */
static int without_memory(void *arg)
{
	int64_t n = -ENOMEM, refused = 0;

	(void)arg;
	for (unsigned nth = 1; n == -ENOMEM; nth++) {
		struct slow slow = { .pieces = 250, .piece_bytes = 100, .sink_ns = WEIR_MS };
		int64_t moved = 0;
		(void)weir_mem_fail_after(nth);
		n = copy_slow(&slow, 200, 0, &moved);
		(void)weir_mem_fail_after(0);
		ck_assert(n == -ENOMEM || n == 25000);
		ck_assert_int_eq(moved, (int64_t)slow.taken);
		ck_assert(!slow.is_wrong);
		refused += n == -ENOMEM;
	}
	ck_assert_int_gt(refused, 5);
	return 0;
}

/* A lease that could be read and not handed on is given back: the simulator counts them. */
START_TEST(without_memory_it_ends_and_keeps_nothing)
{
	ck_assert_int_eq(weir_sim_run(1, without_memory, NULL, .calm = true, .workers = 1), 0);
}
END_TEST

static int limited_ahead(void *arg)
{
	struct slow slow = { .pieces = 100, .piece_bytes = 100, .sink_ns = WEIR_MS };

	(void)arg;
	ck_assert_int_eq(copy_slow(&slow, 5, 1000, NULL), 1000);
	ck_assert_int_eq(slow.read, 10);
	ck_assert_int_eq(copy_slow(&slow, 5, 9999999, NULL), 9000);
	ck_assert(!slow.is_wrong);
	return 0;
}

START_TEST(nothing_is_read_ahead_beyond_the_limit)
{
	ck_assert_int_eq(weir_sim_run(1, limited_ahead, NULL, .calm = true, .workers = 1), 0);
}
END_TEST

/* ---- The suite ------------------------------------------------------------------------------- */

Suite *io_copy_ahead_suite(void)
{
	Suite *suite = suite_create("io_copy_ahead");
	TCase *ahead = tcase_create("ahead");
	suite_add_tcase(suite, ahead);
	tcase_set_tags(ahead, "fast");
	tcase_add_test(ahead, small_pieces_that_have_waited_are_written_together);
	tcase_add_test(ahead, what_takes_time_at_both_ends_overlaps);
	tcase_add_loop_test(ahead, so_many_leases_are_read_ahead_and_no_more, 0, 2);
	tcase_add_test(ahead, an_error_comes_behind_what_was_read_before_it);
	tcase_add_test(ahead, without_memory_it_ends_and_keeps_nothing);
	tcase_add_test(ahead, nothing_is_read_ahead_beyond_the_limit);
	return suite;
}
