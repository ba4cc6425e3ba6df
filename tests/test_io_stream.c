/* SPDX-License-Identifier: MIT */
/*
 * test_io_stream.c: streams over what others have made: their pipes, terminals, sockets and files,
 * which stay as they are. Runs on the driver that WEIR_DRIVER names.
 */
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "tests/child.h"
#include "tests/descriptors.h"
#include "tests/refuse.h"
#include "tests/stream_test.h"

/* ---- What the outside gives us -------------------------------------------------------------- */

/* A thing for a stream to be made over, ours to drive from the other side. */
struct outside {
	int fd;
	int other;
};

static int read_what_comes(void *arg)
{
	const struct outside *it = arg;
	weir_auto_stream in = NULL;
	char text[16];

	TRY(weir_stream_from(&in, it->fd));
	expect((fcntl(it->fd, F_GETFL) & O_NONBLOCK) == 0); /* it is as it was */
	{
		WEIR_SCOPE(patience, 2 * WEIR_MS);
		expect(weir_stream_read(in, text, sizeof text) == -ETIME);
	}
	expect(write(it->other, "hello\n", 6) == 6);
	expect(weir_stream_read(in, text, 2) == 2 && memcmp(text, "he", 2) == 0);
	expect(weir_stream_read(in, text, sizeof text) == 4);
	{
		WEIR_SCOPE(patience, 2 * WEIR_MS);
		expect(weir_stream_read(in, text, sizeof text) == -ETIME);
	}
	expect((fcntl(it->fd, F_GETFL) & O_NONBLOCK) == 0);
	close(it->other);
	return (int)weir_stream_read(in, text, sizeof text);
}

START_TEST(a_pipe_of_others_is_read_and_left_as_it_was)
{
	int fds[2];

	ck_assert_int_eq(pipe(fds), 0);
	run_on(1, read_what_comes, (&(struct outside){ fds[0], fds[1] }));
	close(fds[0]);
}
END_TEST

static int run_without_proc(void *arg)
{
	int fds[2];

	(void)arg;
	if (pipe(fds) < 0 || refuse_syscall(SYS_openat, REFUSE_ANY, EACCES) < 0)
		return -errno;
	return weir_run(read_what_comes, (&(struct outside){ fds[0], fds[1] }), .workers = 1);
}

START_TEST(where_it_cannot_be_opened_again_it_is_read_all_the_same)
{
	ck_assert_int_eq(end_of(run_without_proc, NULL), 0);
}
END_TEST

static int write_to_a_full_one(void *arg)
{
	const struct outside *it = arg;
	weir_auto_stream out = NULL;
	static char in[1 << 16];
	ssize_t got = 0;

	TRY(weir_stream_from(&out, it->fd));
	ssize_t n = fill_up(out); /* and it has come back, though the pipe is full */
	while (got < n)
		got += read(it->other, in, sizeof in);
	expect(got == n);
	return (fcntl(it->fd, F_GETFL) & O_NONBLOCK) == 0 ? 0 : -EIO;
}

static int run_writer_without_proc(void *arg)
{
	int fds[2];

	(void)arg;
	if (pipe(fds) < 0 || refuse_syscall(SYS_openat, REFUSE_ANY, EACCES) < 0)
		return -errno;
	return weir_run(write_to_a_full_one, (&(struct outside){ fds[1], fds[0] }), .workers = 1);
}

START_TEST(a_full_pipe_of_others_does_not_hold_the_worker)
{
	int fds[2];

	ck_assert_int_eq(pipe(fds), 0);
	run_on(1, write_to_a_full_one, (&(struct outside){ fds[1], fds[0] }));
	close(fds[0]);
	close(fds[1]);
}
END_TEST

START_TEST(nor_where_it_cannot_be_opened_again)
{
	ck_assert_int_eq(end_of(run_writer_without_proc, NULL), 0);
}
END_TEST

START_TEST(a_socket_as_standard_input_is_a_stream_too)
{
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	run_on(1, read_what_comes, (&(struct outside){ fds[0], fds[1] }));
	close(fds[0]);
}
END_TEST

/* A reader and a writer wait on one descriptor, and each is woken by what is its own. */
static int wait_both_ways(void *arg)
{
	const struct outside *it = arg;
	weir_auto_stream stream = NULL;
	struct call reading = { NULL, 77 }, writing = { NULL, 77 };
	static char in[1 << 16];
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_stream_from(&stream, it->fd));
	reading.stream = writing.stream = stream;
	TRY(weir_spawn(&scope, read_one, &reading, .worker = here()));
	TRY(weir_spawn(&scope, write_much, &writing, .worker = here()));
	TRY(weir_sleep(5 * WEIR_MS));
	expect(reading.result == 77 && writing.result == 77);
	expect(write(it->other, "x", 1) == 1);
	while (reading.result == 77)
		TRY(weir_sleep(WEIR_MS));
	expect(reading.result == 1 && writing.result == 77);
	while (writing.result == 77) {
		expect(recv(it->other, in, sizeof in, MSG_DONTWAIT) > 0 || errno == EAGAIN);
		TRY(weir_sleep(10 * WEIR_US));
	}
	expect(writing.result == 1 << 20);
	return weir_scope_wait(&scope);
}

START_TEST(a_reader_and_a_writer_wait_on_one_socket)
{
	int fds[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	run_on(1, wait_both_ways, (&(struct outside){ fds[0], fds[1] }));
	close(fds[0]);
	close(fds[1]);
}
END_TEST

static int talk_to_a_terminal(void *arg)
{
	const struct outside *it = arg;
	weir_auto_stream tty = NULL;
	struct call reading = { NULL, 77 };
	char text[16];
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_stream_from(&tty, it->fd));
	reading.stream = tty;
	TRY(weir_spawn(&scope, read_one, &reading, .worker = here()));
	TRY(weir_yield());
	expect(weir_stream_write(tty, "name? ", 6) == 6); /* while another task reads */
	expect(read(it->other, text, sizeof text) == 6);
	expect(write(it->other, "\n", 1) == 1);
	TRY(weir_scope_wait(&scope));
	expect(reading.result == 1);
	return 0;
}

START_TEST(a_terminal_is_read_and_written_at_once)
{
	int other = posix_openpt(O_RDWR | O_NOCTTY);

	ck_assert_int_ge(other, 0);
	ck_assert_int_eq(grantpt(other) | unlockpt(other), 0);
	int fd = open(ptsname(other), O_RDWR | O_NOCTTY);
	ck_assert_int_ge(fd, 0);
	run_on(1, talk_to_a_terminal, (&(struct outside){ fd, other }));
	close(fd);
	close(other);
}
END_TEST

static int read_a_file_on(void *arg)
{
	const struct outside *it = arg;
	weir_auto_stream in = NULL;
	weir_auto_stream out = NULL;
	char text[16];

	expect(write(it->fd, "0123456789", 10) == 10);
	expect(lseek(it->fd, 4, SEEK_SET) == 4);
	TRY(weir_stream_from(&in, it->fd));
	expect(weir_stream_read(in, text, 3) == 3 && memcmp(text, "456", 3) == 0);
	TRY(weir_stream_from(&out, it->fd));
	expect(weir_stream_write(out, "x", 1) == 1); /* one position, as it is one open file */
	expect(weir_stream_read(in, text, sizeof text) == 2 && memcmp(text, "89", 2) == 0);
	return (int)weir_stream_read(in, text, sizeof text);
}

START_TEST(a_file_as_standard_input_goes_on_where_it_stands)
{
	FILE *file = tmpfile();

	ck_assert_ptr_nonnull(file);
	run_on(1, read_a_file_on, (&(struct outside){ fileno(file), -1 }));
	fclose(file);
}
END_TEST

/* ---- The other side of a terminal ----------------------------------------------------------- */

/* Opened once more it would be another terminal's. */
static int drive_a_terminal(void *arg)
{
	const struct outside *it = arg;
	weir_auto_stream master = NULL;
	char text[16];
	WEIR_SCOPE(patience, 10 * WEIR_SEC);

	TRY(weir_stream_from(&master, it->fd));
	{
		WEIR_SCOPE(silence, 2 * WEIR_MS);
		expect(weir_stream_read(master, text, sizeof text) == -ETIME);
	}
	expect(write(it->other, "hello", 5) == 5);
	expect(weir_stream_read(master, text, sizeof text) == 5 && memcmp(text, "hello", 5) == 0);
	expect(weir_stream_write(master, "yes\n", 4) == 4);
	expect(read(it->other, text, sizeof text) == 4 && memcmp(text, "yes\n", 4) == 0);
	(void)fill_up(master); /* nobody reads: the worker goes on all the same */
	return (fcntl(it->fd, F_GETFL) & O_NONBLOCK) == 0 ? 0 : -EIO;
}

START_TEST(a_terminal_is_driven_from_its_other_side)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY);
	struct termios raw;

	ck_assert_int_ge(master, 0);
	ck_assert_int_eq(grantpt(master) | unlockpt(master), 0);
	int fd = open(ptsname(master), O_RDWR | O_NOCTTY);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(tcgetattr(fd, &raw), 0);
	cfmakeraw(&raw);
	ck_assert_int_eq(tcsetattr(fd, TCSANOW, &raw), 0);
	run_on(1, drive_a_terminal, (&(struct outside){ master, fd }));
	close(fd);
	close(master);
}
END_TEST

/* What has no place and is no terminal is opened again where all of its kind are the same. */
static int read_nothing(void *arg)
{
	weir_auto_stream in = NULL;
	char byte;

	TRY(weir_stream_from(&in, *(int *)arg));
	return (int)weir_stream_read(in, &byte, 1);
}

START_TEST(a_daemon_s_standard_input_is_at_its_end)
{
	int fd = open("/dev/null", O_RDWR);

	ck_assert_int_ge(fd, 0);
	run_on(1, read_nothing, &fd);
	close(fd);
}
END_TEST

/* ---- FIFOs ---------------------------------------------------------------------------------- */

static int read_one_kept(void *arg)
{
	return read_one(arg);
}

static int meet_in_a_fifo(void *arg)
{
	const char *path = arg;
	struct call reading = { NULL, 77 };
	weir_stream *out = NULL;
	char byte;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	expect(weir_stream_open(&out, path, O_WRONLY) == -ENXIO);
	TRY(weir_stream_open(&reading.stream, path, O_RDONLY));
	TRY(weir_spawn(&scope, read_one_kept, &reading, .worker = here()));
	TRY(weir_sleep(5 * WEIR_MS));
	expect(reading.result == 77); /* no writer yet is not the end */
	TRY(weir_stream_open(&out, path, O_WRONLY));
	expect(weir_stream_write(out, "x", 1) == 1);
	TRY(weir_scope_wait(&scope));
	expect(reading.result == 1);
	weir_stream_close(out);
	expect(weir_stream_read(reading.stream, &byte, 1) == 0);
	weir_stream_close(reading.stream);
	expect(weir_stream_open(&out, "/tmp", O_RDONLY) == -EINVAL);
	return weir_stream_open(&out, "/tmp/no/such", O_RDONLY) == -ENOENT ? 0 : -EIO;
}

START_TEST(a_fifo_s_reader_waits_for_a_writer)
{
	char path[64];
	int before = count_descriptors();

	snprintf(path, sizeof path, "/tmp/weir-fifo-%d", (int)getpid());
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	run_on(1, meet_in_a_fifo, path);
	unlink(path);
	ck_assert_int_eq(count_descriptors(), before);
}
END_TEST

Suite *io_stream_suite(void)
{
	Suite *suite = suite_create("io_stream");
	TCase *outside = tcase_create("outside"); /* of which the simulator has nothing */

	tcase_set_tags(outside, "real");
	tcase_add_test(outside, a_pipe_of_others_is_read_and_left_as_it_was);
	tcase_add_test(outside, where_it_cannot_be_opened_again_it_is_read_all_the_same);
	tcase_add_test(outside, a_full_pipe_of_others_does_not_hold_the_worker);
	tcase_add_test(outside, nor_where_it_cannot_be_opened_again);
	tcase_add_test(outside, a_socket_as_standard_input_is_a_stream_too);
	tcase_add_test(outside, a_reader_and_a_writer_wait_on_one_socket);
	tcase_add_test(outside, a_terminal_is_read_and_written_at_once);
	tcase_add_test(outside, a_terminal_is_driven_from_its_other_side);
	tcase_add_test(outside, a_daemon_s_standard_input_is_at_its_end);
	tcase_add_test(outside, a_file_as_standard_input_goes_on_where_it_stands);
	tcase_add_test(outside, a_fifo_s_reader_waits_for_a_writer);
	suite_add_tcase(suite, outside);
	return suite;
}
