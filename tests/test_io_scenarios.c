/* SPDX-License-Identifier: MIT */
/*
 * What liburing's own regression tests ask of the kernel, asked of the library:
 * docs/io-scenarios.md says which of them is which. Through the public headers, on the driver that
 * WEIR_DRIVER names.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "child.h"
#include "tests/echo_test.h"
#include "tests/runtime_test.h"

static int serve_echo(void *arg)
{
	return weir_serve(arg, echo);
}

/* One message there and back, so many times; says how often it went through. */
struct talker {
	weir_listener *listener;
	int times;
	int done;
};

static int talk(void *arg)
{
	struct talker *talker = arg;
	weir_auto_conn conn = NULL;
	char got;

	TRY(weir_connect(&conn, weir_listener_address(talker->listener)));
	for (; talker->done < talker->times; talker->done++) {
		TRY(weir_write(conn, "x", 1));
		TRY(weir_read_full(conn, &got, 1));
	}
	return 0;
}

enum { TALKERS_MAX = 300 };
static struct talker talkers[TALKERS_MAX];

static int all_talk(weir_listener *listener, int count, int times)
{
	WEIR_SCOPE(scope, 60 * WEIR_SEC);

	for (int i = 0; i < count; i++) {
		talkers[i] = (struct talker){ .listener = listener, .times = times };
		TRY(weir_spawn(&scope, talk, &talkers[i]));
	}
	return weir_scope_wait(&scope);
}

/* all_talk() to a server of our own. */
static int serve_and_talk(int count, int times)
{
	weir_auto_listener listener = NULL;
	WEIR_SCOPE(server, WEIR_FOREVER);

	TRY(weir_listen(&listener, "127.0.0.1:0"));
	TRY(weir_spawn(&server, serve_echo, listener));
	return all_talk(listener, count, times);
}

struct ends {
	weir_listener *listener;
	weir_conn *near, *far;
};

static int open_ends(struct ends *ends)
{
	TRY(weir_listen(&ends->listener, "127.0.0.1:0"));
	TRY(weir_connect(&ends->near, weir_listener_address(ends->listener)));
	return weir_accept(ends->listener, &ends->far);
}

static void close_ends(struct ends *ends)
{
	weir_conn_close(ends->far);
	weir_conn_close(ends->near);
	weir_listener_close(ends->listener);
}

/* ---- Cancelling ----------------------------------------------------------------------------- */

/* Bytes one after the other, each with its number, at uneven times. */
static int send_numbers(void *arg)
{
	uint64_t random = 42;

	for (int i = 0; i < ROUNDS(2000); i++) {
		char byte = (char)i;
		TRY(weir_write(arg, &byte, 1));
		random_next(&random);
		if (random % 4 == 0)
			TRY(weir_sleep((int64_t)(random % 128) * WEIR_US));
	}
	return 0;
}

static ssize_t receive_in_time(weir_conn *conn, weir_buf *ret)
{
	WEIR_SCOPE(turn, 30 * WEIR_US);

	return weir_recv(conn, ret);
}

/* What comes while nobody waits is there later, in its order. */
static int receive_numbers(weir_conn *conn)
{
	unsigned given_up = 0;
	uint64_t random = 43;

	for (int i = 0; i < ROUNDS(2000);) {
		weir_auto_buf buf = WEIR_BUF_INIT;
		ssize_t n = receive_in_time(conn, &buf);
		if (n == -ETIME) {
			given_up++;
			TRY(weir_sleep((int64_t)(random_next(&random) % 128) * WEIR_US));
			continue;
		}
		TRY(n);
		for (ssize_t k = 0; k < n; k++, i++)
			expect(buf.data[k] == (char)i);
	}
	expect(given_up > 0);
	return 0;
}

static int receive_at_the_deadline(void *arg)
{
	struct ends ends;
	WEIR_SCOPE(scope, 60 * WEIR_SEC);

	(void)arg;
	TRY(open_ends(&ends));
	TRY(weir_spawn(&scope, send_numbers, ends.far));
	TRY(receive_numbers(ends.near));
	TRY(weir_scope_wait(&scope));
	close_ends(&ends);
	return 0;
}

START_TEST(a_receive_cancelled_as_its_data_comes_loses_none)
{
	run_on(1, receive_at_the_deadline, NULL);
}
END_TEST

enum { CLIENTS = 200 };

static int connect_now_and_then(void *arg)
{
	uint64_t random = 7;

	for (int i = 0; i < CLIENTS; i++) {
		weir_auto_conn conn = NULL;
		random_next(&random);
		TRY(weir_sleep((int64_t)(random % 128) * WEIR_US));
		TRY(weir_connect(&conn, arg));
		TRY(weir_write(conn, &(char){ (char)i }, 1));
	}
	return 0;
}

/* One that is accepted as its task is cancelled is the next call's. */
static int accept_at_the_deadline(void *arg)
{
	weir_auto_listener listener = NULL;
	WEIR_SCOPE(scope, 60 * WEIR_SEC);

	(void)arg;
	TRY(weir_listen(&listener, "127.0.0.1:0"));
	TRY(weir_spawn(&scope, connect_now_and_then, (void *)weir_listener_address(listener),
		       .worker = WEIR_ON_WORKER(1)));
	for (int i = 0; i < CLIENTS;) {
		weir_auto_conn conn = NULL;
		char number;
		int err;
		{
			WEIR_SCOPE(turn, 20 * WEIR_US);
			err = weir_accept(listener, &conn);
		}
		if (err == -ETIME)
			continue;
		TRY(err);
		TRY(weir_read_full(conn, &number, 1));
		expect(number == (char)i);
		i++;
	}
	return weir_scope_wait(&scope);
}

START_TEST(an_accept_cancelled_as_its_client_comes_loses_none)
{
	run_on(2, accept_at_the_deadline, NULL);
}
END_TEST

enum { BIG_BYTES = 8 << 20 };
static char big[BIG_BYTES];

static int write_big(void *arg)
{
	return weir_write(arg, big, BIG_BYTES) == BIG_BYTES ? 0 : -EIO;
}

static int read_big(void *arg)
{
	static char got[BIG_BYTES];

	return weir_read_full(arg, got, BIG_BYTES);
}

static bool has_accepted;

static int accept_one(void *arg)
{
	weir_auto_conn conn = NULL;

	TRY(weir_accept(arg, &conn));
	has_accepted = true;
	return 0;
}

static int cancel_one_accept(void *arg)
{
	weir_auto_listener listener = NULL;
	weir_auto_conn near = NULL;
	weir_auto_conn far = NULL;
	WEIR_SCOPE(scope, 60 * WEIR_SEC);

	(void)arg;
	TRY(weir_listen(&listener, "127.0.0.1:0"));
	TRY(weir_spawn(&scope, accept_one, listener));
	{
		WEIR_SCOPE(turn, 20 * WEIR_MS);
		expect(weir_accept(listener, &far) == -ETIME);
	}
	TRY(weir_connect(&near, weir_listener_address(listener)));
	TRY(weir_scope_wait(&scope));
	expect(has_accepted);
	return 0;
}

START_TEST(cancelling_an_accept_leaves_the_one_beside_it)
{
	run_on(1, cancel_one_accept, NULL);
}
END_TEST

/* Both wait for the same socket; then there is room, and no data. */
static int cancel_one_of_two(void *arg)
{
	struct ends ends;
	WEIR_SCOPE(scope, 60 * WEIR_SEC);

	(void)arg;
	TRY(open_ends(&ends));
	TRY(weir_spawn(&scope, write_big, ends.near));
	{
		weir_auto_buf buf = WEIR_BUF_INIT;
		WEIR_SCOPE(turn, 20 * WEIR_MS);
		expect(weir_recv(ends.near, &buf) == -ETIME);
	}
	TRY(weir_spawn(&scope, read_big, ends.far));
	TRY(weir_scope_wait(&scope));
	close_ends(&ends);
	return 0;
}

START_TEST(cancelling_a_receive_leaves_the_send_beside_it)
{
	run_on(1, cancel_one_of_two, NULL);
}
END_TEST

/* ---- Receiving ------------------------------------------------------------------------------ */

static int flood(void *arg)
{
	weir_auto_conn conn = NULL;

	TRY(weir_connect(&conn, arg));
	for (;;)
		TRY(weir_write(conn, big, 1 << 20));
}

static int swallow(weir_conn *conn)
{
	for (;;) {
		weir_auto_buf buf = WEIR_BUF_INIT;
		ssize_t n = weir_recv(conn, &buf);
		if (n <= 0)
			return (int)n;
	}
}

static int serve_swallow(void *arg)
{
	return weir_serve(arg, swallow);
}

/* Two that send as fast as they can, and others that want an answer, all on one worker. */
static int talk_beside_a_flood(void *arg)
{
	weir_auto_listener drain = NULL;
	weir_auto_listener listener = NULL;
	WEIR_SCOPE(scope, 60 * WEIR_SEC);

	(void)arg;
	TRY(weir_listen(&drain, "127.0.0.1:0"));
	TRY(weir_listen(&listener, "127.0.0.1:0"));
	TRY(weir_spawn(&scope, serve_swallow, drain));
	TRY(weir_spawn(&scope, serve_echo, listener));
	for (int i = 0; i < 2; i++)
		TRY(weir_spawn(&scope, flood, (void *)weir_listener_address(drain)));
	TRY(weir_sleep(10 * WEIR_MS));
	TRY(all_talk(listener, 5, 50));
	weir_scope_cancel(&scope);
	return 0;
}

START_TEST(a_flooding_client_starves_nobody)
{
	run_on(1, talk_beside_a_flood, NULL);
}
END_TEST

/* Two buffers a time there and back; a ring's tail has 16 bits. */
static int wrap_the_buffer_ring(void *arg)
{
	(void)arg;
	return serve_and_talk(64, ROUNDS(600));
}

START_TEST(buffers_go_round_more_often_than_their_ring_counts)
{
	run_on(1, wrap_the_buffer_ring, NULL);
}
END_TEST

/* A client outside the runtime that says something and goes, gently or not. */
static void hit_and_run(const char *address, bool is_rude)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1)),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	expect(connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
	expect(send(fd, "what there is to say", 20, MSG_NOSIGNAL) == 20);
	if (is_rude)
		expect(setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){ 1, 0 },
				  sizeof(struct linger)) == 0);
	close(fd);
}

static void *hit_and_run_often(void *arg)
{
	for (int i = 0; i < CLIENTS; i++)
		hit_and_run(arg, i % 2);
	return NULL;
}

static unsigned heard, ended;

/* A reset may take the bytes with it. The end must be heard of. */
static int listen_to_the_end(weir_conn *conn)
{
	ssize_t n;

	do {
		weir_auto_buf buf = WEIR_BUF_INIT;
		n = weir_recv(conn, &buf);
		heard += n > 0 ? (unsigned)n : 0;
	} while (n > 0);
	ended++;
	return n == 0 || n == -ECONNRESET ? 0 : (int)n;
}

static int serve_listening(void *arg)
{
	return weir_serve(arg, listen_to_the_end);
}

static int hear_data_and_end(void *arg)
{
	struct weir_serve_stats stats;
	weir_auto_listener listener = NULL;
	pthread_t thread;
	WEIR_SCOPE(scope, 60 * WEIR_SEC);

	(void)arg;
	TRY(weir_listen(&listener, "127.0.0.1:0"));
	TRY(weir_spawn(&scope, serve_listening, listener));
	expect(pthread_create(&thread, NULL, hit_and_run_often,
			      (void *)weir_listener_address(listener)) == 0);
	while (ended < CLIENTS)
		TRY(weir_sleep(WEIR_MS));
	pthread_join(thread, NULL);
	weir_serve_stats_get(&stats);
	expect(stats.failed == 0);
	expect(heard >= CLIENTS / 2 * 20); /* those that went gently */
	weir_scope_cancel(&scope);
	return 0;
}

START_TEST(data_and_an_end_that_come_together_are_both_heard)
{
	run_on(1, hear_data_and_end, NULL);
}
END_TEST

/* ---- A full completion queue ---------------------------------------------------------------- */

static _Atomic int submitted;

static int note_submission(void *arg)
{
	(void)arg;
	submitted++;
	return 0;
}

struct foreigner {
	weir_runtime runtime;
	_Atomic bool is_over, has_gone;
	int asked;
};

/* Wakes the worker by its eventfd, the poll of which the overflow may end. */
static void *submit_often(void *arg)
{
	struct foreigner *foreigner = arg;

	while (!foreigner->is_over) {
		expect(weir_submit(foreigner->runtime, note_submission, NULL) >= 0);
		foreigner->asked++;
		usleep(500);
	}
	foreigner->has_gone = true;
	return NULL;
}

static int overflow(void *arg)
{
	struct foreigner foreigner = { .runtime = weir_runtime_self() };
	struct weir_worker_stats stats;
	pthread_t thread;

	(void)arg;
	expect(pthread_create(&thread, NULL, submit_often, &foreigner) == 0);
	TRY(serve_and_talk(TALKERS_MAX, ROUNDS(20)));
	foreigner.is_over = true;
	while (!foreigner.has_gone) /* it may be waiting for us */
		TRY(weir_sleep(WEIR_MS));
	pthread_join(thread, NULL);
	expect(foreigner.asked > 0 && submitted == foreigner.asked);
	for (int i = 0; i < TALKERS_MAX; i++)
		expect(talkers[i].done == ROUNDS(20));
	expect(weir_worker_stats_get(0, &stats) == 0);
	expect(stats.stale_completions == 0);
	return 0;
}

/* 600 connections and a queue of 64. */
START_TEST(more_completions_than_the_queue_holds_all_arrive)
{
	setenv("WEIR_CQ_ENTRIES", "64", 1);
	setenv("WEIR_SQ_ENTRIES", "32", 1);
	run_on(1, overflow, NULL);
}
END_TEST

enum { POSTS = 3000 };
static _Atomic int posted;

static void note_post(void *arg)
{
	(void)arg;
	posted++;
}

static int post_often(void *arg)
{
	(void)arg;
	for (int i = 0; i < POSTS;) {
		int err = weir_post(1, note_post, NULL);
		if (err == 0)
			i++;
		else if (err != -EAGAIN && err != -ENOBUFS)
			return err;
		if (err < 0 || i % 16 == 0)
			TRY(weir_sleep(100 * WEIR_US));
	}
	return 0;
}

static int talk_on(void *arg)
{
	(void)arg;
	return serve_and_talk(100, ROUNDS(100));
}

static int post_to_the_flooded(void *arg)
{
	WEIR_SCOPE(scope, 60 * WEIR_SEC);

	(void)arg;
	TRY(weir_spawn(&scope, talk_on, NULL, .worker = WEIR_ON_WORKER(1)));
	TRY(weir_spawn(&scope, post_often, NULL));
	TRY(weir_scope_wait(&scope));
	while (posted < POSTS)
		TRY(weir_sleep(WEIR_MS));
	return 0;
}

START_TEST(messages_to_a_worker_whose_queue_is_full_arrive)
{
	setenv("WEIR_CQ_ENTRIES", "64", 1);
	setenv("WEIR_SQ_ENTRIES", "32", 1);
	run_on(2, post_to_the_flooded, NULL);
}
END_TEST

/* ---- Ends ----------------------------------------------------------------------------------- */

static int exit_amid_all(void *arg)
{
	weir_auto_listener listener = NULL;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_listen(&listener, "127.0.0.1:0"));
	TRY(weir_spawn(&scope, serve_echo, listener));
	for (int i = 0; i < 20; i++) {
		talkers[i] = (struct talker){ .listener = listener, .times = INT32_MAX };
		TRY(weir_spawn(&scope, talk, &talkers[i]));
	}
	TRY(weir_sleep(20 * WEIR_MS));
	if (TESTS_SLOW) /* what is in flight would be leaks */
		_exit(7);
	exit(7);
}

static int run_and_exit(void *arg)
{
	return weir_run(exit_amid_all, arg, .workers = 2, .signals_ignored = true);
}

START_TEST(a_program_may_exit_with_everything_in_flight)
{
	for (int i = 0; i < 3; i++) {
		int status = end_of(run_and_exit, NULL);
		ck_assert(WIFEXITED(status));
		ck_assert_int_eq(WEXITSTATUS(status), 7);
		ck_assert_str_eq(said, "");
	}
}
END_TEST

static int connect_to_nowhere(void *arg)
{
	weir_auto_conn conn = NULL;
	WEIR_SCOPE(patience, 20 * WEIR_SEC);

	(void)arg;
	ck_assert_int_eq(weir_connect(&conn, "192.0.2.1:80"), -ENETUNREACH);
	ck_assert_ptr_null(conn);
	return 0;
}

/* A network of this process alone has no routes; who may not make one cannot look. */
START_TEST(an_unreachable_network_is_an_error_at_once)
{
	if (unshare(CLONE_NEWNET) == 0)
		run_on(1, connect_to_nowhere, NULL);
}
END_TEST

Suite *io_scenarios_suite(void);
Suite *io_scenarios_suite(void)
{
	Suite *suite = suite_create("io_scenarios");
	TCase *tcase = tcase_create("races");

	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, a_receive_cancelled_as_its_data_comes_loses_none);
	tcase_add_test(tcase, an_accept_cancelled_as_its_client_comes_loses_none);
	tcase_add_test(tcase, cancelling_an_accept_leaves_the_one_beside_it);
	tcase_add_test(tcase, cancelling_a_receive_leaves_the_send_beside_it);
	tcase_add_test(tcase, a_flooding_client_starves_nobody);
	suite_add_tcase(suite, tcase);

	tcase = tcase_create("queues");
	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, buffers_go_round_more_often_than_their_ring_counts);
	tcase_add_test(tcase, messages_to_a_worker_whose_queue_is_full_arrive);
	suite_add_tcase(suite, tcase);

	tcase = tcase_create("ends");
	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, a_program_may_exit_with_everything_in_flight);
	suite_add_tcase(suite, tcase);
	TCase *real = tcase_create("real");
	tcase_set_tags(real, "real"); /* sockets, routes and threads of the system's */
	tcase_set_timeout(real, 20);
	tcase_add_test(real, data_and_an_end_that_come_together_are_both_heard);
	tcase_add_test(real, more_completions_than_the_queue_holds_all_arrive);
	tcase_add_test(real, an_unreachable_network_is_an_error_at_once);
	suite_add_tcase(suite, real);
	return suite;
}
