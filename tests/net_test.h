/* SPDX-License-Identifier: MIT */
/*
 * net_test.h: connections and servers as a program sees them: one process, a server and its clients
 * as tasks, through the public headers alone. Every test ends with the descriptors it began with.
 * Runs on the driver that WEIR_DRIVER names and must not be able to tell which.
 */
#ifndef TESTS_NET_TEST_H
#define TESTS_NET_TEST_H

#include <weir/weir.h>

#include <arpa/inet.h>
#include <check.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/descriptors.h"
#include "tests/echo_test.h"

enum { BIG_BYTES = 8 << 20 };

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

/* ---- Running --------------------------------------------------------------------------------- */

static int descriptors_before;

static inline void note_descriptors(void)
{
	descriptors_before = count_descriptors();
}

static inline void check_descriptors(void)
{
	ck_assert_int_eq(count_descriptors(), descriptors_before);
}

static inline void run_on(unsigned workers, weir_fn fn, void *arg)
{
	ck_assert_int_eq(weir_run(fn, arg, .workers = workers, .signals_ignored = true), 0);
}

static inline void run(weir_fn fn)
{
	run_on(1, fn, NULL);
}

static inline void spawn(struct weir_scope *scope, weir_fn fn, void *arg)
{
	ck_assert_int_eq(weir_spawn(scope, fn, arg), 0);
}

/* Lets every other task get as far as it can. */
static inline void settle(void)
{
	ck_assert_int_eq(weir_sleep(20 * WEIR_MS), 0);
}

/* ---- Both ends ------------------------------------------------------------------------------- */

static const char *const addresses[] = { "127.0.0.1:0", "[::1]:0", "unix:@weir-echo", NULL };

/* The last form is a path, which only this process uses. */
static inline const char *address_of(int i)
{
	static char text[64];
	if (addresses[i] != NULL && addresses[i][0] != 'u')
		return addresses[i];
	snprintf(text, sizeof(text), "unix:%s-%d.sock",
		 addresses[i] ? "@weir-echo" : "/tmp/weir-echo", (int)getpid());
	return text;
}

/* A Unix socket's name that only this process uses; good until the next call. */
static inline const char *own_name(const char *what)
{
	static char text[64];

	snprintf(text, sizeof(text), "unix:@weir-%s-%d", what, (int)getpid());
	return text;
}

struct ends {
	weir_listener *listener;
	weir_conn *near;
	weir_conn *far;
};

/* The backlog ends the handshake, so one task can do both sides. */
static inline void open_ends(struct ends *ends, const char *address)
{
	ck_assert_int_eq(weir_listen(&ends->listener, address), 0);
	ck_assert_int_eq(weir_connect(&ends->near, weir_listener_address(ends->listener)), 0);
	ck_assert_int_eq(weir_accept(ends->listener, &ends->far), 0);
}

/* The far end first: a lease that nobody reads would be waited for. */
static inline void close_ends(struct ends *ends)
{
	weir_conn_close(ends->far);
	weir_conn_close(ends->near);
	weir_listener_close(ends->listener);
}

static inline void put(weir_conn *conn, const char *text)
{
	ck_assert_int_eq(weir_write(conn, text, strlen(text)), (ssize_t)strlen(text));
}

/* A client outside the runtime, for what ours does not do. */
static inline int raw_client(const weir_listener *listener)
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

static inline void reset(int fd)
{
	struct linger now = { .l_onoff = 1, .l_linger = 0 };
	ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)), 0);
	close(fd);
}

static inline char *pattern(size_t len)
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

static inline int serve(void *arg)
{
	struct server *server = arg;
	int err = weir_serve(server->listener, server->handler, .conns_max = server->conns_max,
			     .user = server->user);
	ck_assert_int_eq(err, -ECANCELED);
	return err;
}

static inline void start_server(struct weir_scope *scope, struct server *server,
				const char *address)
{
	ck_assert_int_eq(weir_listen(&server->listener, address), 0);
	spawn(scope, serve, server);
}

static inline uint64_t clients_open(void)
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

static inline int write_all(void *arg)
{
	struct request *request = arg;
	request->result = weir_write(request->conn, request->data, request->len);
	return 0;
}

/* Writes and reads at once: a message larger than all buffers on the way comes back too. */
static inline void exchange(weir_conn *conn, size_t len)
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

/* ---- Suites ---------------------------------------------------------------------------------- */

static inline TCase *add_case(Suite *suite, const char *name)
{
	TCase *tcase = tcase_create(name);
	tcase_set_tags(tcase, "net");
	tcase_add_checked_fixture(tcase, note_descriptors, check_descriptors);
	tcase_set_timeout(tcase, 20);
	suite_add_tcase(suite, tcase);
	return tcase;
}

#endif
