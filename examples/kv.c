/* SPDX-License-Identifier: MIT */
/*
 * kv: a key-value server that Redis clients can talk to (RESP2, RESP3, inline commands).
 *
 *   ./kv :6379
 *   redis-cli set greeting hello
 *   redis-benchmark -q
 *
 * The idea: one worker owns the data, so a command is a plain function that never parks, and needs
 * no lock. Commands are parsed in the lease they arrived in; only a command that is cut off by the
 * end of a read is copied, into a block that grows as its bytes come. The answers to all the
 * commands of one read go out with one send.
 *
 * It relies on: nothing between a command's first line and its last parks; flush() does, and runs
 * only between commands.
 *
 * This file is the clients and the start; kv.h says what the others are.
 */
#include "kv.h"

enum {
	COMMAND_BYTES_MAX = 1 << 30,
	OUT_BYTES_MAX = 64 << 10, /* then it is sent before the next command runs */
};

static const int64_t IDLE_NS = 3600 * WEIR_SEC; /* between commands */
static const int64_t HALF_NS = 60 * WEIR_SEC;	/* of silence inside a command */
static const int64_t SEND_NS = 60 * WEIR_SEC;	/* for a client to take one batch of answers */

/* ---- Clients ------------------------------------------------------------------------------- */

/* Sends what has been built. Returns 0 or the reason why not all of it could go. */
static int flush(struct client *c)
{
	size_t len = c->out.len;

	if (len == 0)
		return 0;
	WEIR_SCOPE(sending, SEND_NS);
	ssize_t n = weir_send(c->conn, &c->out);
	clock_forget();
	return n < 0 ? (int)n : (size_t)n < len ? -ETIME : 0;
}

/* Answers every whole command that has come. Returns 0 or why the client has to go at once. */
static int run_commands(struct client *c)
{
	clock_forget();
	while (!c->closing && !c->err && parse_command(c) > 0) {
		if (c->argc)
			execute(c);
		drop_args(c);
		c->start = c->at;
		if (c->out.len > OUT_BYTES_MAX)
			c->err = flush(c);
	}
	return c->err;
}

static ssize_t receive(struct client *c, weir_buf *ret)
{
	WEIR_SCOPE(waiting, c->pending ? HALF_NS : IDLE_NS);
	return weir_recv(c->conn, ret);
}

/* What is left of the input moves to `to`, and the arguments found so far with it. */
static void move_input(struct client *c, char *to)
{
	char *from = c->start;

	memcpy(to, from, (size_t)(c->end - from));
	for (size_t i = 0; i < c->argc; i++)
		c->argv[i].at = to + (c->argv[i].at - from);
	c->at = to + (c->at - from);
	c->end = to + (c->end - from);
	c->start = to;
}

/* Gives c->pending `cap` bytes with what is left of the input in front. Returns 0 or -ENOMEM. */
static int pending_move(struct client *c, size_t cap)
{
	char *bigger = weir_alloc(cap);

	if (!bigger)
		return -ENOMEM;
	move_input(c, bigger);
	weir_free(c->pending);
	c->pending = bigger;
	c->pending_cap = cap;
	return 0;
}

/* Makes *lease what is parsed next, behind what is pending. */
static int take_input(struct client *c, const weir_buf *lease)
{
	if (!c->pending) {
		c->start = c->at = lease->data;
		c->end = c->start + lease->len;
		return 0;
	}
	size_t len = (size_t)(c->end - c->start) + lease->len;
	if (len > COMMAND_BYTES_MAX)
		return -EMSGSIZE;
	int err = len > c->pending_cap ? pending_move(c, 2 * len) : 0;
	if (err < 0)
		return err;
	memcpy(c->end, lease->data, lease->len);
	c->end += lease->len;
	return 0;
}

/* The lease is about to end: what has not been parsed moves to a block of its own. */
static int keep_rest(struct client *c)
{
	size_t left = (size_t)(c->end - c->start);

	if (left > 0 && c->start != c->pending)
		return pending_move(c, left < 512 ? 1024 : 2 * left);
	if (left == 0) {
		weir_free(c->pending);
		c->pending = NULL;
	}
	return 0;
}

/* One read and the answers to it. Returns 1 to go on, 0 when done, or an error. */
static int turn(struct client *c)
{
	weir_auto_buf lease = WEIR_BUF_INIT;
	ssize_t n = receive(c, &lease);

	if (n <= 0)
		return (int)n;
	int err = take_input(c, &lease);
	if (err == 0)
		err = run_commands(c);
	if (err == 0)
		err = keep_rest(c);
	weir_buf_release(&lease); /* not to be kept while a slow reader takes its answers */
	if (err == 0)
		err = flush(c);
	return err < 0 ? err : !c->closing;
}

static int serve_client(weir_conn *conn)
{
	struct client c = { .conn = conn,
			    .out = WEIR_BUF_INIT,
			    .protocol = 2,
			    .argv = c.args_inline,
			    .args_cap = ARGS_INLINE };
	int more;

	do
		more = turn(&c);
	while (more > 0);
	drop_args(&c);
	weir_free(c.pending);
	weir_buf_release(&c.out);
	return more;
}

/* ---- Start --------------------------------------------------------------------------------- */

static int serve(const char *address)
{
	weir_auto_listener ln = NULL;
	int err = weir_listen(&ln, address);

	if (err < 0)
		return err;
	printf("kv: listening on %s\n", weir_listener_address(ln));
	fflush(stdout);
	WEIR_SCOPE(all, WEIR_FOREVER);
	err = weir_spawn(&all, sweep, NULL, .name = "sweeper");
	if (err == 0)
		err = weir_serve(ln, serve_client, .name = "client");
	return err == -ECANCELED ? weir_scope_wait(&all) : err; /* the sweeper's reason, if it is */
}

static int start(void *address)
{
	int err = store_open();

	commands_init();
	if (err == 0)
		err = serve(address);
	store_close();
	return err;
}

int main(int argc, char **argv)
{
	int err = weir_run(start, argc > 1 ? argv[1] : "127.0.0.1:6379", .workers = 1);

	if (err < 0 && err != -ECANCELED)
		fprintf(stderr, "kv: %s\n", weir_strerror(err));
	return err < 0 && err != -ECANCELED;
}
