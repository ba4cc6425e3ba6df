/* SPDX-License-Identifier: MIT */
/*
 * Bytes from one end to another: all of them, in order, and no more than the other end takes;
 * whatever the ends are.
 */
#include "tests/copy_test.h"

#include <fcntl.h>

/* ---- One way --------------------------------------------------------------------------------- */

static int write_and_end(void *arg)
{
	struct request *request = arg;

	request->result = weir_write(request->conn, request->data, request->len);
	return weir_shutdown(request->conn);
}

static int copy_a_lot(void *arg)
{
	struct road road = { .finish = true };
	struct request request = { .len = BIG_BYTES / 4 };
	char *got = malloc(request.len), byte;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	open_road(&road, arg);
	request.conn = road.in.near;
	request.data = pattern(request.len);
	spawn(&scope, write_and_end, &request);
	spawn(&scope, copy_road, &road);
	ck_assert_int_eq(weir_read_full(road.out.far, got, request.len), 0);
	ck_assert_int_eq(weir_read_full(road.out.far, &byte, 1), -ENODATA);
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	ck_assert_mem_eq(got, request.data, request.len);
	ck_assert_int_eq(road.result, (int64_t)request.len);
	ck_assert_int_eq(road.moved, (int64_t)request.len);
	free(got);
	free((void *)request.data);
	close_road(&road);
	return 0;
}

START_TEST(every_byte_goes_over_and_so_does_the_end)
{
	run_on(1, copy_a_lot, (void *)address_of(_i));
}
END_TEST

static int copy_without_end(void *arg)
{
	struct road road = { .moved = 100 };

	(void)arg;
	open_road(&road, "127.0.0.1:0");
	put(road.in.near, "one");
	ck_assert_int_eq(weir_shutdown(road.in.near), 0);
	copy_road(&road);
	ck_assert_int_eq(road.result, 3);
	ck_assert_int_eq(road.moved, 103); /* added, not set */
	put(road.out.near, "two");
	expect_text(road.out.far, "onetwo");
	close_road(&road);
	return 0;
}

START_TEST(the_end_stays_here_unless_it_is_asked_for)
{
	run(copy_without_end);
}
END_TEST

static int copy_some(void *arg)
{
	static const char text[] = "hello, world, and the rest of it";
	struct road road = { 0 };
	int64_t n, moved = 0;
	int step = *(int *)arg;

	open_road(&road, "127.0.0.1:0");
	put(road.in.near, text);
	for (int64_t left = 12; left > 0; left -= n) {
		int64_t most = left < step ? left : step;
		n = weir_copy(weir_end_conn(road.in.far), weir_end_conn(road.out.near),
			      .bytes_max = most, .moved = &moved);
		ck_assert_int_eq(n, most);
	}
	ck_assert_int_eq(moved, 12);
	expect_text(road.out.far, "hello, world");
	expect_text(road.in.far, ", and the"); /* by whatever call */
	ck_assert_int_eq(weir_shutdown(road.in.near), 0);
	n = weir_copy(weir_end_conn(road.in.far), weir_end_conn(road.out.near), .bytes_max = 10);
	ck_assert_int_eq(n, 10);
	n = weir_copy(weir_end_conn(road.in.far), weir_end_conn(road.out.near), .bytes_max = 100,
		      .finish = true);
	ck_assert_int_eq(n, 1); /* the end comes before the limit */
	expect_text(road.out.far, " rest of it");
	expect_end(road.out.far);
	close_road(&road);
	return 0;
}

START_TEST(a_limit_leaves_the_rest_where_it_was)
{
	int step = 1 + _i;

	run_on(1, copy_some, &step);
}
END_TEST

static int nobody_reads(void *arg)
{
	struct road road = { 0 };
	struct request request = { .len = BIG_BYTES };
	int64_t before = -1;

	(void)arg;
	open_ends(&road.in, own_name("copy-in"));
	open_ends(&road.out, own_name("copy-out")); /* whose buffers do not grow */
	request.conn = road.in.near;
	request.data = pattern(request.len);
	{
		WEIR_SCOPE(scope, WEIR_FOREVER);
		spawn(&scope, write_all, &request);
		spawn(&scope, copy_road, &road);
		for (settle(); road.moved != before; settle())
			before = road.moved;
		ck_assert_int_gt(road.moved, 0);
		ck_assert_int_lt(road.moved, BIG_BYTES / 4);
		ck_assert(!road.is_over);
	} /* cancelled */
	ck_assert_int_eq(road.result, -ECANCELED);
	ck_assert_int_lt(request.result, BIG_BYTES / 2); /* nor is more taken in */
	free((void *)request.data);
	close_road(&road);
	return 0;
}

START_TEST(who_does_not_read_stops_who_writes)
{
	run(nobody_reads);
}
END_TEST

static int no_such_copy(void *arg)
{
	struct road road = { 0 };
	struct weir_end none = { 0 };

	(void)arg;
	open_road(&road, "127.0.0.1:0");
	struct weir_end from = weir_end_conn(road.in.far), to = weir_end_conn(road.out.near);
	ck_assert_int_eq(weir_copy(none, to), -EINVAL);
	ck_assert_int_eq(weir_copy(from, none), -EINVAL);
	ck_assert_int_eq(weir_copy(from, to, .bytes_max = -1), -EINVAL);
	ck_assert_int_eq(weir_copy_both(from, none), -EINVAL);
	ck_assert_int_eq(weir_copy_both(none, to), -EINVAL);
	ck_assert_int_eq(weir_copy_both(from, to, .idle_ns = -1), -EINVAL);
	close_road(&road);
	return 0;
}

START_TEST(an_end_that_is_none_is_refused)
{
	run(no_such_copy);
}
END_TEST

/* ---- Files, pipes, functions ----------------------------------------------------------------- */

struct source {
	weir_file *file;
	weir_conn *to;
	int64_t offset, result;
};

/* Nobody relies on what lies in between: buffers may be small. */
static int copy_from_file(void *arg)
{
	struct source *source = arg;

	source->result = weir_copy(weir_end_file(source->file, source->offset),
				   weir_end_conn(source->to), .finish = true);
	return 0;
}

static int copy_files(void *arg)
{
	enum { BYTES = 300000, SKIPPED = 1000 };
	struct road road = { 0 };
	char from[64], to[64], *data = pattern(BYTES), *got = NULL;
	struct source source = { .offset = SKIPPED };
	weir_auto_file sink = NULL;
	size_t len;

	(void)arg;
	snprintf(from, sizeof from, "/tmp/weir-copy-from-%d", (int)getpid());
	snprintf(to, sizeof to, "/tmp/weir-copy-to-%d", (int)getpid());
	open_road(&road, "127.0.0.1:0");
	ck_assert_int_eq(weir_file_open(&source.file, from, O_RDWR | O_CREAT | O_TRUNC), 0);
	ck_assert_int_eq(weir_file_open(&sink, to, O_RDWR | O_CREAT | O_TRUNC), 0);
	ck_assert_int_eq(weir_file_write_at(source.file, data, BYTES, 0), BYTES);

	WEIR_SCOPE(scope, WEIR_FOREVER);
	road.finish = true;
	source.to = road.in.near;
	spawn(&scope, copy_road, &road);
	spawn(&scope, copy_from_file, &source);
	ck_assert_int_eq(weir_copy(weir_end_conn(road.out.far), weir_end_file(sink, 0)),
			 BYTES - SKIPPED);
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	ck_assert_int_eq(source.result, BYTES - SKIPPED);
	ck_assert_int_eq(weir_copy(weir_end_file(source.file, 0),
				   weir_end_file(sink, BYTES - SKIPPED), .bytes_max = SKIPPED),
			 SKIPPED);
	ck_assert_int_eq(weir_file_load(to, BYTES, &got, &len), 0);
	ck_assert_uint_eq(len, BYTES);
	ck_assert_mem_eq(got, data + SKIPPED, BYTES - SKIPPED);
	ck_assert_mem_eq(got + BYTES - SKIPPED, data, SKIPPED);
	weir_free(got);
	free(data);
	weir_file_close(source.file);
	ck_assert_int_eq(weir_path_remove(from), 0);
	ck_assert_int_eq(weir_path_remove(to), 0);
	close_road(&road);
	return 0;
}

START_TEST(a_file_goes_over_a_connection_into_another)
{
	run(copy_files);
}
END_TEST

struct pipes {
	weir_stream *in, *out;
	int64_t result;
};

static int copy_pipes(void *arg)
{
	struct pipes *pipes = arg;

	pipes->result = weir_copy(weir_end_stream(pipes->in), weir_end_stream(pipes->out));
	weir_stream_close(pipes->out);
	return 0;
}

static void read_stream(weir_stream *stream, char *ret, size_t len)
{
	for (size_t at = 0; at < len;) {
		ssize_t n = weir_stream_read(stream, ret + at, len - at);
		ck_assert_int_gt(n, 0);
		at += (size_t)n;
	}
}

static int through_pipes(void *arg)
{
	struct road road = { 0 };
	struct request request = { .len = 1000000 };
	struct pipes pipes = { 0 };
	weir_auto_stream first = NULL;
	weir_auto_stream last = NULL;
	char *got = malloc(request.len);
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	open_road(&road, "127.0.0.1:0");
	ck_assert_int_eq(weir_pipe(&pipes.in, &first), 0);
	ck_assert_int_eq(weir_pipe(&last, &pipes.out), 0);
	request.conn = road.in.near;
	request.data = pattern(request.len);
	spawn(&scope, write_and_end, &request);
	spawn(&scope, copy_pipes, &pipes);
	ck_assert_int_eq(
		weir_copy(weir_end_conn(road.in.far), weir_end_stream(first), .bytes_max = 1000),
		1000);
	read_stream(last, got, 600);
	ck_assert_mem_eq(got, request.data, 600);
	ck_assert_int_eq(
		weir_copy(weir_end_stream(last), weir_end_conn(road.out.near), .bytes_max = 300),
		300);
	ck_assert_int_eq(weir_read_full(road.out.far, got, 300), 0);
	ck_assert_mem_eq(got, request.data + 600, 300);
	weir_stream_close(first);
	first = NULL;
	ck_assert_int_eq(weir_copy(weir_end_stream(last), weir_end_conn(road.out.near)), 100);
	ck_assert_int_eq(weir_copy(weir_end_conn(road.in.far), weir_end_conn(road.out.near),
				   .bytes_max = 10),
			 10);
	ck_assert_int_eq(weir_read_full(road.out.far, got, 110), 0);
	ck_assert_mem_eq(got, request.data + 900, 110);
	weir_scope_cancel(&scope); /* who wants to write the rest */
	(void)weir_scope_wait(&scope);
	ck_assert_int_eq(pipes.result, 1000);
	weir_stream_close(pipes.in);
	free(got);
	free((void *)request.data);
	close_road(&road);
	return 0;
}

START_TEST(pipes_are_ends_too)
{
	run(through_pipes);
}
END_TEST

/* A source of so many bytes, and a sink that takes so many before it fails. */
struct own {
	int left, taken;
	int error;
};

static ssize_t read_own(struct weir_end *end, weir_buf *ret, size_t most)
{
	struct own *own = end->of;
	size_t n = own->left < 1000 ? (size_t)own->left : 1000;

	if (n > most)
		n = most;
	if (n == 0)
		return own->error;
	ck_assert_int_eq(weir_buf_get(ret, n), 0);
	memset(ret->data, 'x', ret->len = n);
	own->left -= (int)n;
	return (ssize_t)n;
}

static ssize_t write_own(struct weir_end *end, weir_buf *buf)
{
	struct own *own = end->of;
	ssize_t n = (ssize_t)buf->len;

	weir_buf_release(buf);
	own->taken += (int)n;
	return own->taken > 5000 ? -ENOSPC : n;
}

static int own_ends(void *arg)
{
	struct own source = { .left = 2500 }, sink = { 0 };
	struct weir_end from = { .read = read_own, .of = &source };
	struct weir_end to = { .write = write_own, .of = &sink };
	int64_t moved = 0;

	(void)arg;
	ck_assert_int_eq(weir_copy(from, to, .finish = true), 2500);
	ck_assert_int_eq(sink.taken, 2500);
	ck_assert_int_eq(weir_copy(to, from), -EINVAL);
	ck_assert_int_eq(weir_copy_both(from, to), -EINVAL);
	source = (struct own){ .left = 1500, .error = -EIO };
	ck_assert_int_eq(weir_copy(from, to, .moved = &moved), -EIO);
	ck_assert_int_eq(moved, 1500);
	source.left = 9000;
	ck_assert_int_eq(weir_copy(from, to, .moved = &moved), -ENOSPC);
	ck_assert_int_eq(moved, 2500);
	return 0;
}

START_TEST(a_program_has_ends_of_its_own)
{
	run(own_ends);
}
END_TEST

/* ---- The suite ------------------------------------------------------------------------------- */

Suite *io_copy_suite(void)
{
	Suite *suite = suite_create("io_copy");
	TCase *one = add_case(suite, "one way");
	tcase_add_loop_test(one, every_byte_goes_over_and_so_does_the_end, 0, COUNT(addresses));
	tcase_add_test(one, the_end_stays_here_unless_it_is_asked_for);
	tcase_add_loop_test(one, a_limit_leaves_the_rest_where_it_was, 0, 12);
	tcase_add_test(one, who_does_not_read_stops_who_writes);
	tcase_add_test(one, an_end_that_is_none_is_refused);
	tcase_add_test(one, a_file_goes_over_a_connection_into_another);
	tcase_add_test(one, pipes_are_ends_too);
	tcase_add_test(one, a_program_has_ends_of_its_own);
	return suite;
}
