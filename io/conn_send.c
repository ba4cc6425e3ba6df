/* SPDX-License-Identifier: MIT */
/*
 * conn_send.c: sending over a connection.
 *
 * Comes from: user code. Goes to: the driver, and back when it is done with the bytes.
 *
 * Sending a lease is the connection's business: weir_send() hands it over and returns; the next one
 * waits for it, so one is in flight and order is kept. weir_write() sends from the caller's memory
 * and so waits for the end; its operation lies on the task's stack.
 */
#include "io/conn.h"

#include <errno.h>
#include <string.h>

#include "runtime/wait_kind.h"

static const int64_t LINGER_NS = 5 * WEIR_SEC;

/* ---- The lease in flight ------------------------------------------------ */

enum { SEND_BYTES_MAX = 1 << 30 }; /* one operation's length is 32 bits */

static void wake_writer(weir_conn *conn, int result)
{
	struct weir__task *writer = conn->writer;

	if (!writer)
		return;
	conn->writer = NULL;
	weir__ready(conn->worker, writer, result);
}

/* Broken, short, or awaited. */
static __attribute__((noinline)) void send_done_oddly(struct weir__op *op)
{
	weir_conn *conn = op->owner;
	/* the rest of a short one, which may end at once, and short again */
	while (op->res > 0 && (size_t)op->res < op->len && !conn->is_send_cancelled) {
		op->data = (char *)op->data + op->res;
		op->len -= (size_t)op->res;
		if (!conn->io->ops->start(conn->io, op))
			return;
	}
	conn->send_state = op->res < 0 ? WEIR__SEND_BROKEN : WEIR__SEND_IDLE;
	conn->send_error = op->res;
	weir__block_drop(conn->sent);
	wake_writer(conn, 0);
	if (conn->closer)
		weir__conn_wake_closer(conn);
}

static void send_done(struct weir__op *op)
{
	weir_conn *conn = op->owner;

	if (__builtin_expect((size_t)op->res != op->len || conn->writer || conn->closer, 0)) {
		send_done_oddly(op);
		return;
	}
	conn->send_state = WEIR__SEND_IDLE;
	weir__block_drop(conn->sent);
}

static void writer_abort(struct weir__task *task, int why)
{
	weir_conn *conn = task->wait;

	conn->writer = NULL;
	weir__ready(task->worker, task, why);
}

WEIR__WAIT_KIND(writer_abort, "send", weir__conn_describe);

/* Parks until the lease in flight is sent; 0, or the error it ended with, told once. */
static int await_sent(struct weir__worker *self, weir_conn *conn, int64_t until_ns)
{
	int err = 0;

	if (conn->writer || conn->send_state == WEIR__SEND_CALLER)
		return -EBUSY;
	if (conn->send_state == WEIR__SEND_LEASE) {
		conn->writer = self->current;
		conn->inside++;
		conn->io->is_send_awaited = true;
		err = weir__park_until(self, writer_abort, conn, until_ns);
		weir__conn_leave(conn);
	}
	if (err == 0 && conn->send_state == WEIR__SEND_BROKEN) {
		err = conn->send_error;
		conn->send_state = WEIR__SEND_IDLE;
	}
	return err;
}

/* Again: who ran between our wake-up and now may have sent, or cancelled us. */
static __attribute__((noinline)) int await_idle(struct weir__worker *self, weir_conn *conn)
{
	int err;

	do {
		err = await_sent(self, conn, INT64_MAX);
		if (err == 0)
			err = conn->is_closing ? -ECANCELED
					       : weir__interrupted(self, self->current);
	} while (err == 0 && conn->send_state != WEIR__SEND_IDLE);
	return err;
}

int weir__conn_may_send(struct weir__worker *self, weir_conn *conn)
{
	int err = weir__conn_may_park(conn, self);

	if (err == 0 && conn->send_state != WEIR__SEND_IDLE)
		err = await_idle(self, conn);
	return err;
}

/* ---- Sending ------------------------------------------------------------ */

/* The driver has refused the lease, or found the stream broken: nobody else need be told. */
static __attribute__((noinline)) ssize_t tell_broken(weir_conn *conn)
{
	conn->send_state = WEIR__SEND_IDLE;
	return conn->send_error;
}

/* What a driver does that has no shorter way for a connection's send. */
ssize_t weir__conn_send(struct weir__io *io, struct weir__op *op)
{
	weir_conn *conn = op->owner;
	ssize_t len = (ssize_t)op->len;

	if (io->ops->start(io, op)) {
		send_done(op);
		if (__builtin_expect(conn->send_state == WEIR__SEND_BROKEN, 0))
			return tell_broken(conn);
	}
	return len;
}

/*
 * The lease goes to the driver, all of its 1 to SEND_BYTES_MAX bytes. Returns how many, or -errno
 * when it is known already that they do not go out.
 */
static inline ssize_t send_lease(weir_conn *conn, weir_buf *buf)
{
	struct weir__op *op = &conn->send;

	op->data = buf->data;
	op->len = buf->len;
	conn->sent = buf->block;
	conn->send_state = WEIR__SEND_LEASE;
	*buf = (weir_buf)WEIR_BUF_INIT;
	return conn->io->ops->send(conn->io, op);
}

static __attribute__((noinline)) ssize_t send_oddly(weir_conn *conn, weir_buf *buf)
{
	struct weir__worker *self = weir__worker_self();
	int err = weir__conn_may_send(self, conn);

	if (err < 0 || buf->len == 0 || buf->len > SEND_BYTES_MAX) {
		ssize_t n = err < 0 ? err : weir_write(conn, buf->data, buf->len);
		weir_buf_release(buf);
		return n;
	}
	ssize_t n = send_lease(conn, buf);
	weir__budget_spend(self);
	return n;
}

ssize_t weir_send(weir_conn *conn, weir_buf *buf)
{
	struct weir__worker *self = weir__worker_self();

	if (__builtin_expect(conn->worker != self || conn->send_state != WEIR__SEND_IDLE ||
				     buf->len - 1 >= SEND_BYTES_MAX || self->budget <= 0 ||
				     !self->current || !weir__is_calm(self, self->current),
			     0))
		return send_oddly(conn, buf);
	self->budget--;
	return send_lease(conn, buf);
}

/* One operation on the caller's memory, to its end. Returns the bytes sent, or -errno when none
 * were. */
static ssize_t send_some(weir_conn *conn, const char *data, size_t len)
{
	struct weir__op op;

	weir__op_init(&op, WEIR__OP_SEND, &conn->handle);
	op.data = (void *)data;
	op.len = len < SEND_BYTES_MAX ? len : SEND_BYTES_MAX;
	conn->send_state = WEIR__SEND_CALLER;
	ssize_t n = weir__conn_run(conn, &op);
	conn->send_state = WEIR__SEND_IDLE;
	return n;
}

ssize_t weir_write(weir_conn *conn, const void *data, size_t len)
{
	struct weir__worker *self = weir__worker_self();
	size_t sent = 0;
	ssize_t n = weir__conn_may_send(self, conn);

	while (n >= 0 && sent < len) {
		n = send_some(conn, (const char *)data + sent, len - sent);
		if (n > 0)
			sent += (size_t)n;
		if (n > 0 && sent < len &&
		    (conn->is_closing || weir__conn_may_park(conn, self) < 0))
			break;
	}
	return sent > 0 ? (ssize_t)sent : n;
}

int weir_shutdown(weir_conn *conn)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__op op = { .code = WEIR__OP_SHUTDOWN, .handle = &conn->handle };
	int err = weir__conn_may_send(self, conn);

	return err < 0 ? err : weir__conn_run(conn, &op);
}

/* ---- Life --------------------------------------------------------------- */

void weir__conn_send_init(weir_conn *conn)
{
	weir__conn_keep_op(conn, &conn->send, WEIR__OP_SEND, send_done);
}

void weir__conn_send_wake(weir_conn *conn)
{
	wake_writer(conn, -ECANCELED);
}

void weir__conn_send_linger(weir_conn *conn)
{
	struct weir__worker *self = conn->worker;

	if (conn->send_state == WEIR__SEND_LEASE && weir__interrupted(self, self->current) == 0)
		(void)await_sent(self, conn, weir__clock_ns() + LINGER_NS);
}

void weir__conn_send_cancel(weir_conn *conn)
{
	conn->is_send_cancelled = true;
	if (conn->send_state == WEIR__SEND_LEASE)
		conn->io->ops->cancel(conn->io, &conn->send);
}
