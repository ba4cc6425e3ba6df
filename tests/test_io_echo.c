/* SPDX-License-Identifier: MIT */
/*
 * Echo servers: serving many, reading by lines, and the addresses of both ends.
 */
#include <signal.h>
#include <sys/wait.h>

#include <netdb.h>

#include "tests/net_test.h"

static int echo_every_size(void *arg)
{
	static const size_t sizes[] = { 1, 2, 63, 4095, 4096, 4097, 65535, 65536, 65537, 1 << 20 };
	struct server server = { .handler = echo };
	weir_conn *conn = NULL;
	WEIR_SCOPE(all, WEIR_FOREVER);
	start_server(&all, &server, arg);
	ck_assert_int_eq(weir_connect(&conn, weir_listener_address(server.listener)), 0);
	for (size_t i = 0; i < COUNT(sizes); i++)
		exchange(conn, sizes[i]);
	weir_conn_close(conn);
	weir_scope_close(&all);
	weir_listener_close(server.listener);
	return 0;
}

START_TEST(every_size_comes_back_as_it_went)
{
	run_on(1, echo_every_size, (void *)address_of(_i));
	if (addresses[_i] == NULL) /* the file is gone with the listener */
		ck_assert_int_ne(access(address_of(_i) + strlen("unix:"), F_OK), 0);
}
END_TEST

/* ---- Many clients ---------------------------------------------------------------------------- */

enum { CLIENTS = 150, ROUNDS = 20 };

static int client(void *arg)
{
	const struct server *server = arg;
	weir_auto_conn conn = NULL;
	ck_assert_int_eq(weir_connect(&conn, weir_listener_address(server->listener)), 0);
	for (int i = 0; i < ROUNDS; i++)
		exchange(conn, 1 + (size_t)(i * 977 % 9000));
	return 0;
}

static int many_clients(void *arg)
{
	struct server server = { .handler = echo };
	struct weir_serve_stats stats;
	WEIR_SCOPE(all, WEIR_FOREVER);
	start_server(&all, &server, arg);
	WEIR_SCOPE(clients, WEIR_FOREVER);
	for (int i = 0; i < CLIENTS; i++)
		spawn(&clients, client, &server);
	ck_assert_int_eq(weir_scope_wait(&clients), 0);
	while (clients_open() > 0)
		weir_sleep(WEIR_MS);
	weir_serve_stats_get(&stats);
	ck_assert_uint_eq(stats.accepted, CLIENTS);
	ck_assert_uint_eq(stats.failed, 0);
	weir_scope_close(&clients);
	weir_scope_close(&all);
	weir_listener_close(server.listener);
	return 0;
}

START_TEST(many_clients_are_served_at_once)
{
	run_on(1 + (unsigned)(_i & 1), many_clients, (void *)address_of(_i >> 1));
}
END_TEST

struct crowd {
	int now;
	int most;
};

static int count_me(weir_conn *conn)
{
	struct crowd *crowd = weir_conn_user(conn);
	char byte;
	crowd->now++;
	if (crowd->most < crowd->now)
		crowd->most = crowd->now;
	int err = weir_read_full(conn, &byte, 1);
	if (err == 0)
		err = weir_write(conn, &byte, 1) == 1 ? 0 : -EIO;
	weir_sleep(WEIR_MS);
	crowd->now--;
	return err;
}

static int one_byte(void *arg)
{
	const struct server *server = arg;
	weir_auto_conn conn = NULL;
	char byte = 'x';
	ck_assert_int_eq(weir_connect(&conn, weir_listener_address(server->listener)), 0);
	ck_assert_int_eq(weir_write(conn, &byte, 1), 1);
	ck_assert_int_eq(weir_read_full(conn, &byte, 1), 0);
	return 0;
}

static int crowded(void *arg)
{
	struct crowd crowd = { 0 };
	struct server server = { .handler = count_me, .conns_max = 3, .user = &crowd };
	struct weir_serve_stats stats;
	WEIR_SCOPE(all, WEIR_FOREVER);
	start_server(&all, &server, arg);
	WEIR_SCOPE(clients, WEIR_FOREVER);
	for (int i = 0; i < 20; i++)
		spawn(&clients, one_byte, &server);
	ck_assert_int_eq(weir_scope_wait(&clients), 0);
	weir_serve_stats_get(&stats);
	ck_assert_int_eq(crowd.most, 3);
	ck_assert_uint_eq(stats.accepted, 20);
	ck_assert_uint_gt(stats.accept_pauses, 0);
	weir_scope_close(&clients);
	weir_scope_close(&all);
	weir_listener_close(server.listener);
	return 0;
}

START_TEST(no_more_clients_than_conns_max_at_once_and_none_is_lost)
{
	run_on(1, crowded, (void *)address_of(_i));
}
END_TEST

static int fail_on_f(weir_conn *conn)
{
	char byte;
	int err = weir_read_full(conn, &byte, 1);
	if (err < 0 || byte == 'f')
		return -EPROTO;
	return weir_write(conn, &byte, 1) == 1 ? echo(conn) : -EIO;
}

static int one_client_fails(void *arg)
{
	struct server server = { .handler = fail_on_f };
	struct weir_serve_stats stats;
	weir_conn *good = NULL, *bad = NULL;
	char byte;
	(void)arg;
	WEIR_SCOPE(all, WEIR_FOREVER);
	start_server(&all, &server, "127.0.0.1:0");
	ck_assert_int_eq(weir_connect(&good, weir_listener_address(server.listener)), 0);
	ck_assert_int_eq(weir_connect(&bad, weir_listener_address(server.listener)), 0);
	put(good, "g");
	ck_assert_int_eq(weir_read_full(good, &byte, 1), 0);
	put(bad, "f");
	ck_assert_int_eq(weir_read_full(bad, &byte, 1), -ENODATA); /* closed on it */
	exchange(good, 1000);
	weir_serve_stats_get(&stats);
	ck_assert_uint_eq(stats.failed, 1);
	ck_assert_uint_eq(stats.open, 1);
	weir_conn_close(bad);
	weir_scope_close(&all); /* the server is cancelled: */
	ck_assert_int_eq(weir_read_full(good, &byte, 1), -ENODATA);
	weir_conn_close(good);
	weir_listener_close(server.listener);
	return 0;
}

START_TEST(a_failing_client_touches_no_other_and_cancelling_ends_them_all)
{
	run(one_client_fails);
}
END_TEST

static void say_bye(void *conn)
{
	ck_assert_int_eq(weir_write(conn, "bye", 3), 3);
}

static int leave_with_a_word(weir_conn *conn)
{
	return weir_task_defer(say_bye, conn);
}

static int hear_the_word(void *arg)
{
	struct server server = { .handler = leave_with_a_word };
	weir_conn *conn = NULL;
	char word[3], byte;
	(void)arg;
	WEIR_SCOPE(all, WEIR_FOREVER);
	start_server(&all, &server, "127.0.0.1:0");
	ck_assert_int_eq(weir_connect(&conn, weir_listener_address(server.listener)), 0);
	ck_assert_int_eq(weir_read_full(conn, word, sizeof word), 0);
	ck_assert_int_eq(memcmp(word, "bye", sizeof word), 0);
	ck_assert_int_eq(weir_read_full(conn, &byte, 1), -ENODATA);
	weir_scope_close(&all);
	weir_conn_close(conn);
	weir_listener_close(server.listener);
	return 0;
}

START_TEST(a_client_is_there_until_what_was_deferred_has_run)
{
	run(hear_the_word);
}
END_TEST

static int tell_and_leave(weir_conn *conn)
{
	int gone = 1;
	return weir_chan_send(weir_conn_user(conn), &gone);
}

/* The message makes us ready before the end of the client makes the acceptor so: we come in
 * between. */
static int cancel_in_between(void *arg)
{
	weir_auto_chan told = weir_chan_new(sizeof(int), 1);
	struct server server = { .handler = tell_and_leave, .user = told };
	weir_conn *conn = NULL;
	int gone;
	(void)arg;
	WEIR_SCOPE(all, WEIR_FOREVER);
	start_server(&all, &server, "127.0.0.1:0");
	ck_assert_int_eq(weir_connect(&conn, weir_listener_address(server.listener)), 0);
	ck_assert_int_eq(weir_chan_recv(told, &gone), 0);
	weir_scope_close(&all);
	weir_conn_close(conn);
	weir_listener_close(server.listener);
	return 0;
}

START_TEST(a_server_cancelled_as_its_last_client_leaves_ends)
{
	run(cancel_in_between);
}
END_TEST

static int unix_backlog(void *arg)
{
	struct server server = { .handler = echo };
	(void)arg;
	ck_assert_int_eq(weir_listen(&server.listener, address_of(2), .backlog = 1), 0);
	WEIR_SCOPE(clients, WEIR_FOREVER);
	for (int i = 0; i < 20; i++)
		spawn(&clients, one_byte, &server);
	settle(); /* the backlog is full, the rest waits */
	WEIR_SCOPE(all, WEIR_FOREVER);
	spawn(&all, serve, &server);
	ck_assert_int_eq(weir_scope_wait(&clients), 0);
	weir_scope_close(&all);
	weir_listener_close(server.listener);
	return 0;
}

START_TEST(connects_to_a_full_unix_backlog_wait_for_room)
{
	run(unix_backlog);
}
END_TEST

/* A child that stops this process and has it go on, some times. */
static pid_t stop_and_go(void)
{
	pid_t parent = getpid(), child = fork();

	if (child != 0)
		return child;
	for (int i = 0; i < 10; i++) {
		(void)usleep(3000);
		(void)kill(parent, SIGSTOP);
		(void)usleep(3000);
		(void)kill(parent, SIGCONT);
	}
	_exit(0);
}

static int unix_backlog_stopped(void *arg)
{
	struct server server = { .handler = echo };
	int status;
	(void)arg;
	ck_assert_int_eq(weir_listen(&server.listener, address_of(2), .backlog = 1), 0);
	WEIR_SCOPE(clients, WEIR_FOREVER);
	for (int i = 0; i < 20; i++)
		spawn(&clients, one_byte, &server);
	settle();
	pid_t child = stop_and_go();
	ck_assert_int_gt(child, 0);
	while (waitpid(child, &status, WNOHANG) == 0)
		ck_assert_int_eq(weir_sleep(WEIR_MS), 0);
	WEIR_SCOPE(all, WEIR_FOREVER);
	spawn(&all, serve, &server);
	ck_assert_int_eq(weir_scope_wait(&clients), 0);
	weir_scope_close(&all);
	weir_listener_close(server.listener);
	return 0;
}

START_TEST(who_waits_to_connect_may_be_stopped_meanwhile)
{
	run(unix_backlog_stopped);
}
END_TEST

/* ---- Reading --------------------------------------------------------------------------------- */

static int read_lines(void *arg)
{
	struct ends ends = { 0 };
	weir_auto_buf buf = WEIR_BUF_INIT;
	char got[16];
	open_ends(&ends, arg);
	put(ends.far, "one\ntwo\nthree");
	ck_assert_int_eq(weir_read_until(ends.near, '\n', got, 4), 4); /* fits exactly */
	ck_assert_mem_eq(got, "one\n", 4);
	ck_assert_int_eq(weir_read_until(ends.near, '\n', got, 3), -EMSGSIZE);
	ck_assert_mem_eq(got, "two", 3);
	ck_assert_int_eq(weir_read_until(ends.near, '\n', got, sizeof(got)), 1); /* its rest */
	ck_assert_int_eq(weir_read_full(ends.near, got, 2), 0);
	ssize_t n = weir_recv(ends.near, &buf); /* what the readers left, or the first of it */
	ck_assert(n > 0 && n <= 3 && memcmp(buf.data, "ree", (size_t)n) == 0);
	ck_assert_int_eq(weir_read_full(ends.near, got, 3 - (size_t)n), 0);
	put(ends.far, "half");
	ck_assert_int_eq(weir_shutdown(ends.far), 0);
	ck_assert_int_eq(weir_read_until(ends.near, '\n', got, sizeof(got)), -ENODATA);
	ck_assert_mem_eq(got, "half", 4);
	ck_assert_int_eq(weir_read_until(ends.near, '\n', got, sizeof(got)), 0);
	ck_assert_int_eq(weir_read_full(ends.near, got, 1), -ENODATA);
	ck_assert_int_eq(weir_read_full(ends.near, got, 0), 0);
	close_ends(&ends);
	return 0;
}

START_TEST(lines_end_at_their_delimiter_or_say_why_not)
{
	run_on(1, read_lines, (void *)address_of(_i));
}
END_TEST

static int read_long_lines(void *arg)
{
	static const size_t lens[] = { 1, 4095, 4096, 4097, 8193, 65535, 65536, 65537, 199999 };
	struct ends ends = { 0 };
	size_t cap = 200000;
	char *line = malloc(cap), *got = malloc(cap);
	(void)arg;
	open_ends(&ends, "127.0.0.1:0");
	memset(line, 'x', cap);
	for (size_t i = 0; i < COUNT(lens); i++) {
		size_t len = lens[i];
		struct request request = { .conn = ends.far, .data = line, .len = len };
		line[len - 1] = '\n';
		WEIR_SCOPE(both, WEIR_FOREVER);
		spawn(&both, write_all, &request);
		ck_assert_int_eq(weir_read_until(ends.near, '\n', got, cap), (ssize_t)len);
		ck_assert_mem_eq(got, line, len);
		ck_assert_int_eq(weir_scope_wait(&both), 0);
		line[len - 1] = 'x';
	}
	close_ends(&ends);
	free(line);
	free(got);
	return 0;
}

START_TEST(lines_may_be_longer_than_any_buffer)
{
	run(read_long_lines);
}
END_TEST

static int byte_by_byte(void *arg)
{
	struct server server = { .handler = echo };
	weir_conn *conn = NULL;
	char byte;
	WEIR_SCOPE(all, WEIR_FOREVER);
	start_server(&all, &server, arg);
	ck_assert_int_eq(weir_connect(&conn, weir_listener_address(server.listener)), 0);
	for (int i = 0; i < 2000; i++) {
		byte = (char)i;
		ck_assert_int_eq(weir_write(conn, &byte, 1), 1);
		ck_assert_int_eq(weir_read_full(conn, &byte, 1), 0);
		ck_assert_int_eq(byte, (char)i);
	}
	weir_conn_close(conn);
	weir_scope_close(&all);
	weir_listener_close(server.listener);
	return 0;
}

START_TEST(one_byte_at_a_time_works_too)
{
	run_on(1, byte_by_byte, (void *)address_of(_i));
}
END_TEST

static int leases(void *arg)
{
	struct ends ends = { 0 };
	weir_auto_buf kept = WEIR_BUF_INIT;
	weir_auto_buf part = WEIR_BUF_INIT;
	(void)arg;
	open_ends(&ends, "127.0.0.1:0");
	put(ends.far, "0123456789");
	ck_assert_int_eq(weir_recv(ends.near, &kept), 10);
	weir_buf_share_view(&kept, &part);
	part.data += 3;
	part.cap -= 3;
	part.len = 4;
	ck_assert_int_eq(weir_send(ends.near, &part), 4);
	ck_assert_ptr_null(part.block);
	ck_assert_int_eq(weir_recv(ends.far, &part), 4);
	ck_assert_mem_eq(part.data, "3456", 4);
	close_ends(&ends);
	ck_assert_mem_eq(kept.data, "0123456789", 10); /* a lease outlives its connection */
	return 0;
}

START_TEST(a_lease_can_be_narrowed_sent_and_kept)
{
	run(leases);
}
END_TEST

static int send_and_close(void *arg)
{
	struct request *request = arg;
	weir_buf buf = WEIR_BUF_INIT;
	ck_assert_int_eq(weir_buf_get(&buf, request->len), 0);
	memcpy(buf.data, request->data, request->len);
	buf.len = request->len;
	ck_assert_int_eq(weir_send(request->conn, &buf), (ssize_t)request->len);
	weir_conn_close(request->conn);
	return 0;
}

static int send_close_read(void *arg)
{
	struct ends ends = { 0 };
	const char *driver = getenv("WEIR_DRIVER");
	/* simulated networks are slow, and closing waits for 5 s; 8 MB are more than a real one
	 * holds */
	size_t len = driver && strcmp(driver, "sim") == 0 ? BIG_BYTES / 64 : BIG_BYTES;
	struct request request = { .data = pattern(len), .len = len };
	char *got = malloc(len);
	open_ends(&ends, arg);
	request.conn = ends.near;
	ends.near = NULL;
	WEIR_SCOPE(sender, WEIR_FOREVER);
	spawn(&sender, send_and_close, &request);
	settle();
	ck_assert_int_eq(weir_read_full(ends.far, got, len), 0);
	ck_assert_mem_eq(got, request.data, len);
	ck_assert_int_eq(weir_read_full(ends.far, got, 1), -ENODATA);
	ck_assert_int_eq(weir_scope_wait(&sender), 0);
	close_ends(&ends);
	free((void *)request.data);
	free(got);
	return 0;
}

START_TEST(what_was_sent_before_closing_arrives)
{
	run_on(1, send_close_read, (void *)address_of(_i));
}
END_TEST

/* ---- Addresses ------------------------------------------------------------------------------- */

static int who_is_it(void *arg)
{
	struct ends ends = { 0 };
	char text[128], none[4];
	open_ends(&ends, arg);
	ck_assert_int_eq(weir_conn_peer(ends.near, text, sizeof(text)), 0);
	ck_assert_str_eq(text, weir_listener_address(ends.listener));
	ck_assert_int_eq(weir_conn_peer(ends.far, text, sizeof(text)), 0);
	ck_assert_int_eq(strncmp(text, weir_listener_address(ends.listener), 4), 0);
	ck_assert_int_eq(weir_conn_peer(ends.near, none, sizeof(none)), -ENOSPC);
	ck_assert_ptr_null(weir_conn_user(ends.far));
	close_ends(&ends);
	return 0;
}

START_TEST(a_connection_knows_its_peer)
{
	run_on(1, who_is_it, (void *)address_of(_i));
}
END_TEST

static int listen_again(void *arg)
{
	weir_listener *listener = NULL;
	char text[128];
	ck_assert_int_eq(weir_listen(&listener, arg), 0);
	snprintf(text, sizeof(text), "%s", weir_listener_address(listener));
	for (int i = 0; i < 3; i++) {
		weir_listener_close(listener);
		ck_assert_int_eq(weir_listen(&listener, text), 0);
	}
	weir_listener_close(listener);
	return 0;
}

START_TEST(a_closed_listener_leaves_its_address_at_once)
{
	run_on(1, listen_again, (void *)address_of(_i));
}
END_TEST

static int nobody_there(void *arg)
{
	weir_listener *first = NULL, *second = NULL;
	weir_conn *conn = NULL;
	char text[128];
	(void)arg;
	ck_assert_int_eq(weir_connect(&conn, "no such address"), -EINVAL);
	for (size_t i = 0; i < COUNT(addresses); i++) {
		ck_assert_int_eq(weir_listen(&first, address_of((int)i)), 0);
		snprintf(text, sizeof(text), "%s", weir_listener_address(first));
		ck_assert_int_eq(weir_listen(&second, text), -EADDRINUSE);
		weir_listener_close(first);
		int err = weir_connect(&conn, text);
		ck_assert_int_eq(err, addresses[i] ? -ECONNREFUSED : -ENOENT);
	}
	ck_assert_ptr_null(conn);
	ck_assert_ptr_null(second);
	return 0;
}

START_TEST(where_nobody_listens_connecting_is_refused)
{
	run(nobody_there);
}
END_TEST

static bool is_localhost_v6(void)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found = NULL;
	bool is_there = false;

	if (getaddrinfo("localhost", NULL, &hints, &found) != 0)
		return false;
	for (struct addrinfo *at = found; at; at = at->ai_next)
		is_there |= at->ai_family == AF_INET6;
	freeaddrinfo(found);
	return is_there;
}

static int by_name(void *arg)
{
	static const char *const wrong[] = { "localhost",    "localhost:",	"localhost:99999",
					     "a b:80",	     "-x:80",		":localhost:80",
					     "localhost:8o", "localhost:65536", ".:80" };
	weir_auto_listener listener = NULL;
	weir_auto_conn conn = NULL;
	char text[64];
	(void)arg;
	for (size_t i = 0; i < COUNT(wrong); i++)
		ck_assert_int_eq(weir_connect(&conn, wrong[i]), -EINVAL);
	ck_assert_int_eq(weir_listen(&listener, "127.0.0.1:0"), 0);
	const char *port = strrchr(weir_listener_address(listener), ':');
	snprintf(text, sizeof(text), "localhost%s", port);
	ck_assert_int_eq(weir_connect(&conn, text), 0);
	ck_assert_int_eq(weir_conn_peer(conn, text, sizeof(text)), 0);
	ck_assert_str_eq(text, weir_listener_address(listener));
	weir_conn_close(conn);
	conn = NULL;
	weir_listener_close(listener);
	listener = NULL;
	if (is_localhost_v6() && weir_listen(&listener, "[::1]:0") == 0) {
		/* where the first address is the other one it is tried in vain */
		snprintf(text, sizeof(text), "localhost%s",
			 strrchr(weir_listener_address(listener), ':'));
		ck_assert_int_eq(weir_connect(&conn, text), 0);
		weir_conn_close(conn);
		conn = NULL;
	}
	/* RFC 6761: there is none; a machine without name servers cannot know */
	int err = weir_connect(&conn, "host.invalid:80");
	ck_assert(err == -ENOENT || err == -EAGAIN || err == -EIO);
	ck_assert_ptr_null(conn);
	return 0;
}

/* RFC 1035 has 253 bytes; where one more were cut off, another host would be asked. */
static int by_long_name(void *arg)
{
	weir_auto_conn conn = NULL;
	char text[300];

	(void)arg;
	for (int i = 0; i < 254; i++)
		text[i] = i % 60 == 59 ? '.' : 'a';
	strcpy(text + 254, ":80");
	ck_assert_int_eq(weir_connect(&conn, text), -EINVAL);
	strcpy(text + 253 - 8, ".invalid:80"); /* the longest there may be */
	ck_assert_int_eq(strcspn(text, ":"), 253);
	int err = weir_connect(&conn, text);
	ck_assert(err == -ENOENT || err == -EAGAIN || err == -EIO);
	return 0;
}

START_TEST(a_name_is_as_long_as_names_may_be)
{
	run_on(1, by_long_name, NULL);
}
END_TEST

START_TEST(a_name_is_looked_up_and_its_addresses_are_tried)
{
	run_on(1, by_name, NULL);
}
END_TEST

/* ---- The suite ------------------------------------------------------------------------------- */

Suite *io_echo_suite(void)
{
	Suite *suite = suite_create("io_echo");
	TCase *serving = add_case(suite, "serving");
	tcase_add_loop_test(serving, every_size_comes_back_as_it_went, 0, COUNT(addresses));
	tcase_add_loop_test(serving, many_clients_are_served_at_once, 0, 2 * COUNT(addresses));
	tcase_add_loop_test(serving, no_more_clients_than_conns_max_at_once_and_none_is_lost, 0,
			    COUNT(addresses));
	tcase_add_test(serving, a_failing_client_touches_no_other_and_cancelling_ends_them_all);
	tcase_add_test(serving, a_client_is_there_until_what_was_deferred_has_run);
	tcase_add_test(serving, a_server_cancelled_as_its_last_client_leaves_ends);
	tcase_add_test(serving, connects_to_a_full_unix_backlog_wait_for_room);
	TCase *reading = add_case(suite, "reading");
	tcase_add_loop_test(reading, lines_end_at_their_delimiter_or_say_why_not, 0,
			    COUNT(addresses));
	tcase_add_test(reading, lines_may_be_longer_than_any_buffer);
	tcase_add_loop_test(reading, one_byte_at_a_time_works_too, 0, COUNT(addresses));
	tcase_add_loop_test(reading, what_was_sent_before_closing_arrives, 0, COUNT(addresses));
	TCase *naming = add_case(suite, "naming");
	tcase_add_loop_test(naming, a_connection_knows_its_peer, 0, COUNT(addresses));
	tcase_add_loop_test(naming, a_closed_listener_leaves_its_address_at_once, 0,
			    COUNT(addresses));
	tcase_add_test(naming, where_nobody_listens_connecting_is_refused);
	TCase *real = add_case(suite, "real");
	tcase_set_tags(real, "net real"); /* arrivals in one piece, names of the system's */
	tcase_add_test(real, a_lease_can_be_narrowed_sent_and_kept);
	tcase_add_test(real, a_name_is_looked_up_and_its_addresses_are_tried);
	tcase_add_test(real, a_name_is_as_long_as_names_may_be);
	TCase *stopped = add_case(suite, "stopped");
	tcase_set_tags(stopped, "real"); /* a process as a whole */
	tcase_add_test(stopped, who_waits_to_connect_may_be_stopped_meanwhile);
	return suite;
}
