/* SPDX-License-Identifier: MIT */
/*
 * Which worker gets a client: as the kernel spreads them, or handed to the one with the fewest, or
 * to that of its host.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/runtime_test.h"

enum { CLIENTS = 64, WORKERS_MAX = 3 };

static _Atomic unsigned served[WORKERS_MAX], now_open[WORKERS_MAX], most_open[WORKERS_MAX];
static _Atomic unsigned all;

static int echo(weir_conn *conn)
{
	unsigned worker = (unsigned)weir_worker_index();
	weir_auto_buf buf = WEIR_BUF_INIT;
	ssize_t n;

	ck_assert_ptr_eq(weir_conn_user(conn), &served);
	served[worker]++;
	if (++now_open[worker] > most_open[worker])
		most_open[worker] = now_open[worker];
	all++;
	while ((n = weir_recv(conn, &buf)) > 0)
		if ((n = weir_send(conn, &buf)) < 0)
			break;
	now_open[worker]--;
	return (int)n;
}

struct server {
	weir_listener *listener;
	enum weir_balance balance;
	unsigned conns_max;
};

static int serve(void *arg)
{
	const struct server *server = arg;

	return weir_serve(server->listener, echo, .balance = server->balance, .user = &served,
			  .conns_max = server->conns_max);
}

/* Each says something, hears it, and stays. */
static int hold_clients(const char *address, unsigned count, weir_conn **ret)
{
	char byte = 'x';

	for (unsigned i = 0; i < count; i++) {
		TRY(weir_connect(&ret[i], address));
		ssize_t n = weir_write(ret[i], &byte, 1);
		int err = n < 0 ? (int)n : weir_read_full(ret[i], &byte, 1);
		if (err < 0) {
			weir_conn_close(ret[i]);
			return err;
		}
	}
	return 0;
}

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

static int spread(void *arg)
{
	struct server server = { .balance = *(enum weir_balance *)arg };
	weir_auto_listener listener = NULL;
	weir_conn *conns[CLIENTS] = { NULL };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_listen(&listener, "127.0.0.1:0"));
	server.listener = listener;
	TRY(weir_spawn(&scope, serve, &server));
	TRY(weir_yield());
	TRY(weir_call_on(1, nothing, NULL)); /* its socket is there */
	TRY(hold_clients(weir_listener_address(listener), CLIENTS, conns));
	ck_assert_uint_eq(all, CLIENTS);
	for (unsigned i = 0; i < CLIENTS; i++)
		weir_conn_close(conns[i]);
	return 0;
}

START_TEST(handing_over_is_even)
{
	enum weir_balance balance = WEIR_BALANCE_HANDOFF;

	run_on(2, spread, &balance);
	ck_assert_uint_eq(served[0], CLIENTS / 2);
	ck_assert_uint_eq(served[1], CLIENTS / 2);
}
END_TEST

START_TEST(the_caller_s_worker_keeps_them_all)
{
	enum weir_balance balance = WEIR_BALANCE_FIXED;

	run_on(2, spread, &balance);
	ck_assert_uint_eq(served[0], CLIENTS);
	ck_assert_uint_eq(served[1], 0);
}
END_TEST

static int serve_anyhow(void *arg)
{
	weir_auto_listener listener = NULL;

	(void)arg;
	TRY(weir_listen(&listener, "127.0.0.1:0"));
	ck_assert_int_eq(weir_serve(listener, echo, .balance = WEIR_BALANCE_HASH + 1), -EINVAL);
	return 0;
}

START_TEST(one_host_has_one_worker)
{
	enum weir_balance balance = WEIR_BALANCE_HASH;

	run_on(2, spread, &balance);
	ck_assert_uint_eq(served[0] + served[1], CLIENTS);
	ck_assert(served[0] == 0 || served[1] == 0);
}
END_TEST

enum { HOSTS = 32, OF_EACH = 3 };

static _Atomic unsigned seen[HOSTS][WORKERS_MAX]; /* clients of a host on a worker */

static int note_host(weir_conn *conn)
{
	char peer[64];
	unsigned host;

	TRY(weir_conn_peer(conn, peer, sizeof peer));
	ck_assert_int_eq(sscanf(peer, "127.0.0.%u:", &host), 1);
	seen[host - 1][weir_worker_index()]++;
	return echo(conn);
}

/* One byte there and back from 127.0.0.<host>, by plain sockets: weir_connect() binds none. */
static void talk_from(unsigned host, const char *address)
{
	struct sockaddr_in from = { .sin_family = AF_INET }, to = from;
	char byte = 'h';
	unsigned port;

	ck_assert_int_eq(sscanf(address, "127.0.0.1:%u", &port), 1);
	from.sin_addr.s_addr = htonl(0x7f000000 + host);
	to.sin_addr.s_addr = htonl(0x7f000001);
	to.sin_port = htons((uint16_t)port);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&from, sizeof from), 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
	ck_assert_int_eq(write(fd, &byte, 1), 1);
	ck_assert_int_eq(read(fd, &byte, 1), 1);
	close(fd);
}

static int talk_from_all(void *address)
{
	for (unsigned i = 0; i < HOSTS * OF_EACH; i++)
		talk_from(1 + i % HOSTS, address);
	return 0;
}

static int serve_hosts(void *arg)
{
	return weir_serve(arg, note_host, .balance = WEIR_BALANCE_HASH, .user = &served);
}

static int spread_hosts(void *arg)
{
	weir_auto_listener listener = NULL;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_listen(&listener, "127.0.0.1:0"));
	TRY(weir_spawn(&scope, serve_hosts, listener));
	return weir_blocking(talk_from_all, (void *)(uintptr_t)weir_listener_address(listener));
}

START_TEST(hosts_are_spread_and_each_keeps_its_worker)
{
	run_on(3, spread_hosts, NULL);
	for (unsigned host = 0; host < HOSTS; host++) {
		unsigned workers = 0, clients = 0;
		for (unsigned i = 0; i < WORKERS_MAX; i++) {
			workers += seen[host][i] > 0;
			clients += seen[host][i];
		}
		ck_assert_uint_eq(workers, 1);
		ck_assert_uint_eq(clients, OF_EACH);
	}
	for (unsigned i = 0; i < WORKERS_MAX; i++)
		ck_assert_uint_ge(served[i], HOSTS * OF_EACH / 8);
}
END_TEST

static int serve_unix(void *arg)
{
	struct server server = { .balance = WEIR_BALANCE_HASH };
	weir_auto_listener listener = NULL;
	weir_conn *conns[8] = { NULL };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	char address[40];
	snprintf(address, sizeof address, "unix:@weir-balance-%d", (int)getpid());
	TRY(weir_listen(&listener, address));
	server.listener = listener;
	TRY(weir_spawn(&scope, serve, &server));
	TRY(hold_clients(weir_listener_address(listener), 8, conns));
	for (unsigned i = 0; i < 8; i++)
		weir_conn_close(conns[i]);
	return 0;
}

START_TEST(clients_without_a_host_go_where_there_are_fewest)
{
	run_on(2, serve_unix, NULL);
	ck_assert_uint_eq(served[0], 4);
	ck_assert_uint_eq(served[1], 4);
}
END_TEST

START_TEST(a_balance_that_is_none_is_refused)
{
	run_on(2, serve_anyhow, NULL);
}
END_TEST

/* One in a hundred billion runs has fewer than eight of 64 on a side. */
START_TEST(the_kernel_s_choice_is_roughly_even)
{
	enum weir_balance balance = WEIR_BALANCE_REUSEPORT;

	run_on(2, spread, &balance);
	ck_assert_uint_ge(served[0], 8);
	ck_assert_uint_ge(served[1], 8);
}
END_TEST

static int talk(void *arg)
{
	const char *address = arg;
	weir_conn *conn = NULL;

	TRY(hold_clients(address, 1, &conn));
	int err = weir_sleep(WEIR_MS);
	weir_conn_close(conn);
	return err;
}

static int crowd(void *arg)
{
	struct server server = { .balance = *(enum weir_balance *)arg, .conns_max = 2 };
	weir_auto_listener listener = NULL;
	WEIR_SCOPE(serving, WEIR_FOREVER);

	TRY(weir_listen(&listener, "127.0.0.1:0", .backlog = 200));
	server.listener = listener;
	TRY(weir_spawn(&serving, serve, &server));
	WEIR_SCOPE(clients, WEIR_FOREVER);
	for (unsigned i = 0; i < 200; i++)
		TRY(weir_spawn(&clients, talk, (void *)(uintptr_t)weir_listener_address(listener)));
	return weir_scope_wait(&clients);
}

static const enum weir_balance handing_over[] = { WEIR_BALANCE_HANDOFF, WEIR_BALANCE_HASH };

/* By host too: all of these have one, and go elsewhere when its worker is full. */
START_TEST(no_worker_has_more_than_conns_max)
{
	enum weir_balance balance = handing_over[_i];

	run_on(3, crowd, &balance);
	ck_assert_uint_eq(all, 200);
	for (unsigned i = 0; i < WORKERS_MAX; i++) {
		ck_assert_uint_gt(served[i], 0);
		ck_assert_uint_le(most_open[i], 2);
	}
}
END_TEST

static int keep_talking(void *arg)
{
	for (;;) {
		int err = talk(arg);
		if (err == -ECANCELED)
			return err;
	}
}

/* Clients come all the while: at the end some are on their way from worker to worker. */
static int cut_off(void *arg)
{
	uint64_t *seed = arg;

	for (int i = 0; i < ROUNDS(60); i++) {
		struct server server = { .balance = handing_over[i % 2] };
		weir_auto_listener listener = NULL;
		WEIR_SCOPE(clients, WEIR_FOREVER);
		TRY(weir_listen(&listener, "127.0.0.1:0"));
		server.listener = listener;
		char *address = (char *)(uintptr_t)weir_listener_address(listener);
		WEIR_SCOPE(serving, WEIR_FOREVER);
		TRY(weir_spawn(&serving, serve, &server));
		for (unsigned k = 0; k < 4; k++)
			TRY(weir_spawn(&clients, keep_talking, address,
				       .worker = WEIR_ON_WORKER(k % 3)));
		TRY(weir_sleep((int64_t)(random_next(seed) % 4096) * WEIR_US));
		weir_scope_cancel(&serving);
		expect(weir_scope_wait(&serving) == -ECANCELED);
		weir_scope_cancel(&clients);
		(void)weir_scope_wait(&clients);
		weir_scope_close(&serving);
		weir_scope_close(&clients);
	}
	return 0;
}

START_TEST(a_server_that_hands_over_ends_at_any_time)
{
	uint64_t seed = test_seed();

	run_on(3, cut_off, &seed);
}
END_TEST

/* ---- One after the other ---- */

static int come_singly(void *arg)
{
	struct server server = { .balance = WEIR_BALANCE_HANDOFF };
	weir_auto_listener listener = NULL;
	struct weir_serve_stats stats;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_listen(&listener, "127.0.0.1:0"));
	server.listener = listener;
	TRY(weir_spawn(&scope, serve, &server));
	for (unsigned i = 0; i < CLIENTS; i++) {
		weir_conn *conn = NULL;
		TRY(hold_clients(weir_listener_address(listener), 1, &conn));
		weir_conn_close(conn);
		do {
			TRY(weir_sleep(WEIR_US));
			weir_serve_stats_get(&stats);
		} while (stats.open > 0);
	}
	return 0;
}

START_TEST(of_workers_with_equally_few_each_has_its_turn)
{
	run_on(2, come_singly, NULL);
	ck_assert_uint_ge(served[0], CLIENTS / 4);
	ck_assert_uint_ge(served[1], CLIENTS / 4);
}
END_TEST

/* ---- Without memory ---- */

enum { SITES_MAX = 40 };

/* As many as there is room for are served at once. */
static int fill_places(const char *address)
{
	weir_conn *conns[2] = { NULL };
	WEIR_SCOPE(patience, 5 * WEIR_SEC);

	int err = hold_clients(address, 2, conns);
	weir_conn_close(conns[0]);
	if (err == 0)
		weir_conn_close(conns[1]);
	return err;
}

static int connect_plainly(const char *address)
{
	struct sockaddr_in to = { .sin_family = AF_INET };
	unsigned port;

	ck_assert_int_eq(sscanf(address, "127.0.0.1:%u", &port), 1);
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	to.sin_port = htons((uint16_t)port);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
	return fd;
}

/* Nobody has memory from the nth request on, while one client comes. */
static int refuse_one(unsigned nth, bool *ret_is_last)
{
	struct server server = { .balance = WEIR_BALANCE_HANDOFF, .conns_max = 1 };
	weir_auto_listener listener = NULL;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_listen(&listener, "127.0.0.1:0"));
	server.listener = listener;
	TRY(weir_spawn(&scope, serve, &server));
	(void)weir_mem_fail_after(UINT64_MAX);
	for (int i = 0; i < 3; i++) /* its acceptor is there, and its heap counts */
		TRY(weir_call_on(1, nothing, NULL));
	int fd = connect_plainly(weir_listener_address(listener));
	(void)weir_mem_fail_after(nth);
	int err = weir_sleep(5 * WEIR_MS);
	*ret_is_last = weir_mem_fail_after(0) < nth;
	close(fd);
	return err < 0 ? err : fill_places(weir_listener_address(listener));
}

static int refuse_in_turn(void *arg)
{
	bool is_last = false;

	(void)arg;
	for (unsigned nth = 1; !is_last; nth++) {
		ck_assert_uint_lt(nth, SITES_MAX);
		int err = refuse_one(nth, &is_last);
		ck_assert_msg(err == 0, "%u: %s", nth, weir_errname(err));
	}
	return 0;
}

START_TEST(a_client_without_memory_takes_nobodys_place)
{
	run_on(2, refuse_in_turn, NULL);
}
END_TEST

static int drain(void *arg)
{
	struct server server = { .balance = WEIR_BALANCE_HANDOFF };
	weir_auto_listener listener = NULL;
	weir_conn *conns[8] = { NULL };
	char byte = 'y';
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_listen(&listener, "127.0.0.1:0"));
	server.listener = listener;
	TRY(weir_spawn(&scope, serve, &server));
	TRY(hold_clients(weir_listener_address(listener), 8, conns));
	weir_stop();
	for (unsigned i = 0; i < 8; i++) { /* who is there is served to the end */
		expect(weir_write(conns[i], &byte, 1) == 1);
		TRY(weir_read_full(conns[i], &byte, 1));
		weir_conn_close(conns[i]);
	}
	return weir_scope_wait(&scope);
}

START_TEST(draining_serves_those_who_were_handed_over)
{
	ck_assert_int_eq(weir_run(drain, NULL, .workers = 3, .drain_ns = 10 * WEIR_SEC), 0);
	ck_assert_uint_eq(all, 8);
}
END_TEST

Suite *io_balance_suite(void)
{
	Suite *suite = suite_create("io_balance");
	TCase *balance = tcase_create("balance");

	tcase_set_tags(balance, "fast");
	tcase_set_timeout(balance, 20);
	tcase_add_test(balance, handing_over_is_even);
	tcase_add_test(balance, the_caller_s_worker_keeps_them_all);
	tcase_add_test(balance, a_balance_that_is_none_is_refused);
	tcase_add_test(balance, the_kernel_s_choice_is_roughly_even);
	tcase_add_loop_test(balance, no_worker_has_more_than_conns_max, 0, 2);
	tcase_add_test(balance, one_host_has_one_worker);
	tcase_add_test(balance, clients_without_a_host_go_where_there_are_fewest);
	tcase_add_test(balance, of_workers_with_equally_few_each_has_its_turn);
	tcase_add_test(balance, a_server_that_hands_over_ends_at_any_time);
	tcase_add_test(balance, draining_serves_those_who_were_handed_over);
	suite_add_tcase(suite, balance);
	/* addresses of the kernel's loopback, and clients outside */
	balance = tcase_create("hosts");
	tcase_set_tags(balance, "fast real");
	tcase_set_timeout(balance, 20);
	tcase_add_test(balance, hosts_are_spread_and_each_keeps_its_worker);
	tcase_add_test(balance, a_client_without_memory_takes_nobodys_place);
	suite_add_tcase(suite, balance);
	return suite;
}
