/* SPDX-License-Identifier: MIT */
/*
 * Connections and servers as a program sees them: one process, a server and its clients as tasks,
 * through the public headers alone. Every test ends with the descriptors it began with. Runs on the
 * driver that WEIR_DRIVER names and must not be able to tell which.
 */
#include <weir/weir.h>

#include <arpa/inet.h>
#include <check.h>
#include <dirent.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BIG_BYTES = 8 << 20 };

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

/* ---- Running --------------------------------------------------------------------------------- */

static int descriptors_before;

static int count_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = 0;
	ck_assert_ptr_nonnull(dir);
	while (readdir(dir) != NULL)
		count++;
	closedir(dir);
	return count;
}

static void note_descriptors(void)
{
	descriptors_before = count_descriptors();
}

static void check_descriptors(void)
{
	ck_assert_int_eq(count_descriptors(), descriptors_before);
}

static void run_on(unsigned workers, weir_fn fn, void *arg)
{
	ck_assert_int_eq(weir_run(fn, arg, .workers = workers, .signals_ignored = true), 0);
}

static void run(weir_fn fn)
{
	run_on(1, fn, NULL);
}

static void spawn(struct weir_scope *scope, weir_fn fn, void *arg)
{
	ck_assert_int_eq(weir_spawn(scope, fn, arg), 0);
}

/* Lets every other task get as far as it can. */
static void settle(void)
{
	ck_assert_int_eq(weir_sleep(20 * WEIR_MS), 0);
}

/* ---- Both ends ------------------------------------------------------------------------------- */

static const char *const addresses[] = { "127.0.0.1:0", "[::1]:0", "unix:@weir-echo", NULL };

/* The last form is a path, which only this process uses. */
static const char *address_of(int i)
{
	static char text[64];
	if (addresses[i] != NULL && addresses[i][0] != 'u')
		return addresses[i];
	snprintf(text, sizeof(text), "unix:%s-%d.sock",
		 addresses[i] ? "@weir-echo" : "/tmp/weir-echo", (int)getpid());
	return text;
}

struct ends {
	weir_listener *listener;
	weir_conn *near;
	weir_conn *far;
};

/* The backlog ends the handshake, so one task can do both sides. */
static void open_ends(struct ends *ends, const char *address)
{
	ck_assert_int_eq(weir_listen(&ends->listener, address), 0);
	ck_assert_int_eq(weir_connect(&ends->near, weir_listener_address(ends->listener)), 0);
	ck_assert_int_eq(weir_accept(ends->listener, &ends->far), 0);
}

/* The far end first: a lease that nobody reads would be waited for. */
static void close_ends(struct ends *ends)
{
	weir_conn_close(ends->far);
	weir_conn_close(ends->near);
	weir_listener_close(ends->listener);
}

static void put(weir_conn *conn, const char *text)
{
	ck_assert_int_eq(weir_write(conn, text, strlen(text)), (ssize_t)strlen(text));
}

/* A client outside the runtime, for what ours does not do. */
static int raw_client(const weir_listener *listener)
{
	const char *text = weir_listener_address(listener);
	struct sockaddr_in address = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	ck_assert_int_eq(strncmp(text, "127.0.0.1:", 10), 0);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	address.sin_port = htons((uint16_t)atoi(text + 10));
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static void reset(int fd)
{
	struct linger now = { .l_onoff = 1, .l_linger = 0 };
	ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)), 0);
	close(fd);
}

static char *pattern(size_t len)
{
	char *data = malloc(len);
	ck_assert_ptr_nonnull(data);
	for (size_t i = 0; i < len; i++)
		data[i] = (char)(i * 2654435761u >> 13);
	return data;
}

/* ---- A server -------------------------------------------------------------------------------- */

struct server {
	weir_listener *listener;
	weir_handler handler;
	unsigned conns_max;
	void *user;
};

static int serve(void *arg)
{
	struct server *server = arg;
	int err = weir_serve(server->listener, server->handler, .conns_max = server->conns_max,
			     .user = server->user);
	ck_assert_int_eq(err, -ECANCELED);
	return err;
}

static int echo(weir_conn *conn)
{
	for (;;) {
		weir_auto_buf buf = WEIR_BUF_INIT;
		ssize_t n = weir_recv(conn, &buf);
		if (n > 0)
			n = weir_send(conn, &buf);
		if (n <= 0)
			return (int)n;
	}
}

static void start_server(struct weir_scope *scope, struct server *server, const char *address)
{
	ck_assert_int_eq(weir_listen(&server->listener, address), 0);
	spawn(scope, serve, server);
}

static uint64_t clients_open(void)
{
	struct weir_serve_stats stats;
	weir_serve_stats_get(&stats);
	return stats.open;
}

struct request {
	weir_conn *conn;
	const char *data;
	size_t len;
	ssize_t result;
};

static int write_all(void *arg)
{
	struct request *request = arg;
	request->result = weir_write(request->conn, request->data, request->len);
	return 0;
}

/* Writes and reads at once: a message larger than all buffers on the way comes back too. */
static void exchange(weir_conn *conn, size_t len)
{
	struct request request = { .conn = conn, .data = pattern(len), .len = len };
	char *got = malloc(len);
	WEIR_SCOPE(both, WEIR_FOREVER);
	spawn(&both, write_all, &request);
	ck_assert_int_eq(weir_read_full(conn, got, len), 0);
	ck_assert_int_eq(weir_scope_wait(&both), 0);
	ck_assert_int_eq(request.result, (ssize_t)len);
	ck_assert_mem_eq(got, request.data, len);
	free(got);
	free((void *)request.data);
}

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

/* ---- The ends of a stream -------------------------------------------------------------------- */

static int half_close(void *arg)
{
	struct ends ends = { 0 };
	weir_auto_buf buf = WEIR_BUF_INIT;
	char got[16];
	open_ends(&ends, arg);
	put(ends.near, "question");
	ck_assert_int_eq(weir_shutdown(ends.near), 0);
	ck_assert_int_eq(weir_write(ends.near, "x", 1), -EPIPE);
	ck_assert_int_eq(weir_read_full(ends.far, got, 8), 0);
	ck_assert_int_eq(weir_recv(ends.far, &buf), 0);
	ck_assert_int_eq(weir_recv(ends.far, &buf), 0); /* and stays so */
	ck_assert_ptr_null(buf.block);
	put(ends.far, "answer");
	ck_assert_int_eq(weir_recv(ends.near, &buf), 6);
	ck_assert_mem_eq(buf.data, "answer", 6);
	weir_conn_close(ends.far);
	ends.far = NULL;
	ck_assert_int_eq(weir_recv(ends.near, &buf), 0);
	close_ends(&ends);
	return 0;
}

START_TEST(half_a_connection_goes_on)
{
	run_on(1, half_close, (void *)address_of(_i));
}
END_TEST

static int reset_by_peer(void *arg)
{
	weir_listener *listener = NULL;
	weir_conn *conn = NULL;
	weir_auto_buf buf = WEIR_BUF_INIT;
	(void)arg;
	ck_assert_int_eq(weir_listen(&listener, "127.0.0.1:0"), 0);
	for (int i = 0; i < 2; i++) {
		int fd = raw_client(listener);
		ck_assert_int_eq(weir_accept(listener, &conn), 0);
		if (i == 1) { /* bytes that came before it are lost or not; the error stays */
			ck_assert_int_eq(send(fd, "x", 1, 0), 1);
			ck_assert_int_eq(weir_recv(conn, &buf), 1);
		}
		reset(fd);
		ck_assert_int_eq(weir_recv(conn, &buf), -ECONNRESET);
		ck_assert_ptr_null(buf.block);
		ck_assert_int_lt(weir_write(conn, "x", 1), 0);
		weir_conn_close(conn);
	}
	weir_listener_close(listener);
	return 0;
}

START_TEST(a_reset_is_econnreset)
{
	run(reset_by_peer);
}
END_TEST

/* epoll's driver tries to send at once, so it knows at once; a ring tells the next call. */
static int send_to_nobody(void *arg)
{
	struct ends ends;
	weir_auto_buf buf = WEIR_BUF_INIT;
	(void)arg;
	open_ends(&ends, "unix:@weir-echo-nobody");
	weir_conn_close(ends.far);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(weir_buf_get(&buf, 100), 0);
		buf.len = 100;
		ck_assert_int_eq((int)weir_send(ends.near, &buf), -EPIPE);
		ck_assert_ptr_null(buf.block);
	}
	weir_conn_close(ends.near);
	weir_listener_close(ends.listener);
	return 0;
}

START_TEST(an_error_that_is_known_at_once_is_told_at_once)
{
	ck_assert_int_eq(weir_run(send_to_nobody, NULL, .workers = 1, .driver = "epoll"), 0);
}
END_TEST

/* ---- Time and cancellation ------------------------------------------------------------------- */

enum parked {
	IN_RECV,
	IN_READ_FULL,
	IN_READ_UNTIL,
	IN_WRITE,
	IN_SEND,
	IN_ACCEPT,
	IN_CONNECT,
	PARKED
};

/* A task in one of those calls, with nothing that would end it. */
struct stuck {
	enum parked in;
	weir_conn *conn;
	weir_listener *listener;
	char *data;
	weir_buf lease;
	ssize_t result;
	ssize_t again; /* what the same call says at once afterwards */
	int64_t timeout_ns;
	bool is_over;
};

/* Before the clock runs: it takes a while. */
static void fill_lease(struct stuck *stuck)
{
	ck_assert_int_eq(weir_buf_get(&stuck->lease, BIG_BYTES), 0);
	memcpy(stuck->lease.data, stuck->data, BIG_BYTES);
	stuck->lease.len = BIG_BYTES;
}

static ssize_t send_lease(struct stuck *stuck)
{
	weir_auto_buf second = WEIR_BUF_INIT;
	weir_buf_share_view(&stuck->lease, &second);
	ssize_t n = weir_send(stuck->conn, &second);
	ck_assert_ptr_null(second.block); /* taken, whatever happened */
	return n;
}

static ssize_t call(struct stuck *stuck)
{
	weir_auto_buf buf = WEIR_BUF_INIT;
	weir_conn *conn = NULL;
	char room[64];
	switch (stuck->in) {
	case IN_RECV:
		return weir_recv(stuck->conn, &buf);
	case IN_READ_FULL:
		return weir_read_full(stuck->conn, room, sizeof(room));
	case IN_READ_UNTIL:
		return weir_read_until(stuck->conn, '\n', room, sizeof(room));
	case IN_WRITE:
		return weir_write(stuck->conn, stuck->data, BIG_BYTES);
	case IN_SEND:
		return send_lease(stuck);
	case IN_ACCEPT:
		return weir_accept(stuck->listener, &conn);
	default:
		return weir_connect(&conn, weir_listener_address(stuck->listener));
	}
}

static int get_stuck(void *arg)
{
	struct stuck *stuck = arg;
	fill_lease(stuck);
	WEIR_SCOPE(timed, stuck->timeout_ns);
	stuck->result = call(stuck);
	stuck->again = call(stuck);
	stuck->is_over = true;
	return 0;
}

/* Its backlog is full, so the next handshake does not end. */
static void fill_backlog(struct stuck *stuck, int *ret_fd)
{
	ck_assert_int_eq(weir_listen(&stuck->listener, "127.0.0.1:0", .backlog = 1), 0);
	for (int i = 0; i < 2; i++)
		ret_fd[i] = raw_client(stuck->listener);
}

static void check_ending(const struct stuck *stuck, int expected)
{
	ck_assert(stuck->is_over);
	ck_assert_int_eq(stuck->again, expected);
	if (stuck->in == IN_WRITE) { /* bytes beat errors */
		ck_assert_int_gt(stuck->result, 0);
		ck_assert_int_lt(stuck->result, BIG_BYTES);
	} else if (stuck->in == IN_SEND) { /* the first lease may be taken whole */
		ck_assert_int_gt(stuck->result, 0);
	} else {
		ck_assert_int_eq(stuck->result, expected);
	}
}

/* Ends one task in each of the calls, by deadline or by cancelling. */
static int end_stuck(void *arg)
{
	struct stuck *stuck = arg;
	struct ends ends = { 0 };
	weir_listener *listener = NULL;
	int fds[2] = { -1, -1 };
	open_ends(&ends, "127.0.0.1:0");
	stuck->conn = ends.near;
	stuck->data = pattern(BIG_BYTES);
	if (stuck->in == IN_CONNECT)
		fill_backlog(stuck, fds);
	else
		stuck->listener = ends.listener;
	listener = stuck->in == IN_CONNECT ? stuck->listener : NULL;
	WEIR_SCOPE(one, WEIR_FOREVER);
	spawn(&one, get_stuck, stuck);
	settle();
	if (stuck->timeout_ns == WEIR_FOREVER) {
		ck_assert(!stuck->is_over);
		weir_scope_cancel(&one);
		weir_scope_close(&one);
		check_ending(stuck, -ECANCELED);
	} else {
		ck_assert_int_eq(weir_scope_wait(&one), 0);
		check_ending(stuck, -ETIME);
	}
	weir_scope_close(&one);
	weir_buf_release(&stuck->lease);
	for (int i = 0; i < 2 && fds[i] >= 0; i++)
		close(fds[i]);
	weir_listener_close(listener);
	close_ends(&ends);
	free(stuck->data);
	return 0;
}

START_TEST(a_deadline_ends_a_parked_call_with_etime)
{
	struct stuck stuck = { .in = (enum parked)_i, .timeout_ns = 30 * WEIR_MS };
	run_on(1, end_stuck, &stuck);
}
END_TEST

START_TEST(cancelling_ends_a_parked_call_with_ecanceled)
{
	struct stuck stuck = { .in = (enum parked)_i, .timeout_ns = WEIR_FOREVER };
	run_on(1, end_stuck, &stuck);
}
END_TEST

static int late_bytes(void *arg)
{
	struct ends ends = { 0 };
	weir_auto_buf buf = WEIR_BUF_INIT;
	(void)arg;
	open_ends(&ends, "127.0.0.1:0");
	for (int i = 0; i < 5; i++) {
		WEIR_SCOPE(brief, 2 * WEIR_MS);
		ck_assert_int_eq(weir_recv(ends.near, &buf), -ETIME);
		weir_scope_close(&brief);
		put(ends.far, "late");
		ck_assert_int_eq(weir_recv(ends.near, &buf), 4);
	}
	close_ends(&ends);
	return 0;
}

START_TEST(bytes_that_miss_a_deadline_wait_for_the_next_call)
{
	run(late_bytes);
}
END_TEST

/* ---- Closing under others -------------------------------------------------------------------- */

static int close_under_tasks(void *arg)
{
	struct ends ends = { 0 };
	struct request writer = { .len = BIG_BYTES };
	(void)arg;
	open_ends(&ends, "127.0.0.1:0");
	writer.conn = ends.near;
	writer.data = pattern(BIG_BYTES);
	WEIR_SCOPE(both, WEIR_FOREVER);
	struct request busy = { .conn = ends.near, .data = "x", .len = 1 };
	weir_auto_buf buf = WEIR_BUF_INIT;
	spawn(&both, write_all, &writer);
	settle();
	ck_assert_int_eq(write_all(&busy), 0);
	ck_assert_int_eq(busy.result, -EBUSY);
	weir_conn *near = ends.near;
	ends.near = NULL;
	WEIR_SCOPE(brief, WEIR_MS);
	ck_assert_int_eq(weir_recv(near, &buf),
			 -ETIME); /* one direction does not hold up the other */
	weir_scope_close(&brief);
	weir_conn_close(near);
	ck_assert_int_eq(weir_scope_wait(&both), 0);
	ck_assert_int_gt(writer.result, 0);
	ck_assert_int_lt(writer.result, BIG_BYTES);
	close_ends(&ends);
	free((void *)writer.data);
	return 0;
}

static int recv_once(void *arg)
{
	struct request *request = arg;
	weir_auto_buf buf = WEIR_BUF_INIT;
	request->result = weir_recv(request->conn, &buf);
	return 0;
}

static int accept_once(void *arg)
{
	struct stuck *stuck = arg;
	weir_conn *conn = NULL;
	stuck->result = weir_accept(stuck->listener, &conn);
	return 0;
}

static int close_under_readers(void *arg)
{
	struct ends ends = { 0 };
	struct stuck acceptor = { 0 };
	struct request reader, second;
	(void)arg;
	open_ends(&ends, "127.0.0.1:0");
	reader = second = (struct request){ .conn = ends.near };
	acceptor.listener = ends.listener;
	WEIR_SCOPE(both, WEIR_FOREVER);
	spawn(&both, recv_once, &reader);
	spawn(&both, accept_once, &acceptor);
	settle();
	recv_once(&second);
	ck_assert_int_eq(second.result, -EBUSY);
	weir_conn_close(ends.near);
	weir_listener_close(ends.listener);
	ck_assert_int_eq(weir_scope_wait(&both), 0);
	ck_assert_int_eq(reader.result, -ECANCELED);
	ck_assert_int_eq(acceptor.result, -ECANCELED);
	weir_conn_close(ends.far);
	return 0;
}

START_TEST(closing_ends_the_calls_of_other_tasks)
{
	run(_i == 0 ? close_under_readers : close_under_tasks);
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
	ck_assert_int_eq(weir_recv(ends.near, &buf), 3); /* what the readers left */
	ck_assert_mem_eq(buf.data, "ree", 3);
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
	struct request request = { .data = pattern(BIG_BYTES), .len = BIG_BYTES };
	char *got = malloc(BIG_BYTES);
	open_ends(&ends, arg);
	request.conn = ends.near;
	ends.near = NULL;
	WEIR_SCOPE(sender, WEIR_FOREVER);
	spawn(&sender, send_and_close, &request);
	settle();
	ck_assert_int_eq(weir_read_full(ends.far, got, BIG_BYTES), 0);
	ck_assert_mem_eq(got, request.data, BIG_BYTES);
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

/* ---- The suite ------------------------------------------------------------------------------- */

static int by_name(void *arg)
{
	static const char *const wrong[] = { "localhost",   "localhost:", "localhost:99999",
					     "a b:80",	    "-x:80",	  ":localhost:80",
					     "localhost:8o" };
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
	/* RFC 6761: there is none; a machine without name servers cannot know */
	int err = weir_connect(&conn, "host.invalid:80");
	ck_assert(err == -ENOENT || err == -EAGAIN || err == -EIO);
	ck_assert_ptr_null(conn);
	return 0;
}

START_TEST(a_name_is_looked_up_and_its_addresses_are_tried)
{
	run_on(1, by_name, NULL);
}
END_TEST

static TCase *add_case(Suite *suite, const char *name)
{
	TCase *tcase = tcase_create(name);
	tcase_set_tags(tcase, "net");
	tcase_add_checked_fixture(tcase, note_descriptors, check_descriptors);
	tcase_set_timeout(tcase, 20);
	suite_add_tcase(suite, tcase);
	return tcase;
}

Suite *io_echo_suite(void)
{
	Suite *suite = suite_create("io_echo");
	TCase *serving = add_case(suite, "serving");
	tcase_add_loop_test(serving, every_size_comes_back_as_it_went, 0, COUNT(addresses));
	tcase_add_loop_test(serving, many_clients_are_served_at_once, 0, 2 * COUNT(addresses));
	tcase_add_loop_test(serving, no_more_clients_than_conns_max_at_once_and_none_is_lost, 0,
			    COUNT(addresses));
	tcase_add_test(serving, a_failing_client_touches_no_other_and_cancelling_ends_them_all);
	tcase_add_test(serving, a_server_cancelled_as_its_last_client_leaves_ends);
	tcase_add_test(serving, connects_to_a_full_unix_backlog_wait_for_room);
	TCase *ending = add_case(suite, "ending");
	tcase_add_loop_test(ending, half_a_connection_goes_on, 0, COUNT(addresses));
	tcase_add_test(ending, a_reset_is_econnreset);
	tcase_add_test(ending, an_error_that_is_known_at_once_is_told_at_once);
	tcase_add_loop_test(ending, a_deadline_ends_a_parked_call_with_etime, 0, PARKED);
	tcase_add_loop_test(ending, cancelling_ends_a_parked_call_with_ecanceled, 0, PARKED);
	tcase_add_test(ending, bytes_that_miss_a_deadline_wait_for_the_next_call);
	tcase_add_loop_test(ending, closing_ends_the_calls_of_other_tasks, 0, 2);
	TCase *reading = add_case(suite, "reading");
	tcase_add_loop_test(reading, lines_end_at_their_delimiter_or_say_why_not, 0,
			    COUNT(addresses));
	tcase_add_test(reading, lines_may_be_longer_than_any_buffer);
	tcase_add_loop_test(reading, one_byte_at_a_time_works_too, 0, COUNT(addresses));
	tcase_add_test(reading, a_lease_can_be_narrowed_sent_and_kept);
	tcase_add_loop_test(reading, what_was_sent_before_closing_arrives, 0, COUNT(addresses));
	TCase *naming = add_case(suite, "naming");
	tcase_add_loop_test(naming, a_connection_knows_its_peer, 0, COUNT(addresses));
	tcase_add_loop_test(naming, a_closed_listener_leaves_its_address_at_once, 0,
			    COUNT(addresses));
	tcase_add_test(naming, where_nobody_listens_connecting_is_refused);
	tcase_add_test(naming, a_name_is_looked_up_and_its_addresses_are_tried);
	return suite;
}
