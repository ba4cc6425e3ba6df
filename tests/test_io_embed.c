/* SPDX-License-Identifier: MIT */
/*
 * A runtime in a foreign loop: poll(2), or an epoll set of the program's own, sleeps for worker 0.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/echo_test.h"
#include "tests/runtime_test.h"

/* ---- The loop -------------------------------------------------------------------------------- */

/* Sleeps until the runtime or `other_fd` (-1: none) wants attention; true: it was `other_fd`. */
static bool sleep_in_poll(weir_embed *embed, int other_fd, int64_t ns)
{
	struct pollfd fds[2] = { { .fd = weir_embed_fd(embed), .events = POLLIN },
				 { .fd = other_fd, .events = POLLIN } };
	struct timespec time = { ns / WEIR_SEC, ns % WEIR_SEC };

	int n = ppoll(fds, 2, ns == WEIR_FOREVER ? NULL : &time, NULL);
	ck_assert(n >= 0 || errno == EINTR); /* COOP_TASKRUN ends waits so */
	if (n < 0)
		return false;
	return fds[1].revents != 0;
}

static bool sleep_in_epoll(weir_embed *embed, int other_fd, int64_t ns)
{
	static int set = -1;
	struct epoll_event event = { .events = EPOLLIN };
	int64_t ms = ns == WEIR_FOREVER ? -1 : (ns + WEIR_MS - 1) / WEIR_MS;

	if (set < 0) {
		set = epoll_create1(EPOLL_CLOEXEC);
		event.data.fd = weir_embed_fd(embed);
		ck_assert_int_eq(epoll_ctl(set, EPOLL_CTL_ADD, event.data.fd, &event), 0);
		event.data.fd = other_fd;
		ck_assert_int_eq(epoll_ctl(set, EPOLL_CTL_ADD, other_fd, &event), 0);
	}
	int n = epoll_wait(set, &event, 1, (int)ms);
	ck_assert(n >= 0 || errno == EINTR); /* COOP_TASKRUN ends waits so */
	return n > 0 && event.data.fd == other_fd;
}

static unsigned turns;

/* Runs it to its end. */
static int run_in_poll(weir_embed *embed)
{
	for (turns = 1; weir_embed_turn(embed); turns++)
		(void)sleep_in_poll(embed, -1, weir_embed_next(embed));
	return weir_embed_close(embed);
}

/* ---- What runs in it ------------------------------------------------------------------------ */

static _Atomic int port;

static int serve(void *arg)
{
	weir_auto_listener listener = NULL;

	(void)arg;
	TRY(weir_listen(&listener, "127.0.0.1:0"));
	port = atoi(strrchr(weir_listener_address(listener), ':') + 1);
	return weir_serve(listener, echo);
}

static void *talk(void *arg)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	char sent[64] = "something to say", got[64];
	int done_fd = *(int *)arg;

	while (!port)
		(void)usleep(1000);
	address.sin_port = htons((uint16_t)port);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (int i = 0; i < 8; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		ck_assert_int_eq(connect(fd, (void *)&address, sizeof address), 0);
		for (int k = 0; k < 50; k++) {
			expect(send(fd, sent, sizeof sent, 0) == sizeof sent);
			expect(recv(fd, got, sizeof got, MSG_WAITALL) == sizeof got);
			expect(memcmp(sent, got, sizeof got) == 0);
		}
		(void)close(fd);
	}
	ck_assert_int_eq(write(done_fd, "", 1), 1);
	return NULL;
}

START_TEST(a_server_answers_from_a_foreign_loop)
{
	bool (*const sleeps[])(weir_embed *, int, int64_t) = { sleep_in_poll, sleep_in_epoll };
	weir_embed *embed = NULL;
	pthread_t client;
	int ends[2];

	ck_assert_int_eq(pipe(ends), 0);
	ck_assert_int_eq(weir_embed_open(&embed, serve, NULL, .workers = 1 + (unsigned)_i / 2), 0);
	ck_assert_int_eq(pthread_create(&client, NULL, talk, &ends[1]), 0);
	do
		ck_assert_int_eq(weir_embed_turn(embed), 1);
	while (!sleeps[_i % 2](embed, ends[0], weir_embed_next(embed)));
	ck_assert_int_eq(pthread_join(client, NULL), 0);
	ck_assert_int_eq(weir_embed_close(embed), -ECANCELED);
}
END_TEST

static int index_of_worker(void *arg)
{
	(void)arg;
	return weir_worker_index();
}

static int call_other(void *arg)
{
	for (int i = 0; i < *(int *)arg; i++)
		expect(weir_call_on(1, index_of_worker, NULL) == 1);
	return 7;
}

START_TEST(other_workers_wake_it)
{
	weir_embed *embed = NULL;
	int calls = ROUNDS(2000);

	ck_assert_int_eq(weir_embed_open(&embed, call_other, &calls, .workers = 2), 0);
	ck_assert_int_eq(run_in_poll(embed), 7);
}
END_TEST

static int sleep_some(void *arg)
{
	return weir_sleep(*(int64_t *)arg);
}

START_TEST(a_sleep_takes_few_turns)
{
	int64_t ns = 300 * WEIR_MS;
	weir_embed *embed = NULL;

	ck_assert_int_eq(weir_embed_open(&embed, sleep_some, &ns, .workers = 1), 0);
	ck_assert_int_eq(run_in_poll(embed), 0);
	ck_assert_uint_le(turns, 16);
}
END_TEST

static weir_chan *chan;

static int receive(void *arg)
{
	weir_auto_chan own = weir_chan_new(sizeof(int), 1);
	int item = 0;

	(void)arg;
	chan = own;
	TRY(weir_chan_recv(own, &item));
	return item;
}

START_TEST(the_loop_s_own_thread_sends_to_a_task)
{
	weir_embed *embed = NULL;
	int item = 9;

	ck_assert_int_eq(weir_embed_open(&embed, receive, NULL, .workers = 1), 0);
	while (!chan)
		ck_assert_int_eq(weir_embed_turn(embed), 1);
	ck_assert_int_eq(weir_embed_turn(embed), 1); /* it waits */
	ck_assert_int_gt(weir_embed_next(embed), 0);
	ck_assert_int_eq(weir_chan_try_send(chan, &item), 0);
	ck_assert_int_eq(weir_embed_next(embed), 0);
	while (weir_embed_turn(embed))
		ck_assert_int_eq(weir_embed_next(embed), 0);
	ck_assert_int_eq(weir_embed_turn(embed), 0);
	ck_assert_int_eq(weir_embed_close(embed), 9);
}
END_TEST

static _Atomic unsigned handled;

static void handle_event(void *arg)
{
	(void)arg;
	handled++;
}

/* Nothing is ready and nothing will be: none of these may wait for it. */
START_TEST(a_turn_never_blocks)
{
	int64_t ns = 1000 * WEIR_SEC;
	weir_embed *embed = NULL;

	ck_assert_int_eq(weir_embed_open(&embed, sleep_some, &ns, .workers = 2), 0);
	for (int i = 0; i < 100; i++) {
		ck_assert_int_eq(weir_embed_turn(embed), 1);
		ck_assert_int_ge(weir_embed_next(embed), 0);
		ck_assert_int_eq(weir_post(i % 2, handle_event, NULL), 0);
	}
	ck_assert_int_eq(weir_embed_close(embed), -ECANCELED);
	ck_assert_uint_eq(handled, 100);
}
END_TEST

START_TEST(it_can_be_closed_before_its_first_turn)
{
	int64_t ns = 1000 * WEIR_SEC;
	weir_embed *embed = NULL;

	for (int i = 0; i < 10; i++) {
		ck_assert_int_eq(weir_embed_open(&embed, sleep_some, &ns, .workers = 2), 0);
		ck_assert_int_eq(weir_embed_open(&embed, sleep_some, &ns),
				 -EINVAL); /* one a thread */
		ck_assert_int_eq(weir_embed_close(embed), -ECANCELED);
	}
	ck_assert_int_eq(weir_embed_close(NULL), 0);
}
END_TEST

static _Atomic bool has_stopped[2];

static void note_stop(unsigned worker, void *user)
{
	(void)user;
	has_stopped[worker] = true;
}

/* It would use up a CPU meanwhile. */
START_TEST(another_worker_does_not_wait_for_its_close)
{
	struct weir_thread_hooks hooks = { .stop = note_stop };
	weir_embed *embed = NULL;
	int64_t ns = 1;

	ck_assert_int_eq(weir_embed_open(&embed, sleep_some, &ns, .workers = 2, .hooks = &hooks),
			 0);
	while (weir_embed_turn(embed))
		(void)sleep_in_poll(embed, -1, weir_embed_next(embed));
	while (!has_stopped[1])
		(void)usleep(1000);
	ck_assert(!has_stopped[0]);
	ck_assert_int_eq(weir_embed_turn(embed), 0);
	ck_assert_int_eq(weir_post(1, handle_event, NULL), -ESHUTDOWN);
	ck_assert_int_eq(weir_embed_close(embed), 0);
	ck_assert(has_stopped[0]);
}
END_TEST

static weir_runtime handle;
static _Atomic bool has_handle;

static int publish_and_sleep(void *arg)
{
	handle = weir_runtime_self();
	has_handle = true;
	return sleep_some(arg);
}

static int stop_it(void *arg)
{
	(void)arg;
	weir_stop();
	return 3;
}

static void *submit_stop(void *arg)
{
	(void)arg;
	while (!has_handle)
		(void)usleep(1000);
	return (void *)(intptr_t)weir_submit(handle, stop_it, NULL);
}

START_TEST(a_foreign_thread_submits_to_it)
{
	int64_t ns = 1000 * WEIR_SEC;
	weir_embed *embed = NULL;
	pthread_t thread;
	void *result;

	ck_assert_int_eq(weir_embed_open(&embed, publish_and_sleep, &ns, .workers = 1), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, submit_stop, NULL), 0);
	ck_assert_int_eq(run_in_poll(embed), -ECANCELED);
	ck_assert_int_eq(pthread_join(thread, &result), 0);
	ck_assert_int_eq((int)(intptr_t)result, 3);
}
END_TEST

Suite *io_embed_suite(void)
{
	Suite *suite = suite_create("io_embed");
	TCase *loop = tcase_create("loop");

	tcase_set_tags(loop, "fast real"); /* the loop is the program's */
	tcase_set_timeout(loop, 5);
	tcase_add_loop_test(loop, a_server_answers_from_a_foreign_loop, 0, 4);
	tcase_add_test(loop, other_workers_wake_it);
	tcase_add_test(loop, a_sleep_takes_few_turns);
	tcase_add_test(loop, the_loop_s_own_thread_sends_to_a_task);
	tcase_add_test(loop, a_turn_never_blocks);
	tcase_add_test(loop, it_can_be_closed_before_its_first_turn);
	tcase_add_test(loop, another_worker_does_not_wait_for_its_close);
	tcase_add_test(loop, a_foreign_thread_submits_to_it);
	suite_add_tcase(suite, loop);
	return suite;
}
