/* SPDX-License-Identifier: MIT */
/*
 * test_io_conn_fd.c: descriptors over Unix sockets: each comes once, with its bytes, to who asks
 * for it; whoever gives up has taken none, and none is left over. And connections from descriptors,
 * and the other way round. Runs on the driver that WEIR_DRIVER names.
 */
#include "tests/net_test.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/un.h>

#define UNIX own_name("conn-fd")

static int null_fd(void)
{
	int fd = open("/dev/null", O_RDONLY);

	ck_assert_int_ge(fd, 0);
	return fd;
}

/* ---- There ----------------------------------------------------------------------------------- */

/* From the side that has connected, and from the one that was accepted, which has no descriptor. */
static int travel(void *arg)
{
	struct ends ends = { 0 };
	bool is_back = *(int *)arg;
	char got[16] = "";
	int pipe_fds[2], fd = -1;

	open_ends(&ends, UNIX);
	weir_conn *from = is_back ? ends.far : ends.near, *to = is_back ? ends.near : ends.far;
	ck_assert_int_eq(pipe(pipe_fds), 0);
	put(from, "ab");
	ck_assert_int_eq(weir_send_fd(from, pipe_fds[1], "take", 4), 4);
	put(from, "yz");
	close(pipe_fds[1]);
	ck_assert_int_eq(weir_recv_fd(to, &fd, got, 2), 2);
	ck_assert_int_eq(fd, -1);
	ck_assert_int_eq(weir_recv_fd(to, &fd, got, 1), 1); /* it is the first byte's */
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	ck_assert_int_eq(write(fd, "through", 7), 7);
	close(fd);
	ck_assert_int_eq(read(pipe_fds[0], got, sizeof got), 7);
	ck_assert_int_eq(read(pipe_fds[0], got, sizeof got), 0); /* there is no other */
	close(pipe_fds[0]);
	for (size_t len = 0; len < 5; len += (size_t)weir_recv_fd(to, &fd, got + len, 16 - len))
		ck_assert(len == 0 || fd == -1);
	ck_assert_mem_eq(got, "akeyz", 5);
	ck_assert_int_eq(weir_shutdown(from), 0);
	ck_assert_int_eq(weir_recv_fd(to, &fd, got, sizeof got), 0);
	ck_assert_int_eq(fd, -1);
	close_ends(&ends);
	return 0;
}

START_TEST(a_descriptor_comes_with_its_byte)
{
	run_on(1, travel, &_i);
}
END_TEST

struct waiting {
	weir_conn *conn;
	int64_t timeout_ns;
	ssize_t result;
	int fd;
	char got[64];
};

static int wait_for_fd(void *arg)
{
	struct waiting *waiting = arg;
	WEIR_SCOPE(patience, waiting->timeout_ns);

	waiting->fd = -7;
	waiting->result = weir_recv_fd(waiting->conn, &waiting->fd, waiting->got, 64);
	return 0;
}

static int parked_until_it_comes(void *arg)
{
	struct ends ends = { 0 };
	int fd = null_fd();
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	open_ends(&ends, UNIX);
	struct waiting waiting = { .conn = ends.far, .timeout_ns = WEIR_FOREVER };
	spawn(&scope, wait_for_fd, &waiting);
	settle();
	ck_assert_int_eq(weir_send_fd(ends.near, fd, "x", 1), 1);
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	ck_assert_int_eq(waiting.result, 1);
	close(waiting.fd);
	close(fd);
	close_ends(&ends);
	return 0;
}

START_TEST(who_waits_gets_it)
{
	run(parked_until_it_comes);
}
END_TEST

/* ---- Given up -------------------------------------------------------------------------------- */

enum { BY_DEADLINE, BY_CANCEL, BY_CLOSE, GIVEN_UP };

static int give_up(void *arg)
{
	struct ends ends = { 0 };
	int how = *(int *)arg, fd = null_fd();
	WEIR_SCOPE(scope, WEIR_FOREVER);

	open_ends(&ends, UNIX);
	struct waiting waiting = { .conn = ends.far, .timeout_ns = WEIR_FOREVER };
	if (how == BY_DEADLINE)
		waiting.timeout_ns = 10 * WEIR_MS;
	spawn(&scope, wait_for_fd, &waiting);
	settle();
	if (how == BY_CANCEL)
		weir_scope_cancel(&scope);
	if (how == BY_CLOSE) {
		weir_conn_close(ends.far);
		ends.far = NULL;
	}
	(void)weir_scope_wait(&scope);
	weir_scope_close(&scope);
	ck_assert_int_eq(waiting.result, how == BY_DEADLINE ? -ETIME : -ECANCELED);
	ck_assert_int_eq(waiting.fd, -7);
	if (how != BY_CLOSE) { /* what comes late is the next call's */
		ck_assert_int_eq(weir_send_fd(ends.near, fd, "x", 1), 1);
		waiting.timeout_ns = WEIR_FOREVER;
		wait_for_fd(&waiting);
		ck_assert_int_eq(waiting.result, 1);
		close(waiting.fd);
	}
	close(fd);
	close_ends(&ends);
	return 0;
}

START_TEST(who_gives_up_has_taken_none)
{
	run_on(1, give_up, &_i);
}
END_TEST

/* A slot of the ring's table gets a descriptor first, and the call waits for that in a shield. */
static int cancel_early(void *arg)
{
	struct ends ends = { 0 };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	open_ends(&ends, UNIX);
	struct waiting waiting = { .conn = ends.far, .timeout_ns = WEIR_FOREVER };
	spawn(&scope, wait_for_fd, &waiting);
	ck_assert_int_eq(weir_yield(), 0);
	weir_scope_cancel(&scope);
	(void)weir_scope_wait(&scope);
	weir_scope_close(&scope);
	ck_assert_int_eq(waiting.result, -ECANCELED);
	close_ends(&ends);
	return 0;
}

START_TEST(who_is_cancelled_before_it_waits_does_not_wait)
{
	run(cancel_early);
}
END_TEST

struct stream_of_fds {
	weir_conn *conn;
	int fd, count, sent;
};

static int send_many(void *arg)
{
	struct stream_of_fds *stream = arg;

	for (; stream->sent < stream->count; stream->sent++)
		if (weir_send_fd(stream->conn, stream->fd, "x", 1) != 1)
			return 0;
	return 0;
}

/* With deadlines that race with what comes. */
static int race_with_deadlines(void *arg)
{
	struct ends ends = { 0 };
	struct stream_of_fds stream = { .fd = null_fd(), .count = 500 };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	open_ends(&ends, UNIX);
	stream.conn = ends.near;
	spawn(&scope, send_many, &stream);
	for (int got = 0, tries = 0; got < stream.count; tries++) {
		struct waiting waiting = { .conn = ends.far,
					   .timeout_ns = tries % 7 * 10 * WEIR_US };
		wait_for_fd(&waiting);
		ck_assert(waiting.result == 1 || waiting.result == -ETIME);
		if (waiting.result == 1) {
			ck_assert_int_ge(waiting.fd, 0);
			close(waiting.fd);
			got++;
		} else {
			ck_assert_int_eq(weir_yield(), 0);
		}
	}
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	close(stream.fd);
	close_ends(&ends);
	return 0;
}

START_TEST(none_is_lost_to_deadlines)
{
	run(race_with_deadlines);
}
END_TEST

/* Nobody reads: the kernel's buffer is full at some point. */
static int stuck_sending(void *arg)
{
	struct ends ends = { 0 };
	struct stream_of_fds stream = { .fd = null_fd(), .count = 1000000 };
	int how = *(int *)arg, before = -1;
	WEIR_SCOPE(scope, how == BY_DEADLINE ? 200 * WEIR_MS : WEIR_FOREVER);

	open_ends(&ends, UNIX);
	stream.conn = ends.near;
	spawn(&scope, send_many, &stream);
	if (how == BY_DEADLINE)
		ck_assert_int_eq(weir_scope_wait(&scope), -ETIME);
	else
		while (before != stream.sent) {
			before = stream.sent;
			settle();
		}
	if (how == BY_CLOSE) {
		weir_conn_close(ends.near);
		ends.near = NULL;
	}
	weir_scope_close(&scope);
	ck_assert_int_gt(stream.sent, 0);
	ck_assert_int_lt(stream.sent, stream.count);
	close(stream.fd);
	close_ends(&ends); /* with hundreds in it */
	return 0;
}

START_TEST(sending_can_be_given_up_too)
{
	run_on(1, stuck_sending, &_i);
}
END_TEST

/* ---- Beside other calls ---------------------------------------------------------------------- */

static int busy(void *arg)
{
	struct ends ends = { 0 };
	weir_auto_buf buf = WEIR_BUF_INIT;
	char byte;
	int fd = -7;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	open_ends(&ends, UNIX);
	struct waiting waiting = { .conn = ends.far, .timeout_ns = WEIR_FOREVER };
	spawn(&scope, wait_for_fd, &waiting);
	settle();
	ck_assert_int_eq(weir_recv(ends.far, &buf), -EBUSY);
	ck_assert_int_eq(weir_read_full(ends.far, &byte, 1), -EBUSY);
	ck_assert_int_eq(weir_recv_fd(ends.far, &fd, &byte, 1), -EBUSY);
	put(ends.near, "x");
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	ck_assert_int_eq(waiting.fd, -1);
	put(ends.near, "yz");
	ck_assert_int_eq(weir_read_full(ends.far, &byte, 1), 0); /* from now on bytes alone */
	ck_assert_int_eq(weir_recv_fd(ends.far, &fd, &byte, 1), -EBUSY);
	ck_assert_int_eq(fd, -7);
	close_ends(&ends);
	return 0;
}

START_TEST(bytes_are_read_one_way_or_the_other)
{
	run(busy);
}
END_TEST

/* One task waits for a descriptor while another writes more than there is room for. */
static int both_ways(void *arg)
{
	struct ends ends = { 0 };
	struct request request = { .len = BIG_BYTES / 4 };
	char *got = malloc(request.len);
	int fd = null_fd();
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	open_ends(&ends, UNIX);
	struct waiting waiting = { .conn = ends.far, .timeout_ns = WEIR_FOREVER };
	request.conn = ends.far;
	request.data = pattern(request.len);
	spawn(&scope, wait_for_fd, &waiting);
	spawn(&scope, write_all, &request);
	settle();
	ck_assert_int_eq(weir_send_fd(ends.near, fd, "x", 1), 1);
	while (waiting.result == 0) /* although the other one is stuck */
		settle();
	ck_assert_int_eq(waiting.result, 1);
	ck_assert_int_eq(weir_read_full(ends.near, got, request.len), 0);
	ck_assert_mem_eq(got, request.data, request.len);
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	close(waiting.fd);
	close(fd);
	free(got);
	free((void *)request.data);
	close_ends(&ends);
	return 0;
}

START_TEST(writing_goes_on_while_one_is_waited_for)
{
	run(both_ways);
}
END_TEST

/* ---- Refused --------------------------------------------------------------------------------- */

static void no_task(void *arg)
{
	weir_conn *conn = NULL;
	char byte;
	int fd = -7;

	ck_assert_int_eq(weir_send_fd(arg, 0, "x", 1), -EINVAL);
	ck_assert_int_eq(weir_recv_fd(arg, &fd, &byte, 1), -EINVAL);
	ck_assert_int_eq(weir_conn_dup(arg), -EINVAL);
	ck_assert_int_eq(weir_conn_from(&conn, 0), -EINVAL);
}

static int refused(void *arg)
{
	struct ends ends = { 0 }, tcp = { 0 };
	char byte;
	int fd = -7;

	(void)arg;
	open_ends(&ends, UNIX);
	open_ends(&tcp, "127.0.0.1:0");
	ck_assert_int_eq(weir_send_fd(tcp.near, 0, "x", 1), -EOPNOTSUPP);
	ck_assert_int_eq(weir_recv_fd(tcp.far, &fd, &byte, 1), -EOPNOTSUPP);
	ck_assert_int_eq(weir_send_fd(ends.near, 0, "x", 0), -EINVAL);
	ck_assert_int_eq(weir_recv_fd(ends.near, &fd, &byte, 0), -EINVAL);
	ck_assert_int_eq(weir_send_fd(ends.near, -1, "x", 1), -EBADF);
	ck_assert_int_eq(weir_send_fd(ends.near, 9999, "x", 1), -EBADF);
	ck_assert_int_eq(fd, -7);
	ck_assert_int_eq(weir_post(0, no_task, ends.near), 0);
	settle();
	weir_conn_close(ends.far);
	ends.far = NULL;
	settle();
	ck_assert_int_eq(weir_send_fd(ends.near, 0, "x", 1), -EPIPE);
	close_ends(&tcp);
	close_ends(&ends);
	return 0;
}

START_TEST(what_cannot_be_is_refused)
{
	run(refused);
}
END_TEST

/* Three in one message, of which we take one: who wrote to us is not ours. */
static int too_many(void *arg)
{
	struct ends ends = { 0 };
	int fd = null_fd(), three[] = { fd, fd, fd }, own, got_fd = -1;
	char byte, room[CMSG_SPACE(sizeof three)] __attribute__((aligned(8))) = { 0 };
	struct iovec part = { "x", 1 };
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	(void)arg;
	open_ends(&ends, UNIX);
	message.msg_control = room;
	message.msg_controllen = sizeof room;
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	*header = (struct cmsghdr){ CMSG_LEN(sizeof three), SOL_SOCKET, SCM_RIGHTS };
	memcpy(CMSG_DATA(header), three, sizeof three);
	own = weir_conn_dup(ends.near);
	ck_assert_int_ge(own, 0);
	ck_assert_int_eq(sendmsg(own, &message, 0), 1);
	close(own);
	int before = count_descriptors();
	ck_assert_int_eq(weir_recv_fd(ends.far, &got_fd, &byte, 1), 1);
	ck_assert_int_eq(count_descriptors(), before + 1);
	close(got_fd);
	close(fd);
	close_ends(&ends);
	return 0;
}

START_TEST(of_several_one_is_taken)
{
	run(too_many);
}
END_TEST

/* First there is no descriptor for the call, then none for what has come. */
static int no_room(void *arg)
{
	struct ends ends = { 0 };
	struct rlimit limit, few;
	int fd = null_fd(), spare = 1, got = -7;
	char byte;

	(void)arg;
	open_ends(&ends, UNIX);
	ck_assert_int_eq(weir_send_fd(ends.near, fd, "x", 1), 1);
	ck_assert_int_eq(weir_send_fd(ends.near, fd, "y", 1), 1);
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	int lowest = dup(0);
	close(lowest);
	few = (struct rlimit){ (rlim_t)lowest, limit.rlim_max };
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
	ck_assert_int_eq(weir_recv_fd(ends.far, &got, &byte, 1), -EMFILE);
	few.rlim_cur += (rlim_t)spare;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
	ck_assert_int_eq(weir_recv_fd(ends.far, &got, &byte, 1), -EMFILE); /* this one is lost */
	ck_assert_int_eq(got, -7);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	ck_assert_int_eq(weir_recv_fd(ends.far, &got, &byte, 1), 1);
	ck_assert_int_eq(byte, 'y');
	close(got);
	close(fd);
	close_ends(&ends);
	return 0;
}

START_TEST(no_room_for_a_descriptor_is_emfile)
{
	run(no_room);
}
END_TEST

static int refused_in_simulation(void *arg)
{
	struct ends ends = { 0 };
	weir_conn *conn = NULL;
	weir_listener *listener = NULL;
	char byte;
	int fd = -7;

	(void)arg;
	open_ends(&ends, UNIX);
	ck_assert_int_eq(weir_send_fd(ends.near, 0, "x", 1), -EOPNOTSUPP);
	ck_assert_int_eq(weir_recv_fd(ends.far, &fd, &byte, 1), -EOPNOTSUPP);
	ck_assert_int_eq(weir_conn_dup(ends.near), -EOPNOTSUPP);
	ck_assert_int_eq(weir_conn_from(&conn, 0), -EOPNOTSUPP);
	ck_assert_int_eq(weir_listener_fd(ends.listener), -EOPNOTSUPP);
	ck_assert_int_eq(weir_listen(&listener, "fd:0"), -EOPNOTSUPP);
	close_ends(&ends);
	return 0;
}

START_TEST(the_simulator_says_that_it_has_no_descriptors)
{
	ck_assert_int_eq(weir_sim_run(1, refused_in_simulation, NULL, .calm = true), 0);
}
END_TEST

/* ---- Connections and descriptors ------------------------------------------------------------- */

static int second_descriptor(void *arg)
{
	struct ends ends = { 0 };
	weir_auto_buf buf = WEIR_BUF_INIT;
	weir_conn *conn;
	struct ucred peer;
	socklen_t len = sizeof peer;

	open_ends(&ends, UNIX);
	conn = *(int *)arg ? ends.far : ends.near;
	int fd = weir_conn_dup(conn);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
	ck_assert_int_eq(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len), 0);
	ck_assert_int_eq(peer.pid, getpid());
	close(fd);
	put(conn, "still here");
	ck_assert_int_eq(weir_recv(conn == ends.far ? ends.near : ends.far, &buf), 10);
	close_ends(&ends);
	return 0;
}

START_TEST(a_connection_has_a_descriptor_for_its_options)
{
	run_on(1, second_descriptor, &_i);
}
END_TEST

/* An accepted connection goes over a Unix socket to who serves it: here another task. */
static int hand_on(void *arg)
{
	struct ends ends = { 0 }, control = { 0 };
	weir_auto_conn conn = NULL;
	int fd;
	char got[16];

	(void)arg;
	open_ends(&ends, "127.0.0.1:0");
	open_ends(&control, UNIX);
	int own = weir_conn_dup(ends.far);
	ck_assert_int_ge(own, 0);
	ck_assert_int_eq(weir_send_fd(control.near, own, "c", 1), 1);
	close(own);
	weir_conn_close(ends.far);
	ends.far = NULL;
	put(ends.near, "question");
	ck_assert_int_eq(weir_recv_fd(control.far, &fd, got, sizeof got), 1);
	ck_assert_int_eq(weir_conn_from(&conn, fd), 0);
	ck_assert_int_eq(weir_read_full(conn, got, 8), 0);
	ck_assert_mem_eq(got, "question", 8);
	put(conn, "answer");
	ck_assert_int_eq(weir_shutdown(conn), 0);
	ck_assert_int_eq(weir_read_full(ends.near, got, 6), 0);
	ck_assert_mem_eq(got, "answer", 6);
	close_ends(&control);
	close_ends(&ends);
	return 0;
}

START_TEST(a_connection_goes_on_in_other_hands)
{
	run(hand_on);
}
END_TEST

static int no_connection(void *arg)
{
	weir_conn *conn = NULL;
	int files[] = { null_fd(), socket(AF_INET, SOCK_STREAM, 0),
			socket(AF_INET, SOCK_DGRAM, 0) };
	const int errors[] = { -ENOTSOCK, -ENOTCONN, -EPROTOTYPE };

	(void)arg;
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(weir_conn_from(&conn, files[i]), errors[i]);
		ck_assert_int_eq(close(files[i]), 0); /* it was not taken */
	}
	ck_assert_int_eq(weir_conn_from(&conn, 9999), -EBADF);
	ck_assert_ptr_null(conn);
	return 0;
}

START_TEST(what_is_no_connection_is_not_taken)
{
	run(no_connection);
}
END_TEST

/* ---- The suite ------------------------------------------------------------------------------- */

Suite *io_conn_fd_suite(void)
{
	Suite *suite = suite_create("io_conn_fd");
	TCase *real = add_case(suite, "descriptors");
	tcase_set_tags(real, "net real"); /* descriptors of the system's */
	tcase_add_loop_test(real, a_descriptor_comes_with_its_byte, 0, 2);
	tcase_add_test(real, who_waits_gets_it);
	tcase_add_loop_test(real, who_gives_up_has_taken_none, 0, GIVEN_UP);
	tcase_add_test(real, who_is_cancelled_before_it_waits_does_not_wait);
	tcase_add_test(real, none_is_lost_to_deadlines);
	tcase_add_loop_test(real, sending_can_be_given_up_too, 0, GIVEN_UP);
	tcase_add_test(real, bytes_are_read_one_way_or_the_other);
	tcase_add_test(real, writing_goes_on_while_one_is_waited_for);
	tcase_add_test(real, what_cannot_be_is_refused);
	tcase_add_test(real, of_several_one_is_taken);
	tcase_add_loop_test(real, a_connection_has_a_descriptor_for_its_options, 0, 2);
	tcase_add_test(real, a_connection_goes_on_in_other_hands);
	tcase_add_test(real, what_is_no_connection_is_not_taken);
	TCase *limits = add_case(suite, "limits");
	tcase_set_tags(limits, "real"); /* valgrind has limits of its own */
	tcase_add_test(limits, no_room_for_a_descriptor_is_emfile);
	TCase *simulated = tcase_create("simulated");
	tcase_set_tags(simulated, "fast");
	suite_add_tcase(suite, simulated);
	tcase_add_test(simulated, the_simulator_says_that_it_has_no_descriptors);
	return suite;
}
