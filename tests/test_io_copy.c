/* SPDX-License-Identifier: MIT */
/*
 * test_io_copy.c: bytes from one end to another, and both ways at once: all of them, in order, and
 * no more than the other end takes; and every way in which that ends.
 */
#include "tests/net_test.h"

#include <fcntl.h>

/* A source's two sides and a sink's: what is put into in.near is to come out of out.far. */
struct road {
	struct ends in, out;
	int64_t moved, back;
	int64_t result;
	int64_t idle_ns;
	bool ends_together, finish, is_over;
};

static void open_road(struct road *road, const char *address)
{
	open_ends(&road->in, address);
	open_ends(&road->out, "127.0.0.1:0");
}

static void close_road(struct road *road)
{
	close_ends(&road->in);
	close_ends(&road->out);
}

static int copy_road(void *arg)
{
	struct road *road = arg;

	road->result = weir_copy(weir_end_conn(road->in.far), weir_end_conn(road->out.near),
				 .moved = &road->moved, .finish = road->finish);
	road->is_over = true;
	return 0;
}

static int copy_both(void *arg)
{
	struct road *road = arg;

	road->result =
		weir_copy_both(weir_end_conn(road->in.far), weir_end_conn(road->out.near),
			       .a_to_b = &road->moved, .b_to_a = &road->back,
			       .idle_ns = road->idle_ns, .ends_together = road->ends_together);
	road->is_over = true;
	return 0;
}

static void expect_text(weir_conn *conn, const char *text)
{
	char got[64];

	ck_assert_int_eq(weir_read_full(conn, got, strlen(text)), 0);
	ck_assert_mem_eq(got, text, strlen(text));
}

static void expect_end(weir_conn *conn)
{
	char byte;

	ck_assert_int_eq(weir_read_full(conn, &byte, 1), -ENODATA);
}

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

static int copy_files(void *arg)
{
	enum { BYTES = 300000, SKIPPED = 1000 };
	struct road road = { 0 };
	char from[64], to[64], *data = pattern(BYTES), *got = NULL;
	weir_auto_file source = NULL;
	weir_auto_file sink = NULL;
	size_t len;

	(void)arg;
	snprintf(from, sizeof from, "/tmp/weir-copy-from-%d", (int)getpid());
	snprintf(to, sizeof to, "/tmp/weir-copy-to-%d", (int)getpid());
	open_road(&road, "127.0.0.1:0");
	ck_assert_int_eq(weir_file_open(&source, from, O_RDWR | O_CREAT | O_TRUNC), 0);
	ck_assert_int_eq(weir_file_open(&sink, to, O_RDWR | O_CREAT | O_TRUNC), 0);
	ck_assert_int_eq(weir_file_write_at(source, data, BYTES, 0), BYTES);

	WEIR_SCOPE(scope, WEIR_FOREVER);
	struct road second = { .in = { .far = road.in.far }, .out = { .near = road.out.near } };
	second.finish = true;
	spawn(&scope, copy_road, &second);
	ck_assert_int_eq(weir_copy(weir_end_file(source, SKIPPED), weir_end_conn(road.in.near),
				   .finish = true),
			 BYTES - SKIPPED);
	ck_assert_int_eq(weir_copy(weir_end_conn(road.out.far), weir_end_file(sink, 0)),
			 BYTES - SKIPPED);
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	ck_assert_int_eq(weir_copy(weir_end_file(source, 0), weir_end_file(sink, BYTES - SKIPPED),
				   .bytes_max = SKIPPED),
			 SKIPPED);
	ck_assert_int_eq(weir_file_load(to, BYTES, &got, &len), 0);
	ck_assert_uint_eq(len, BYTES);
	ck_assert_mem_eq(got, data + SKIPPED, BYTES - SKIPPED);
	ck_assert_mem_eq(got + BYTES - SKIPPED, data, SKIPPED);
	weir_free(got);
	free(data);
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

/* ---- Both ways ------------------------------------------------------------------------------- */

static int answer_after_the_end(void *arg)
{
	struct road road = { 0 };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	open_road(&road, arg);
	spawn(&scope, copy_both, &road);
	put(road.in.near, "question");
	expect_text(road.out.far, "question");
	put(road.out.far, "well");
	expect_text(road.in.near, "well");
	ck_assert_int_eq(weir_shutdown(road.in.near), 0);
	expect_end(road.out.far);
	settle();
	ck_assert(!road.is_over);
	put(road.out.far, ", the answer");
	expect_text(road.in.near, ", the answer");
	ck_assert_int_eq(weir_shutdown(road.out.far), 0);
	expect_end(road.in.near);
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	ck_assert_int_eq(road.result, 0);
	ck_assert_int_eq(road.moved, 8);
	ck_assert_int_eq(road.back, 16);
	close_road(&road);
	return 0;
}

START_TEST(half_a_proxied_connection_goes_on)
{
	run_on(1, answer_after_the_end, (void *)address_of(_i));
}
END_TEST

static int a_lot_both_ways(void *arg)
{
	struct server server = { .handler = echo };
	struct road road = { 0 };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	start_server(&scope, &server, "127.0.0.1:0");
	open_ends(&road.in, "127.0.0.1:0");
	ck_assert_int_eq(weir_connect(&road.out.near, weir_listener_address(server.listener)), 0);
	{
		WEIR_SCOPE(copying, WEIR_FOREVER);
		spawn(&copying, copy_both, &road);
		exchange(road.in.near, BIG_BYTES / 4);
		ck_assert_int_eq(weir_shutdown(road.in.near), 0);
		expect_end(road.in.near);
		ck_assert_int_eq(weir_scope_wait(&copying), 0);
	}
	ck_assert_int_eq(road.result, 0);
	ck_assert_int_eq(road.moved, BIG_BYTES / 4);
	ck_assert_int_eq(road.back, BIG_BYTES / 4);
	close_ends(&road.in);
	weir_conn_close(road.out.near);
	weir_scope_cancel(&scope);
	(void)weir_scope_wait(&scope);
	weir_listener_close(server.listener);
	return 0;
}

START_TEST(megabytes_go_there_and_back)
{
	run(a_lot_both_ways);
}
END_TEST

static int ends_with_the_first(void *arg)
{
	struct road road = { .ends_together = true };
	bool is_back = *(int *)arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	open_road(&road, "127.0.0.1:0");
	spawn(&scope, copy_both, &road);
	put(road.in.near, "question");
	expect_text(road.out.far, "question");
	ck_assert_int_eq(weir_shutdown(is_back ? road.out.far : road.in.near), 0);
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	ck_assert_int_eq(road.result, 0);
	expect_end(is_back ? road.in.near : road.out.far); /* which was told */
	close_road(&road);
	return 0;
}

START_TEST(the_end_of_one_may_be_the_end_of_both)
{
	run_on(1, ends_with_the_first, &_i);
}
END_TEST

/* Closing with something unread is a reset. */
static int reset_one(void *arg)
{
	struct road road = { 0 };
	bool is_back = *(int *)arg;
	weir_conn **victim = is_back ? &road.out.far : &road.in.near;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	open_road(&road, "127.0.0.1:0");
	spawn(&scope, copy_both, &road);
	put(is_back ? road.in.near : road.out.far, "unread");
	settle();
	weir_conn_close(*victim);
	*victim = NULL;
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	ck_assert_int_eq(road.result, -ECONNRESET);
	ck_assert_int_eq(is_back ? road.moved : road.back, 6);
	close_road(&road);
	return 0;
}

START_TEST(a_reset_on_either_side_ends_both)
{
	run_on(1, reset_one, &_i);
}
END_TEST

static int close_one(void *arg)
{
	struct road road = { 0 };
	weir_conn **victim = *(int *)arg ? &road.out.near : &road.in.far;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	open_road(&road, "127.0.0.1:0");
	spawn(&scope, copy_both, &road);
	settle();
	weir_conn_close(*victim);
	*victim = NULL;
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	ck_assert_int_eq(road.result, -ECANCELED);
	close_road(&road);
	return 0;
}

START_TEST(a_connection_that_is_closed_ends_both)
{
	run_on(1, close_one, &_i);
}
END_TEST

enum late { LATE_BOTH, LATE_BACK, LATE_WRITING, LATES };

/* Both ways wait; or only the way back does; or one has nobody who reads. */
static void come_to(struct road *road, struct weir_scope *scope, struct request *request,
		    enum late late)
{
	if (late == LATE_BACK)
		ck_assert_int_eq(weir_shutdown(road->in.near), 0);
	request->conn = road->in.near;
	request->len = BIG_BYTES;
	request->data = late == LATE_WRITING ? pattern(BIG_BYTES) : NULL;
	if (late == LATE_WRITING)
		spawn(scope, write_all, request);
}

static int late_both(void *arg)
{
	struct road road = { 0 };
	struct request request = { 0 };
	enum late late = (enum late)(*(int *)arg / 2);
	bool is_cancelled = *(int *)arg % 2;

	open_ends(&road.in, own_name("copy-in"));
	open_ends(&road.out, own_name("copy-out"));
	{
		WEIR_SCOPE(writing, WEIR_FOREVER);
		come_to(&road, &writing, &request, late);
		WEIR_SCOPE(scope, is_cancelled ? WEIR_FOREVER : 50 * WEIR_MS);
		spawn(&scope, copy_both, &road);
		if (is_cancelled) {
			settle();
			weir_scope_cancel(&scope);
		}
		(void)weir_scope_wait(&scope);
	}
	ck_assert(road.is_over);
	ck_assert(road.result == (is_cancelled ? -ECANCELED : -ETIME) ||
		  (!is_cancelled && road.result == -ECANCELED)); /* by who waits for it */
	if (late == LATE_BACK)
		expect_end(road.out.far);
	free((void *)request.data);
	close_road(&road);
	return 0;
}

START_TEST(both_end_when_they_are_cancelled_or_late)
{
	run_on(1, late_both, &_i);
}
END_TEST

/* In the task whose deadline it is. */
static int late_oneself(void *arg)
{
	struct road road = { 0 };
	struct request request = { 0 };
	enum late late = (enum late) * (int *)arg;

	open_ends(&road.in, own_name("copy-in"));
	open_ends(&road.out, own_name("copy-out"));
	{
		WEIR_SCOPE(writing, WEIR_FOREVER);
		come_to(&road, &writing, &request, late);
		WEIR_SCOPE(patience, 50 * WEIR_MS);
		copy_both(&road);
	}
	ck_assert_int_eq(road.result, -ETIME);
	free((void *)request.data);
	close_road(&road);
	return 0;
}

START_TEST(a_deadline_is_etime_wherever_it_waits)
{
	run_on(1, late_oneself, &_i);
}
END_TEST

/* ---- Silence, in virtual time ---------------------------------------------------------------- */

static int silence(void *arg)
{
	struct road road = { .idle_ns = WEIR_SEC };
	bool is_back = *(int *)arg;
	weir_conn *speaker;
	int64_t begun;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	open_road(&road, "127.0.0.1:0");
	speaker = is_back ? road.out.far : road.in.near;
	spawn(&scope, copy_both, &road);
	for (int i = 0; i < 20; i++) { /* one side speaks: nobody is silent */
		put(speaker, "x");
		ck_assert_int_eq(weir_sleep(700 * WEIR_MS), 0);
	}
	ck_assert(!road.is_over);
	begun = weir_now();
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	ck_assert_int_eq(road.result, -ETIME);
	ck_assert_int_le(weir_now() - begun, 2 * WEIR_SEC + WEIR_MS);
	ck_assert_int_eq(is_back ? road.back : road.moved, 20);
	close_road(&road);
	return 0;
}

START_TEST(silence_of_both_ends_them)
{
	ck_assert_int_eq(weir_sim_run(1, silence, &_i, .calm = true, .workers = 1), 0);
}
END_TEST

/* Something comes all the time, and nobody takes it. */
static int full(void *arg)
{
	struct road road = { .idle_ns = WEIR_SEC };
	struct request request = { .len = 1 << 20 };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	open_road(&road, "127.0.0.1:0");
	request.conn = road.in.near;
	request.data = pattern(request.len);
	spawn(&scope, write_all, &request);
	copy_both(&road);
	ck_assert_int_eq(road.result, -ETIME);
	weir_scope_cancel(&scope);
	(void)weir_scope_wait(&scope);
	free((void *)request.data);
	close_road(&road);
	return 0;
}

START_TEST(who_takes_nothing_is_silent_too)
{
	ck_assert_int_eq(weir_sim_run(1, full, NULL, .calm = true, .workers = 1), 0);
}
END_TEST

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
	TCase *both = add_case(suite, "both ways");
	tcase_add_loop_test(both, half_a_proxied_connection_goes_on, 0, COUNT(addresses));
	tcase_add_test(both, megabytes_go_there_and_back);
	tcase_add_loop_test(both, the_end_of_one_may_be_the_end_of_both, 0, 2);
	tcase_add_loop_test(both, a_reset_on_either_side_ends_both, 0, 2);
	tcase_add_loop_test(both, a_connection_that_is_closed_ends_both, 0, 2);
	tcase_add_loop_test(both, both_end_when_they_are_cancelled_or_late, 0, 2 * LATES);
	tcase_add_loop_test(both, a_deadline_is_etime_wherever_it_waits, 0, LATES);
	TCase *silence = tcase_create("silence");
	suite_add_tcase(suite, silence);
	tcase_set_tags(silence, "fast");
	tcase_add_loop_test(silence, silence_of_both_ends_them, 0, 2);
	tcase_add_test(silence, who_takes_nothing_is_silent_too);
	TCase *ahead = tcase_create("ahead");
	suite_add_tcase(suite, ahead);
	tcase_set_tags(ahead, "fast");
	tcase_add_test(ahead, small_pieces_that_have_waited_are_written_together);
	tcase_add_test(ahead, what_takes_time_at_both_ends_overlaps);
	tcase_add_loop_test(ahead, so_many_leases_are_read_ahead_and_no_more, 0, 2);
	tcase_add_test(ahead, an_error_comes_behind_what_was_read_before_it);
	tcase_add_test(ahead, nothing_is_read_ahead_beyond_the_limit);
	return suite;
}
