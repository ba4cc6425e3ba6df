/* SPDX-License-Identifier: MIT */
/*
 * test_io_large.c: many connections with large messages, which a ring receives one after the other.
 *
 * From so many connections on that their messages do not fit into a core's cache. Both sides are
 * weir's here, so twice CLIENTS connections receive.
 */
#include <check.h>
#include <errno.h>
#include <string.h>

#include "tests/net_test.h"

enum {
	CLIENTS = 20,
	MESSAGE_BYTES = 48000, /* more than half of a bulk buffer */
	MESSAGES = 8,
	HELD_BYTES = 3 * MESSAGE_BYTES,
};

struct client {
	const char *address;
	unsigned char seed;
	int (*talk)(weir_conn *conn, unsigned char seed);
};

static char messages[CLIENTS][MESSAGE_BYTES], answers[CLIENTS][MESSAGE_BYTES];
static int open_clients, holders;

static int run_client(void *arg)
{
	struct client *client = arg;
	weir_auto_conn conn = NULL;
	WEIR_SCOPE(patience, 20 * WEIR_SEC);

	int err = weir_connect(&conn, client->address);
	if (err == 0)
		err = client->talk(conn, client->seed);
	return err;
}

struct load {
	int (*handler)(weir_conn *conn);
	int (*talk)(weir_conn *conn, unsigned char seed);
};

static int run_load(void *arg)
{
	const struct load *load = arg;
	struct server server = { .handler = load->handler };
	struct client clients[CLIENTS];

	WEIR_SCOPE(serving, WEIR_FOREVER);
	start_server(&serving, &server, "127.0.0.1:0");
	WEIR_SCOPE(all, WEIR_FOREVER);
	for (int i = 0; i < CLIENTS; i++) {
		clients[i] = (struct client){ weir_listener_address(server.listener),
					      (unsigned char)i, load->talk };
		spawn(&all, run_client, &clients[i]);
	}
	ck_assert_int_eq(weir_scope_wait(&all), 0);
	weir_scope_cancel(&serving);
	(void)weir_scope_wait(&serving);
	weir_listener_close(server.listener);
	return 0;
}

static void load_with(int (*handler)(weir_conn *conn),
		      int (*talk)(weir_conn *conn, unsigned char seed))
{
	struct load load = { handler, talk };

	open_clients = holders = 0;
	run_on(1, run_load, &load);
}

static void compose(unsigned char seed, int nth)
{
	for (int i = 0; i < MESSAGE_BYTES; i++)
		messages[seed][i] = (char)(seed * 31 + nth * 7 + i / 13);
}

/* ---- Echo ----------------------------------------------------------------------------------- */

/* And after the last message the end of the stream, which comes back as well. */
static int talk_and_end(weir_conn *conn, unsigned char seed)
{
	char more;

	for (int nth = 0; nth < MESSAGES; nth++) {
		compose(seed, nth);
		ssize_t n = weir_write(conn, messages[seed], MESSAGE_BYTES);
		ck_assert_int_eq((int)n, MESSAGE_BYTES);
		ck_assert_int_eq(weir_read_full(conn, answers[seed], MESSAGE_BYTES), 0);
		ck_assert_int_eq(memcmp(answers[seed], messages[seed], MESSAGE_BYTES), 0);
	}
	ck_assert_int_eq(weir_shutdown(conn), 0);
	ck_assert_int_eq(weir_read_full(conn, &more, 1), -ENODATA);
	return 0;
}

START_TEST(large_messages_of_many_connections_come_whole_and_then_their_end)
{
	load_with(echo, talk_and_end);
}
END_TEST

/* ---- Closing -------------------------------------------------------------------------------- */

/* The client's next so many bytes. */
static int echo_bytes(weir_conn *conn, size_t bytes)
{
	for (size_t count = 0; count < bytes;) {
		weir_auto_buf buf = WEIR_BUF_INIT;

		ssize_t n = weir_recv(conn, &buf);
		count += n > 0 ? (size_t)n : 0;
		if (n > 0)
			n = weir_send(conn, &buf);
		if (n <= 0)
			return n < 0 ? (int)n : -ENODATA;
	}
	return 0;
}

/* Returns amid a message, while its neighbours wait for theirs. */
static int echo_some(weir_conn *conn)
{
	return echo_bytes(conn, MESSAGE_BYTES * (MESSAGES / 2) - MESSAGE_BYTES / 3);
}

static bool is_ended(int err)
{
	return err == -EPIPE || err == -ECONNRESET || err == -ENODATA;
}

static int talk_till_the_end(weir_conn *conn, unsigned char seed)
{
	int err = 0;

	compose(seed, 0);
	while (err == 0) {
		ssize_t n = weir_write(conn, messages[seed], MESSAGE_BYTES);
		err = n < 0 ? (int)n : 0;
		if (n == MESSAGE_BYTES)
			err = weir_read_full(conn, answers[seed], MESSAGE_BYTES);
		if (err == 0)
			ck_assert_int_eq(memcmp(answers[seed], messages[seed], MESSAGE_BYTES), 0);
	}
	ck_assert_msg(is_ended(err), "%s", weir_errname(err));
	return 0;
}

START_TEST(a_connection_is_closed_while_others_with_large_messages_go_on)
{
	load_with(echo_some, talk_till_the_end);
}
END_TEST

/* Nobody waits for the answer to the last message. */
static int talk_and_leave(weir_conn *conn, unsigned char seed)
{
	compose(seed, 1);
	for (int nth = 0; nth < MESSAGES; nth++) {
		ck_assert_int_eq((int)weir_write(conn, messages[seed], MESSAGE_BYTES),
				 MESSAGE_BYTES);
		if (nth < MESSAGES - 1)
			ck_assert_int_eq(weir_read_full(conn, answers[seed], MESSAGE_BYTES), 0);
	}
	return 0;
}

START_TEST(clients_that_leave_amid_a_large_message_end_their_connection_only)
{
	load_with(echo, talk_and_leave);
}
END_TEST

/* ---- Keeping buffers ------------------------------------------------------------------------ */

static int receive_held(weir_conn *conn, weir_buf *held, int most)
{
	size_t bytes = 0;
	int count = 0;

	while (bytes < HELD_BYTES && count < most) {
		ssize_t n = weir_recv(conn, &held[count]);
		if (n <= 0)
			return -EIO;
		bytes += (size_t)n;
		count++;
	}
	return count;
}

/* After some messages keeps all buffers of the next ones until everybody has theirs. */
static int hold(weir_conn *conn)
{
	enum { HELD_MAX = 400 };
	static weir_buf held[CLIENTS][HELD_MAX];
	int mine = open_clients++, err = echo_bytes(conn, MESSAGE_BYTES * (MESSAGES / 2));

	if (err < 0)
		return err;
	int count = receive_held(conn, held[mine], HELD_MAX);
	ck_assert_int_gt(count, 0);
	holders++;
	while (holders < CLIENTS)
		ck_assert_int_eq(weir_sleep(WEIR_MS), 0);
	for (int i = 0; i < count; i++)
		weir_buf_release(&held[mine][i]);
	return weir_write(conn, "k", 1) == 1 ? 0 : -EIO;
}

static int talk_to_holder(weir_conn *conn, unsigned char seed)
{
	char answer;

	compose(seed, 2);
	for (int nth = 0; nth < MESSAGES / 2; nth++) {
		ck_assert_int_eq((int)weir_write(conn, messages[seed], MESSAGE_BYTES),
				 MESSAGE_BYTES);
		ck_assert_int_eq(weir_read_full(conn, answers[seed], MESSAGE_BYTES), 0);
	}
	for (int sent = 0; sent < HELD_BYTES; sent += MESSAGE_BYTES)
		ck_assert_int_eq((int)weir_write(conn, messages[seed], MESSAGE_BYTES),
				 MESSAGE_BYTES);
	ck_assert_int_eq(weir_read_full(conn, &answer, 1), 0);
	return 0;
}

START_TEST(tasks_that_keep_large_buffers_do_not_wait_for_each_other)
{
	load_with(hold, talk_to_holder);
}
END_TEST

Suite *io_large_suite(void);
Suite *io_large_suite(void)
{
	Suite *suite = suite_create("io_large");
	TCase *tc = tcase_create("messages");

	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, large_messages_of_many_connections_come_whole_and_then_their_end);
	tcase_add_test(tc, a_connection_is_closed_while_others_with_large_messages_go_on);
	tcase_add_test(tc, clients_that_leave_amid_a_large_message_end_their_connection_only);
	tcase_add_test(tc, tasks_that_keep_large_buffers_do_not_wait_for_each_other);
	suite_add_tcase(suite, tc);
	return suite;
}
