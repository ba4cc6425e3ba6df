/* SPDX-License-Identifier: MIT */
/*
 * sim_copy.c: scenarios of copying: through a proxy every byte comes once and in order, in both
 * directions at once; a half that has ended stays ended while the other goes on; what a limited
 * copy has left is the next one's.
 */
#include "sim.h"

enum { THERE_BYTES = 25000, BACK_BYTES = 16000 };

static unsigned char byte_at(unsigned key, size_t i)
{
	return (unsigned char)((i * 31 + (i >> 8) + key) & 0xff);
}

/* ---- Who is at the ends ------------------------------------------------- */

/* Sends its stream from one place to another, in pieces. */
static int speak(weir_conn *conn, unsigned key, size_t at, size_t end)
{
	unsigned char part[3000];
	int err = 0;

	while (at < end && err == 0) {
		size_t len = 1 + pick(sizeof part);
		len = len < end - at ? len : end - at;
		for (size_t i = 0; i < len; i++)
			part[i] = byte_at(key, at + i);
		ssize_t n = weir_write(conn, part, len);
		err = n < 0 ? (int)n : 0;
		at += n > 0 ? (size_t)n : 0;
		if (err == 0 && pick(8) == 0)
			err = weir_sleep(some_time());
	}
	return err;
}

/* Reads to the end, which comes behind all of the stream or with an error. */
static int listen_to(weir_conn *conn, unsigned key, size_t bytes)
{
	weir_auto_buf buf = WEIR_BUF_INIT;
	size_t at = 0;
	ssize_t n;

	while ((n = weir_recv(conn, &buf)) > 0) {
		for (size_t i = 0; i < buf.len; i++)
			claim((unsigned char)buf.data[i] == byte_at(key, at + i));
		at += buf.len;
	}
	claim(at <= bytes);
	if (n == 0)
		claim(at == bytes || !sim_is_plain);
	return (int)n;
}

static int speak_back(void *conn)
{
	return depended_on(speak(conn, 2, 0, BACK_BYTES / 2));
}

/* The rest of the answer waits for the end of the question. */
static int server(weir_conn *conn)
{
	WEIR_SCOPE(both, WEIR_FOREVER);
	int err = weir_spawn(&both, speak_back, conn);

	if (err == 0)
		err = listen_to(conn, 1, THERE_BYTES);
	if (err == 0)
		err = weir_scope_wait(&both);
	if (err == 0)
		err = speak(conn, 2, BACK_BYTES / 2, BACK_BYTES);
	return err == 0 ? weir_shutdown(conn) : err;
}

static int speak_there(void *conn)
{
	int err = speak(conn, 1, 0, THERE_BYTES);

	return depended_on(err == 0 ? weir_shutdown(conn) : err);
}

static int client(void *address)
{
	weir_auto_conn conn = NULL;
	int err = weir_connect(&conn, address);

	if (err < 0)
		return err;
	WEIR_SCOPE(both, WEIR_FOREVER);
	err = weir_spawn(&both, speak_there, conn);
	if (err == 0)
		err = listen_to(conn, 2, BACK_BYTES);
	return err == 0 ? weir_scope_wait(&both) : err;
}

/* ---- Who is between ----------------------------------------------------- */

static int relay(weir_conn *near)
{
	weir_auto_conn far = NULL;
	int64_t there = 0, back = 0;
	int err = weir_connect(&far, weir_conn_user(near));

	if (err < 0)
		return err;
	err = weir_copy_both(weir_end_conn(near), weir_end_conn(far), .a_to_b = &there,
			     .b_to_a = &back);
	claim(there <= THERE_BYTES && back <= BACK_BYTES);
	if (err == 0 && sim_is_plain)
		claim(there == THERE_BYTES && back == BACK_BYTES);
	return err;
}

struct halves {
	weir_conn *from, *to;
	size_t bytes;
};

/* Part by part, and the end by hand; parts of parts go through a pipe. */
static int copy_parts(struct halves *halves)
{
	weir_auto_stream in = NULL;
	weir_auto_stream out = NULL;
	int64_t moved = 0, sum = 0, n, most;
	int err = weir_pipe(&in, &out);

	if (err < 0)
		return err;
	do {
		most = 1 + (int64_t)pick(4000);
		if (pick(3) == 0) {
			most = most < 500 ? most : 500; /* no pipe is so small */
			n = weir_copy(weir_end_conn(halves->from), weir_end_stream(out),
				      .bytes_max = most);
			if (n > 0)
				n = weir_copy(weir_end_stream(in), weir_end_conn(halves->to),
					      .bytes_max = n, .moved = &moved);
		} else {
			n = weir_copy(weir_end_conn(halves->from), weir_end_conn(halves->to),
				      .bytes_max = most, .moved = &moved,
				      .ahead = (unsigned)pick(4));
		}
		sum += n > 0 ? n : 0;
		claim(n < 0 || (n <= most && moved == sum));
	} while (n == most);
	if (n < 0)
		return (int)n;
	claim((size_t)sum == halves->bytes || !sim_is_plain);
	return weir_shutdown(halves->to);
}

static int copy_parts_back(void *halves)
{
	return depended_on(copy_parts(halves));
}

static int relay_parts(weir_conn *near)
{
	weir_auto_conn far = NULL;
	int err = weir_connect(&far, weir_conn_user(near));

	if (err < 0)
		return err;
	struct halves there = { near, far, THERE_BYTES }, back = { far, near, BACK_BYTES };
	WEIR_SCOPE(both, WEIR_FOREVER);
	err = weir_spawn(&both, copy_parts_back, &back);
	if (err == 0)
		err = copy_parts(&there);
	return err == 0 ? weir_scope_wait(&both) : err;
}

/* ---- All of it ---------------------------------------------------------- */

struct service {
	weir_listener *listener;
	weir_handler handler;
	const char *to;
};

static int serve(void *arg)
{
	struct service *service = arg;

	return depended_on(
		weir_serve(service->listener, service->handler, .user = (void *)service->to,
			   .balance = pick(2) ? WEIR_BALANCE_HANDOFF : WEIR_BALANCE_REUSEPORT));
}

static int through(weir_handler between)
{
	weir_auto_listener far = NULL;
	weir_auto_listener near = NULL;
	int err = weir_listen(&far, pick(2) ? "127.0.0.1:7000" : "unix:@far");

	if (err == 0)
		err = weir_listen(&near, pick(2) ? "[::1]:7001" : "unix:/run/near");
	if (err < 0)
		return err;
	struct service services[] = { { far, server, NULL },
				      { near, between, weir_listener_address(far) } };
	WEIR_SCOPE(serving, WEIR_FOREVER);
	for (int i = 0; i < 2 && err == 0; i++)
		err = weir_spawn(&serving, serve, &services[i]);
	WEIR_SCOPE(clients, WEIR_FOREVER);
	for (int i = 0; i < 2 && err == 0; i++)
		err = weir_spawn(&clients, client, (void *)weir_listener_address(near),
				 .worker = some_worker());
	return err == 0 ? weir_scope_wait(&clients) : err;
}

static int relayed(void *arg)
{
	(void)arg;
	return through(relay);
}

static int copied_in_parts(void *arg)
{
	(void)arg;
	return through(relay_parts);
}

const struct sim_scenario sim_copy_scenarios[] = {
	{ "relayed", relayed },
	{ "copied_in_parts", copied_in_parts },
	{ NULL, NULL },
};
