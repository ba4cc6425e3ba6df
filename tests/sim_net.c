/* SPDX-License-Identifier: MIT */
/*
 * sim_net.c: scenarios of connections: every byte arrives once and in order, or an error says that
 * the stream is broken; every connection is closed; whoever waits is told of the end.
 */
#include "sim.h"
#include "echo_test.h"

/* ---- Shared ------------------------------------------------------------- */

static enum weir_balance some_balance(void)
{
	static const enum weir_balance all[] = { WEIR_BALANCE_REUSEPORT, WEIR_BALANCE_HANDOFF,
						 WEIR_BALANCE_HASH };
	return all[pick(3)];
}

static int serve_echo(void *listener)
{
	return depended_on(weir_serve(listener, echo, .balance = some_balance()));
}

static const char *some_address(void)
{
	static const char *const addresses[] = { "127.0.0.1:0", "[::1]:0", ":0", "unix:@server",
						 "unix:/run/server" };

	return addresses[pick(5)];
}

/* A server, and clients that are given its address; ends when they have. */
static int serve_clients(weir_fn server, int backlog, weir_fn client, int count)
{
	weir_auto_listener listener = NULL;
	int err = weir_listen(&listener, some_address(), .backlog = backlog);

	if (err < 0)
		return err;
	WEIR_SCOPE(serving, WEIR_FOREVER);
	err = weir_spawn(&serving, server, listener);
	WEIR_SCOPE(clients, WEIR_FOREVER);
	for (int i = 0; i < count && err == 0; i++)
		err = weir_spawn(&clients, client, (void *)weir_listener_address(listener),
				 .worker = some_worker());
	return err == 0 ? weir_scope_wait(&clients) : err;
}

/* A short count means that the next call says why. */
static int write_all(weir_conn *conn, const void *data, size_t len)
{
	const char *from = data;
	ssize_t n = 0;

	for (size_t sent = 0; sent < len; sent += (size_t)n)
		if ((n = weir_write(conn, from + sent, len - sent)) < 0)
			return (int)n;
	return 0;
}

/* A stream that says where it is: byte i of stream `key`. */
static unsigned char byte_at(unsigned key, size_t i)
{
	return (unsigned char)((i * 31 + (i >> 8) + key) & 0xff);
}

/* ---- Echo --------------------------------------------------------------- */

static int echo_client(void *address)
{
	weir_auto_conn conn = NULL;
	unsigned char sent[2000], back[2000];
	int err = weir_connect(&conn, address);

	for (unsigned round = 0; err == 0 && round < 6; round++) {
		size_t len = 1 + pick(pick(2) ? sizeof sent : 20);
		for (size_t i = 0; i < len; i++)
			sent[i] = byte_at(round, i);
		err = write_all(conn, sent, len);
		if (err == 0)
			err = weir_read_full(conn, back, len);
		if (err == 0)
			claim(memcmp(sent, back, len) == 0);
		if (err == 0 && pick(4) == 0)
			err = weir_sleep(some_time());
	}
	return err;
}

static int echo_service(void *arg)
{
	(void)arg;
	return serve_clients(serve_echo, 0, echo_client, 8);
}

/* ---- A long stream, half closed ----------------------------------------- */

enum { BULK_BYTES = 150000 };

static int send_bulk(void *arg)
{
	weir_conn *conn = arg;
	unsigned char part[5000];
	size_t sent = 0;
	int err = 0;

	while (err == 0 && sent < BULK_BYTES) {
		size_t len = 1 + pick(sizeof part);
		if (len > BULK_BYTES - sent)
			len = BULK_BYTES - sent;
		for (size_t i = 0; i < len; i++)
			part[i] = byte_at(7, sent + i);
		err = write_all(conn, part, len);
		sent += len;
	}
	return depended_on(err == 0 ? weir_shutdown(conn) : err);
}

/* Until the end; whatever came is a prefix of what was sent. */
static int receive_bulk(weir_conn *conn, size_t *ret_count)
{
	weir_auto_buf buf = WEIR_BUF_INIT;
	size_t count = 0;
	ssize_t n;

	while ((n = weir_recv(conn, &buf)) > 0) {
		claim(buf.len == (size_t)n);
		for (size_t i = 0; i < buf.len; i++)
			claim((unsigned char)buf.data[i] == byte_at(7, count + i));
		count += buf.len;
		if (pick(8) == 0 && (n = weir_sleep(some_time())) < 0)
			break;
	}
	*ret_count = count;
	return (int)n;
}

static int bulk_client(void *address)
{
	weir_auto_conn conn = NULL;
	size_t count;
	int err = weir_connect(&conn, address);

	if (err < 0)
		return err;
	WEIR_SCOPE(sender, WEIR_FOREVER);
	err = weir_spawn(&sender, send_bulk, conn);
	if (err < 0)
		return err;
	err = receive_bulk(conn, &count);
	claim(count <= BULK_BYTES);
	if (err == 0)
		err = weir_scope_wait(&sender);
	if (err == 0)
		claim(count == BULK_BYTES || !sim_is_plain);
	return err;
}

/* The echo ends its half when the client has: the last lease goes out first. */
static int bulk_service(void *arg)
{
	(void)arg;
	return serve_clients(serve_echo, 0, bulk_client, 2);
}

/* ---- Bytes beat timeouts ------------------------------------------------ */

/* Receives with deadlines that are often just too short; nothing is lost between two tries. */
static int impatient(weir_conn *conn)
{
	weir_auto_buf buf = WEIR_BUF_INIT;
	size_t count = 0;
	ssize_t n;

	for (;;) {
		WEIR_SCOPE(patience, some_time() / 4);
		n = weir_recv(conn, &buf);
		for (size_t i = 0; n > 0 && i < buf.len; i++)
			claim((unsigned char)buf.data[i] == byte_at(3, count + i));
		if (n > 0)
			count += buf.len;
		if (n <= 0 && n != -ETIME)
			break;
		claim(n != -ETIMEDOUT);
	}
	if (n == 0) /* the client ended its half: everything had come */
		claim(count == 600 || !sim_is_plain);
	return (int)n;
}

static int serve_impatient(void *listener)
{
	return depended_on(weir_serve(listener, impatient, .balance = some_balance()));
}

static int slow_client(void *address)
{
	weir_auto_conn conn = NULL;
	unsigned char part[60];
	char end;
	int err = weir_connect(&conn, address);

	for (size_t sent = 0; err == 0 && sent < 600; sent += sizeof part) {
		for (size_t i = 0; i < sizeof part; i++)
			part[i] = byte_at(3, sent + i);
		err = write_all(conn, part, sizeof part);
		if (err == 0)
			err = weir_sleep(some_time());
	}
	if (err == 0)
		err = weir_shutdown(conn);
	if (err == 0)
		err = weir_read_full(conn, &end, 1);
	return err == -ENODATA ? 0 : err; /* the server has read to the end, and closed */
}

static int bytes_beat_timeouts(void *arg)
{
	(void)arg;
	return serve_clients(serve_impatient, 0, slow_client, 3);
}

/* ---- Accepted, and never lost ------------------------------------------- */

enum { CALLERS = 8 };

struct reception {
	weir_listener *listener;
	unsigned served;
	unsigned greeted;
	unsigned done;
};

/* Accepts with deadlines that race with the clients: who has connected is served. */
static int accept_impatiently(void *arg)
{
	struct reception *reception = arg;
	int err = 0;

	while (reception->done < CALLERS && (err == 0 || err == -ETIME)) {
		weir_auto_conn conn = NULL;
		WEIR_SCOPE(patience, 200 * WEIR_US + some_time());
		err = weir_accept(reception->listener, &conn);
		if (err < 0)
			continue;
		reception->served++;
		WEIR_SHIELD(manners, WEIR_SEC);
		err = write_all(conn, "hello", 5);
	}
	return depended_on(err == -ETIME ? 0 : err);
}

static int caller(void *arg)
{
	struct reception *reception = arg;
	weir_auto_conn conn = NULL;
	char word[5];
	int err = weir_connect(&conn, weir_listener_address(reception->listener));

	if (err == 0)
		err = weir_read_full(conn, word, sizeof word);
	if (err == 0) {
		claim(memcmp(word, "hello", 5) == 0);
		reception->greeted++;
	}
	reception->done++;
	return err;
}

static int accepted_is_never_lost(void *arg)
{
	weir_auto_listener listener = NULL;
	struct reception reception = { 0 };
	int err = weir_listen(&listener, some_address());

	(void)arg;
	if (err < 0)
		return err;
	reception.listener = listener;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	err = weir_spawn(&scope, accept_impatiently, &reception);
	for (int i = 0; i < CALLERS && err == 0; i++)
		err = weir_spawn(&scope, caller, &reception, .worker = some_worker());
	if (err == 0)
		err = weir_scope_wait(&scope);
	if (err == 0)
		claim((reception.served == CALLERS && reception.greeted == CALLERS) ||
		      !sim_is_plain);
	return err;
}

/* ---- Closing under somebody's feet -------------------------------------- */

struct pair {
	weir_conn *conn;
	bool is_closed, has_read, has_written;
};

static int read_until_closed(void *arg)
{
	struct pair *pair = arg;
	weir_auto_buf buf = WEIR_BUF_INIT;

	while (!pair->is_closed && weir_recv(pair->conn, &buf) > 0)
		;
	pair->has_read = true;
	return 0;
}

static int write_until_closed(void *arg)
{
	struct pair *pair = arg;
	char block[10000] = "";

	while (!pair->is_closed && weir_write(pair->conn, block, sizeof block) > 0)
		;
	pair->has_written = true;
	return 0;
}

/* Neither reads nor ends until the peer does. */
static int ignore(weir_conn *conn)
{
	(void)conn;
	return weir_sleep(WEIR_SEC);
}

static int serve_ignoring(void *listener)
{
	return depended_on(weir_serve(listener, ignore, .balance = some_balance()));
}

/* The reader and the writer are inside calls when the connection is closed: the calls return. */
static int close_while_parked(void *arg)
{
	weir_auto_listener listener = NULL;
	struct pair pair = { 0 };
	int err = weir_listen(&listener, some_address());

	(void)arg;
	if (err < 0)
		return err;
	WEIR_SCOPE(server, WEIR_FOREVER);
	err = weir_spawn(&server, serve_ignoring, listener);
	if (err == 0)
		err = weir_connect(&pair.conn, weir_listener_address(listener));
	if (err < 0)
		return err;
	WEIR_SCOPE(inside, WEIR_FOREVER);
	err = weir_spawn(&inside, read_until_closed, &pair);
	if (err == 0)
		err = weir_spawn(&inside, write_until_closed, &pair);
	int slept = weir_sleep(WEIR_MS + some_time());
	pair.is_closed = true;
	weir_conn_close(pair.conn);
	if (err == 0)
		err = weir_scope_wait(&inside);
	if (err == 0 && slept == 0)
		claim((pair.has_read && pair.has_written) || !sim_is_plain);
	return err == 0 ? slept : err;
}

/* ---- Closing a listener that somebody accepts from ---------------------- */

struct door {
	weir_listener *listener;
	char address[128];
	bool is_closed;
	int result;
};

static int wait_at_the_door(void *arg)
{
	struct door *door = arg;

	while (door->result == 0 && !door->is_closed) {
		weir_auto_conn conn = NULL;
		door->result = weir_accept(door->listener, &conn);
	}
	return 0;
}

static int knock(void *arg)
{
	struct door *door = arg;
	weir_auto_conn conn = NULL;

	for (int i = 0; i < 4; i++) {
		int err = weir_sleep(some_time());
		weir_conn_close(conn);
		conn = NULL;
		if (err == 0)
			err = weir_connect(&conn, door->address);
		if (err == -ECANCELED)
			return err;
	}
	return 0;
}

static int close_while_accepting(void *arg)
{
	struct door door = { 0 };
	int err = weir_listen(&door.listener, some_address());

	(void)arg;
	if (err < 0)
		return err;
	snprintf(door.address, sizeof door.address, "%s", weir_listener_address(door.listener));
	WEIR_SCOPE(scope, WEIR_FOREVER);
	err = weir_spawn(&scope, wait_at_the_door, &door);
	if (err == 0)
		err = weir_spawn(&scope, knock, &door);
	int slept = weir_sleep(WEIR_US + some_time());
	door.is_closed = true;
	weir_listener_close(door.listener);
	if (err == 0)
		err = weir_scope_wait(&scope);
	if (err == 0)
		claim(door.result == -ECANCELED || door.result == 0 || !sim_is_plain);
	return err == 0 ? slept : err;
}

/* ---- Drain and stop ----------------------------------------------------- */

static int stop_soon(void *arg)
{
	(void)arg;
	int err = weir_sleep(some_time());
	weir_stop();
	return err;
}

static int talk_until_the_end(void *address)
{
	weir_auto_conn conn = NULL;
	char word[4];
	int err = weir_connect(&conn, address);

	for (int i = 0; err == 0 && i < 20; i++) {
		err = write_all(conn, "ping", 4);
		if (err == 0)
			err = weir_read_full(conn, word, 4);
		if (err == 0)
			claim(memcmp(word, "ping", 4) == 0);
	}
	return 0; /* a server that stops may refuse or break off */
}

static int serve_drain_stop(void *arg)
{
	weir_auto_listener listener = NULL;
	struct weir_serve_stats stats;
	int err = weir_listen(&listener, some_address());

	(void)arg;
	if (err < 0)
		return err;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (int i = 0; i < 6 && err == 0; i++)
		err = weir_spawn(&scope, talk_until_the_end,
				 (void *)weir_listener_address(listener), .worker = some_worker());
	if (err == 0)
		err = weir_spawn(&scope, stop_soon, NULL);
	if (err < 0)
		return err;
	err = weir_serve(listener, echo, .conns_max = 1 + (unsigned)pick(4),
			 .balance = some_balance());
	weir_serve_stats_get(&stats);
	claim(stats.open == 0);
	return err == -ECANCELED ? 0 : err;
}

/* ---- The fastest wins --------------------------------------------------- */

struct race {
	const char *address;
	struct weir_scope *scope;
	unsigned winners;
};

static int run_race(void *arg)
{
	struct race *race = arg;
	weir_auto_conn conn = NULL;
	char word[6];
	int err = weir_connect(&conn, race->address);

	if (err == 0)
		err = write_all(conn, "faster", 6);
	if (err == 0)
		err = weir_read_full(conn, word, 6);
	if (err == 0) {
		claim(memcmp(word, "faster", 6) == 0);
		race->winners++;
		weir_scope_cancel(race->scope);
	}
	return err;
}

static int fastest(void *arg)
{
	weir_auto_listener listener = NULL;
	int err = weir_listen(&listener, some_address());

	(void)arg;
	if (err < 0)
		return err;
	WEIR_SCOPE(server, WEIR_FOREVER);
	err = weir_spawn(&server, serve_echo, listener);
	if (err < 0)
		return err;
	struct race race = { .address = weir_listener_address(listener) };
	WEIR_SCOPE(scope, WEIR_FOREVER);
	race.scope = &scope;
	for (int i = 0; i < 4 && err == 0; i++)
		err = weir_spawn(&scope, run_race, &race, .worker = some_worker());
	if (err == 0 || err == -ECANCELED)
		err = weir_scope_wait(&scope);
	if (err == -ECANCELED && race.winners > 0)
		err = 0;
	if (err == 0)
		claim(race.winners >= 1 || !sim_is_plain);
	return err;
}

/* ---- Lines through a proxy ---------------------------------------------- */

/* Who talks through it waits for each answer: whatever ends is the end of it all. */
static int proxy(weir_conn *client)
{
	weir_auto_conn server = NULL;
	int64_t there = 0, back = 0;
	int err = weir_connect(&server, weir_conn_user(client));

	if (err < 0)
		return err;
	err = weir_copy_both(weir_end_conn(client), weir_end_conn(server), .a_to_b = &there,
			     .b_to_a = &back, .idle_ns = pick(2) ? 3600 * WEIR_SEC : 0,
			     .ends_together = pick(2));
	claim(back <= there);
	return err;
}

struct proxying {
	weir_listener *listener;
	const char *to;
};

static int serve_proxy(void *arg)
{
	struct proxying *proxying = arg;

	return depended_on(weir_serve(proxying->listener, proxy, .user = (void *)proxying->to));
}

static int talk_in_lines(void *address)
{
	weir_auto_conn conn = NULL;
	char line[64], back[64];
	int err = weir_connect(&conn, address);

	for (int i = 0; err == 0 && i < 8; i++) {
		int len = snprintf(line, sizeof line, "line %d of %0*d\n", i, 1 + (int)pick(40), 8);
		err = write_all(conn, line, (size_t)len);
		if (err < 0)
			break;
		ssize_t n = weir_read_until(conn, '\n', back, sizeof back);
		if (n > 0)
			claim(n == len && memcmp(line, back, (size_t)len) == 0);
		err = n == 0 ? -ENODATA : n < 0 ? (int)n : 0;
	}
	return err;
}

static int lines_through_a_proxy(void *arg)
{
	weir_auto_listener server = NULL;
	weir_auto_listener front = NULL;
	int err = weir_listen(&server, "127.0.0.1:7000");

	(void)arg;
	if (err == 0)
		err = weir_listen(&front, "unix:@front");
	if (err < 0)
		return err;
	struct proxying proxying = { front, weir_listener_address(server) };
	WEIR_SCOPE(servers, WEIR_FOREVER);
	err = weir_spawn(&servers, serve_echo, server);
	if (err == 0)
		err = weir_spawn(&servers, serve_proxy, &proxying);
	WEIR_SCOPE(clients, WEIR_FOREVER);
	for (int i = 0; i < 3 && err == 0; i++)
		err = weir_spawn(&clients, talk_in_lines, (void *)weir_listener_address(front),
				 .worker = some_worker());
	return err == 0 ? weir_scope_wait(&clients) : err;
}

/* ---- Who comes and goes ------------------------------------------------- */

/* Connects with a deadline, talks with another, leaves in the middle. */
static int restless(void *address)
{
	for (int i = 0; i < 5; i++) {
		weir_auto_conn conn = NULL;
		weir_auto_buf buf = WEIR_BUF_INIT;
		char name[64], block[3000] = "";
		WEIR_SCOPE(patience, 1 + some_time());
		int err = weir_connect(&conn, address);
		if (err == 0)
			err = weir_conn_peer(conn, name, sizeof name);
		if (err == 0)
			err = write_all(conn, block, 1 + pick(sizeof block));
		if (err == 0)
			err = (int)weir_recv(conn, &buf);
		if (err == -ECANCELED)
			return err;
	}
	return 0;
}

static int names_and_echoes(weir_conn *conn)
{
	char name[64];
	int err = weir_conn_peer(conn, name, sizeof name);

	return err < 0 ? err : echo(conn);
}

static int serve_names(void *listener)
{
	return depended_on(
		weir_serve(listener, names_and_echoes, .conns_max = 2, .balance = some_balance()));
}

static int coming_and_going(void *arg)
{
	(void)arg;
	return serve_clients(serve_names, 1 + (int)pick(4), restless, 6);
}

const struct sim_scenario sim_net_scenarios[] = {
	{ "echo", echo_service },
	{ "bulk", bulk_service },
	{ "bytes_beat_timeouts", bytes_beat_timeouts },
	{ "accepted_is_never_lost", accepted_is_never_lost },
	{ "close_while_parked", close_while_parked },
	{ "close_while_accepting", close_while_accepting },
	{ "serve_drain_stop", serve_drain_stop },
	{ "fastest", fastest },
	{ "lines_through_a_proxy", lines_through_a_proxy },
	{ "coming_and_going", coming_and_going },
	{ NULL, NULL },
};
