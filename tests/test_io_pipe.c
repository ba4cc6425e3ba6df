/* SPDX-License-Identifier: MIT */
/*
 * test_io_pipe.c: pipes, FIFOs, terminals and standard input: bytes come in order, an end is told,
 * waiting can be cancelled, and nobody gets a signal. Runs on the driver that WEIR_DRIVER names.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "tests/child.h"
#include "tests/descriptors.h"
#include "tests/refuse.h"
#include "tests/stream_test.h"

static void run_pipe_test(weir_fn fn)
{
	int before = count_descriptors();

	run_on(2, fn, NULL);
	ck_assert_int_eq(count_descriptors(), before);
}

/* ---- Both ends ------------------------------------------------------------------------------ */

enum { STREAM_BYTES = 3000000 };

static char byte_at(size_t i)
{
	return (char)((i * 31 + (i >> 8)) & 0xff);
}

/* Takes the end it writes to. */
static int write_pattern(void *arg)
{
	weir_auto_stream out = arg;
	static char part[70000];

	for (size_t at = 0; at < STREAM_BYTES;) {
		size_t len = STREAM_BYTES - at < sizeof part ? STREAM_BYTES - at : sizeof part;
		for (size_t i = 0; i < len; i++)
			part[i] = byte_at(at + i);
		expect(weir_stream_write(out, part, len) == (ssize_t)len);
		at += len;
	}
	return 0;
}

static int pass_bytes(void *arg)
{
	weir_auto_stream in = NULL;
	weir_stream *out;
	static char part[50000];
	size_t at = 0;
	ssize_t n;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_pipe(&in, &out));
	TRY(weir_spawn(&scope, write_pattern, out, .worker = here()));
	while ((n = weir_stream_read(in, part, sizeof part)) > 0)
		for (ssize_t i = 0; i < n; i++, at++)
			expect(part[i] == byte_at(at));
	expect(n == 0 && at == STREAM_BYTES);
	expect(weir_stream_read(in, part, sizeof part) == 0); /* and again */
	return weir_scope_wait(&scope);
}

START_TEST(a_long_stream_comes_in_order_and_ends)
{
	run_pipe_test(pass_bytes);
}
END_TEST

/* Two pipes; a byte goes round. */
struct loop {
	weir_stream *in, *out;
};

static int send_back(void *arg)
{
	const struct loop *loop = arg;
	char byte;
	ssize_t n;

	while ((n = weir_stream_read(loop->in, &byte, 1)) > 0)
		expect(weir_stream_write(loop->out, &byte, 1) == 1);
	return (int)n;
}

static int play_ping_pong(void *arg)
{
	struct loop near, far;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_pipe(&far.in, &near.out));
	TRY(weir_pipe(&near.in, &far.out));
	TRY(weir_spawn(&scope, send_back, &far, .worker = here()));
	for (int i = 0; i < 1000; i++) {
		char byte = (char)i, back;
		expect(weir_stream_write(near.out, &byte, 1) == 1);
		expect(weir_stream_read(near.in, &back, 1) == 1 && back == byte);
	}
	weir_stream_close(near.out);
	TRY(weir_scope_wait(&scope));
	weir_stream_close(far.out);
	char byte;
	expect(weir_stream_read(near.in, &byte, 1) == 0);
	weir_stream_close(near.in);
	weir_stream_close(far.in);
	return 0;
}

START_TEST(a_byte_goes_to_and_fro)
{
	run_pipe_test(play_ping_pong);
}
END_TEST

static int close_later(void *arg)
{
	TRY(weir_sleep(5 * WEIR_MS));
	weir_stream_close(arg);
	return 0;
}

static int write_to_nobody(void *arg)
{
	static char big[1 << 20];
	weir_auto_stream out = NULL;
	weir_stream *in;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	signal(SIGPIPE, SIG_DFL); /* which would kill */
	TRY(weir_pipe(&in, &out));
	TRY(weir_spawn(&scope, close_later, in, .worker = here()));
	ssize_t n = weir_stream_write(out, big, sizeof big); /* waits for room, then breaks */
	expect(n > 0 && n < (ssize_t)sizeof big);
	expect(weir_stream_write(out, big, 1) == -EPIPE);
	expect(weir_stream_write(out, big, 1) == -EPIPE);
	expect(weir_stream_write(out, big, 0) == 0);
	return weir_scope_wait(&scope);
}

START_TEST(a_pipe_nobody_reads_is_epipe_and_no_signal)
{
	run_pipe_test(write_to_nobody);
}
END_TEST

static volatile sig_atomic_t broken_pipes;

static void count_broken(int number)
{
	(void)number;
	broken_pipes++;
}

static int break_a_pipe(void *arg)
{
	weir_auto_stream out = NULL;
	weir_stream *in;
	sigset_t now;

	(void)arg;
	TRY(weir_pipe(&in, &out));
	weir_stream_close(in);
	expect(weir_stream_write(out, "x", 1) == -EPIPE);
	pthread_sigmask(SIG_SETMASK, NULL, &now);
	expect(!sigismember(&now, SIGPIPE) && broken_pipes == 0);
	raise(SIGPIPE); /* the program's own are its own */
	expect(broken_pipes == 1);
	sigset_t pipe_alone;
	sigemptyset(&pipe_alone);
	sigaddset(&pipe_alone, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe_alone, NULL);
	raise(SIGPIPE);
	expect(weir_stream_write(out, "x", 1) == -EPIPE);
	expect(broken_pipes == 1);
	pthread_sigmask(SIG_UNBLOCK, &pipe_alone, NULL);
	return broken_pipes == 2 ? 0 : -EIO;
}

START_TEST(a_program_s_own_sigpipe_is_neither_eaten_nor_made)
{
	signal(SIGPIPE, count_broken);
	run_pipe_test(break_a_pipe);
	signal(SIGPIPE, SIG_DFL);
}
END_TEST

/* ---- Waiting -------------------------------------------------------------------------------- */

static int wait_in_vain(void *arg)
{
	weir_auto_stream in = NULL;
	weir_auto_stream out = NULL;
	char byte = 7;

	(void)arg;
	TRY(weir_pipe(&in, &out));
	{
		WEIR_SCOPE(patience, WEIR_MS);
		expect(weir_stream_read(in, &byte, 1) == -ETIME && byte == 7);
		expect(weir_stream_write(out, "x", 1) == -ETIME);
	}
	expect(weir_stream_write(out, "y", 1) == 1);
	expect(weir_stream_read(in, &byte, 1) == 1 && byte == 'y'); /* nothing was lost */
	(void)fill_up(out);
	WEIR_SCOPE(scope, WEIR_FOREVER);
	weir_scope_cancel(&scope);
	expect(weir_stream_read(in, &byte, 1) == -ECANCELED);
	return weir_stream_write(out, &byte, 1) == -ECANCELED ? 0 : -EIO;
}

START_TEST(a_deadline_ends_a_wait_and_loses_no_byte)
{
	run_pipe_test(wait_in_vain);
}
END_TEST

static int close_with_waiters(void *arg)
{
	struct call reading = { NULL, 77 }, writing = { NULL, 77 };
	weir_stream *in, *out;
	char byte;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_pipe(&reading.stream, &out));
	TRY(weir_pipe(&in, &writing.stream));
	TRY(weir_spawn(&scope, read_one, &reading, .worker = here()));
	TRY(weir_spawn(&scope, write_much, &writing, .worker = here()));
	TRY(weir_sleep(10 * WEIR_MS));
	expect(weir_stream_read(reading.stream, &byte, 1) == -EBUSY);
	expect(weir_stream_write(writing.stream, &byte, 1) == -EBUSY);
	weir_stream_close(reading.stream);
	expect(reading.result == -ECANCELED);
	weir_stream_close(writing.stream);
	expect(writing.result > 0 && writing.result < 1 << 20); /* what had gone out */
	weir_stream_close(out);
	weir_stream_close(in);
	weir_stream_close(NULL);
	return weir_scope_wait(&scope);
}

START_TEST(closing_ends_who_waits_on_it)
{
	run_pipe_test(close_with_waiters);
}
END_TEST

struct robbed {
	int fds[2];
	struct weir_scope *scope;
	ssize_t result;
};

static int read_what_another_takes(void *arg)
{
	struct robbed *robbed = arg;
	weir_auto_stream in = NULL;
	char byte;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_stream_from(&in, robbed->fds[0]));
	robbed->scope = &scope;
	robbed->result = weir_stream_read(in, &byte, 1);
	return 0;
}

static uint64_t turns_here(void)
{
	struct weir_worker_stats stats;

	expect(weir_worker_stats_get(weir_worker_index(), &stats) == 0);
	return stats.turns;
}

/* The reader is woken, and before its turn the byte is gone, and it is cancelled. */
static int take_and_cancel(void *arg)
{
	struct robbed robbed = { .result = 1 };
	char byte;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	expect(pipe(robbed.fds) == 0);
	TRY(weir_spawn(&scope, read_what_another_takes, &robbed, .worker = here()));
	TRY(weir_sleep(WEIR_MS));
	uint64_t turns = turns_here();
	expect(write(robbed.fds[1], "b", 1) == 1);
	while (turns_here() == turns)
		TRY(weir_yield());
	expect(read(robbed.fds[0], &byte, 1) == 1);
	weir_scope_cancel(robbed.scope);
	TRY(weir_scope_wait(&scope));
	close(robbed.fds[0]);
	close(robbed.fds[1]);
	return robbed.result == -ECANCELED ? 0 : -EIO;
}

START_TEST(who_is_robbed_and_cancelled_before_its_turn_waits_no_more)
{
	run_pipe_test(take_and_cancel);
}
END_TEST

static int write_more_than_fits(void *arg)
{
	static char big[1 << 20];
	struct call *call = arg;

	expect(weir_stream_write(call->stream, big, 1) == 1); /* all of the budget */
	call->result = weir_stream_write(call->stream, big, sizeof big);
	return 0;
}

static int close_between_parts(void *arg)
{
	struct call writing = { NULL, 0 };
	weir_auto_stream in = NULL;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_pipe(&in, &writing.stream));
	TRY(weir_spawn(&scope, write_more_than_fits, &writing, .worker = here()));
	TRY(weir_yield()); /* the pipe is full now, and the writer lets others have their turn */
	weir_stream_close(writing.stream);
	TRY(weir_scope_wait(&scope));
	return writing.result > 0 && writing.result < 1 << 20 ? 0 : -EIO;
}

/* With a budget of one the others' turn is between the first part and the next. */
START_TEST(closed_in_a_writer_s_turn_it_does_not_wait_for_room)
{
	setenv("WEIR_BUDGET", "1", 1);
	run_pipe_test(close_between_parts);
}
END_TEST

static int use_from_elsewhere(void *arg)
{
	weir_stream *stream = arg;
	char byte;

	expect(weir_stream_read(stream, &byte, 1) == -EXDEV);
	return weir_stream_write(stream, &byte, 1) == -EXDEV ? 0 : -EIO;
}

struct post {
	weir_stream *stream;
	ssize_t read, written;
	struct weir_event over;
};

/* Between two tasks, in none. */
static void use_outside_tasks(void *arg)
{
	struct post *post = arg;
	char byte = 'x';

	post->read = weir_stream_read(post->stream, &byte, 1);
	post->written = weir_stream_write(post->stream, &byte, 1);
	weir_event_set(&post->over);
}

static int post_a_call(void *arg)
{
	weir_auto_stream in = NULL;
	weir_auto_stream out = NULL;
	struct post post = { .read = 77, .written = 77 };

	(void)arg;
	weir_event_init(&post.over);
	TRY(weir_pipe(&in, &out));
	post.stream = in;
	TRY(weir_post((unsigned)weir_worker_index(), use_outside_tasks, &post));
	TRY(weir_event_wait(&post.over));
	return post.read == -EINVAL && post.written == -EINVAL ? 0 : -EIO;
}

START_TEST(what_is_posted_cannot_wait)
{
	run_pipe_test(post_a_call);
}
END_TEST

static int lend_to_another_worker(void *arg)
{
	weir_auto_stream in = NULL;
	weir_auto_stream out = NULL;
	unsigned other = weir_worker_index() == 0;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_pipe(&in, &out));
	TRY(weir_spawn(&scope, use_from_elsewhere, in, .worker = WEIR_ON_WORKER(other)));
	return weir_scope_wait(&scope);
}

START_TEST(a_stream_belongs_to_its_worker)
{
	run_pipe_test(lend_to_another_worker);
}
END_TEST

static int refuse_memory(void *arg)
{
	weir_stream *in = NULL, *out = NULL;

	(void)arg;
	for (unsigned nth = 1; nth <= 2; nth++) {
		weir_mem_fail_after(nth);
		int err = weir_pipe(&in, &out);
		weir_mem_fail_after(0);
		expect(err == -ENOMEM && !in && !out);
	}
	TRY(weir_pipe(&in, &out));
	weir_stream_close(in);
	weir_stream_close(out);
	return 0;
}

START_TEST(refused_memory_leaves_no_descriptor)
{
	run_pipe_test(refuse_memory);
}
END_TEST

static int wait_many(void *arg)
{
	enum { PIPES = 200 };
	static struct call calls[PIPES];
	weir_stream *outs[PIPES];
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	for (int i = 0; i < PIPES; i++) {
		TRY(weir_pipe(&calls[i].stream, &outs[i]));
		TRY(weir_spawn(&scope, read_one, &calls[i], .worker = here()));
	}
	TRY(weir_sleep(5 * WEIR_MS));
	for (int i = 0; i < PIPES; i += 2)
		expect(weir_stream_write(outs[i], "x", 1) == 1);
	for (int i = 1; i < PIPES; i += 2)
		weir_stream_close(outs[i]);
	TRY(weir_scope_wait(&scope));
	for (int i = 0; i < PIPES; i++) {
		expect(calls[i].result == (i % 2 == 0));
		weir_stream_close(calls[i].stream);
		if (i % 2 == 0)
			weir_stream_close(outs[i]);
	}
	return 0;
}

START_TEST(many_wait_at_once)
{
	run_pipe_test(wait_many);
}
END_TEST

/* ---- What cannot be ------------------------------------------------------------------------- */

static int ask_for_nonsense(void *arg)
{
	weir_stream *none = NULL;
	weir_auto_stream in = NULL;
	weir_auto_stream out = NULL;
	char byte;

	(void)arg;
	expect(weir_stream_from(&none, -1) == -EBADF && weir_stream_from(&none, 12345) == -EBADF);
	expect(!none);
	TRY(weir_pipe(&in, &out));
	expect(weir_stream_read(out, &byte, 1) == -EBADF);
	expect(weir_stream_write(in, &byte, 1) == -EBADF);
	return (int)weir_stream_read(in, &byte, 0);
}

START_TEST(the_wrong_end_is_ebadf)
{
	weir_stream *none;

	run_pipe_test(ask_for_nonsense);
	ck_assert_int_eq(weir_pipe(&none, &none), -EINVAL);
	ck_assert_int_eq(weir_stream_from(&none, 0), -EINVAL);
}
END_TEST

static int open_too_many(void *arg)
{
	weir_stream *in, *out;

	(void)arg;
	return weir_pipe(&in, &out) == -EMFILE && weir_stream_from(&in, 0) == -EMFILE ? 0 : -EIO;
}

static int take_all_and_try(void *arg)
{
	int taken[64], count = 0;

	while (count < 64 && (taken[count] = dup(0)) >= 0)
		count++;
	int err = count < 64 ? open_too_many(arg) : -ERANGE;
	while (count > 0)
		close(taken[--count]);
	return err;
}

static int run_without_descriptors(void *arg)
{
	struct rlimit limit;

	(void)arg;
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = (rlim_t)count_descriptors() + 20;
	setrlimit(RLIMIT_NOFILE, &limit);
	return weir_run(take_all_and_try, NULL, .workers = 1);
}

START_TEST(no_descriptor_is_emfile)
{
	ck_assert_int_eq(end_of(run_without_descriptors, NULL), 0);
}
END_TEST

Suite *io_pipe_suite(void)
{
	Suite *suite = suite_create("io_pipe");
	TCase *ends = tcase_create("ends");
	TCase *waiting = tcase_create("waiting");
	TCase *machine = tcase_create("machine"); /* what the outside gives, and its signals */

	tcase_set_tags(ends, "fast");
	tcase_add_test(ends, a_long_stream_comes_in_order_and_ends);
	tcase_add_test(ends, a_byte_goes_to_and_fro);
	tcase_add_test(ends, a_pipe_nobody_reads_is_epipe_and_no_signal);
	tcase_add_test(ends, a_stream_belongs_to_its_worker);
	tcase_add_test(ends, what_is_posted_cannot_wait);
	suite_add_tcase(suite, ends);
	tcase_set_tags(waiting, "fast");
	tcase_add_test(waiting, a_deadline_ends_a_wait_and_loses_no_byte);
	tcase_add_test(waiting, closing_ends_who_waits_on_it);
	tcase_add_test(waiting, closed_in_a_writer_s_turn_it_does_not_wait_for_room);
	tcase_add_test(waiting, refused_memory_leaves_no_descriptor);
	tcase_add_test(waiting, many_wait_at_once);
	suite_add_tcase(suite, waiting);
	tcase_set_tags(machine, "real");
	tcase_add_test(machine, a_program_s_own_sigpipe_is_neither_eaten_nor_made);
	tcase_add_test(machine, who_is_robbed_and_cancelled_before_its_turn_waits_no_more);
	tcase_add_test(machine, the_wrong_end_is_ebadf);
	tcase_add_test(machine, no_descriptor_is_emfile);
	suite_add_tcase(suite, machine);
	return suite;
}
