/* SPDX-License-Identifier: MIT */
/*
 * conn_recv.c: receiving from a connection.
 *
 * Comes from: ring.c or poll.c (completions of the operation below). Goes to: user code, as leases.
 *
 * Receiving is the connection's business, not the caller's: one receive operation stays armed in
 * the kernel and its completions queue up here as blocks, at most lend_max of them. weir_recv()
 * takes the oldest, or parks without any operation of its own; so its cancellation never touches
 * the kernel, and bytes that arrive late wait for the next call.
 */
#include "io/conn.h"

#include <errno.h>
#include <string.h>

#include "runtime/wait_kind.h"

/* ---- What has come ------------------------------------------------------ */

static void start_recv(weir_conn *conn);

static void enqueue(weir_conn *conn, struct weir__block *block)
{
	block->next = NULL;
	*conn->queue_tail = block;
	conn->queue_tail = &block->next;
	conn->queued++;
	conn->is_drained = false;
}

static struct weir__block *dequeue(weir_conn *conn)
{
	struct weir__block *block = conn->queue;

	conn->queue = block->next;
	if (!conn->queue)
		conn->queue_tail = &conn->queue;
	conn->queued--;
	return block;
}

/*
 * Which size suits what has come: small buffers until one is full, bulk ones until one is nearly
 * empty; in turns when it is well filled and many connections are like this one.
 */
static unsigned suitable_group(const weir_conn *conn, const struct weir__block *block)
{
	const unsigned group = conn->recv.group, conns = conn->io->bulk_conns;
	const unsigned crowd = conn->io->bulk_crowd;

	if (group == WEIR__BUFFER_SMALL)
		return block->len < block->cap ? group : WEIR__BUFFER_BULK;
	if (block->len * 16 < block->cap)
		return WEIR__BUFFER_SMALL;
	if (group == WEIR__BUFFER_BULK)
		return crowd && conns >= crowd && block->len * 2 >= block->cap ? WEIR__BUFFER_TURNS
									       : group;
	return conns * 2 < crowd || block->len * 4 < block->cap ? WEIR__BUFFER_BULK : group;
}

/*
 * Larger ones when the last two were wanted, others when those of some time were. Another size
 * takes another operation: this one is cancelled.
 */
static void choose_group(weir_conn *conn, const struct weir__block *block)
{
	unsigned group = suitable_group(conn, block);

	if (group == conn->recv.group)
		conn->misfits = 0;
	else if (++conn->misfits >= (group > conn->recv.group ? 2 : 64))
		conn->wants_group = (uint8_t)group;
}

/* Counts the connection among those with bulk buffers, or not. */
static void use_group(weir_conn *conn, unsigned group)
{
	conn->io->bulk_conns +=
		(group != WEIR__BUFFER_SMALL) - (conn->recv.group != WEIR__BUFFER_SMALL);
	conn->recv.group = (uint8_t)group;
	conn->misfits = 0;
}

/* Behind the common case: full buffers, another size wanted, a reader that lags. */
static void look_closer(weir_conn *conn, struct weir__op *op, const struct weir__block *block)
{
	choose_group(conn, block);
	conn->is_odd = conn->misfits || op->group || conn->wants_group != op->group;
	if (op->more && (conn->queued >= conn->lend_max || conn->wants_group != op->group))
		conn->io->ops->cancel(conn->io, op);
}

static inline void wake_reader(weir_conn *conn, int result)
{
	struct weir__task *reader = conn->reader;

	conn->reader = NULL;
	weir__ready(conn->worker, reader, result);
}

static void take_end(weir_conn *conn, int res)
{
	if (res == 0)
		conn->end = WEIR__CONN_EOF;
	else if (res != -ECANCELED) /* we asked for that ourselves: the stream goes on */
		conn->end = res;
}

/*
 * How the receiving has ended: 0 or -errno. What says nothing about the stream is told once, and
 * the next receive tries again: memory may be there by then.
 */
static int tell_end(weir_conn *conn)
{
	int end = conn->end;

	if (end == -ENOMEM || end == -ENOBUFS)
		conn->end = 0;
	return end == WEIR__CONN_EOF ? 0 : end;
}

static void recv_ended(weir_conn *conn, struct weir__op *op)
{
	if (op->res <= 0)
		take_end(conn, op->res);
	if (conn->closer)
		weir__conn_wake_closer(conn);
	else if (conn->reader && conn->end)
		wake_reader(conn, tell_end(conn));
	else if (conn->reader)
		start_recv(conn); /* it ended with nothing for the reader who waits */
}

static inline void lend(weir_buf *to, struct weir__block *block)
{
	to->data = block->base;
	to->len = block->len;
	to->cap = block->cap;
	to->block = block;
}

static __attribute__((noinline)) void recv_done(struct weir__op *op)
{
	weir_conn *conn = op->owner;
	struct weir__block *block = op->block;

	conn->is_receiving = op->more;
	conn->is_drained = conn->is_drained && op->more;
	if (block) {
		block->len = (size_t)op->res;
		if (conn->reader) {
			lend(conn->into, block);
			wake_reader(conn, op->res);
		} else {
			enqueue(conn, block);
		}
		if (block->len == block->cap || conn->is_odd || conn->queued >= conn->lend_max)
			look_closer(conn, op, block);
	}
	if (!op->more)
		recv_ended(conn, op);
}

/* To the reader who waits, else to the queue. The common case is a leaf function. */
static void recv_arrived(struct weir__op *op, struct weir__block *block, size_t bytes)
{
	weir_conn *conn = op->owner;

	if (__builtin_expect(!conn->reader || conn->is_odd || bytes == block->cap, 0)) {
		op->block = block;
		op->res = (int)bytes;
		op->more = true;
		recv_done(op);
		return;
	}
	block->len = bytes;
	lend(conn->into, block);
	wake_reader(conn, (int)bytes);
}

/* Arms the receive operation. It may complete at once (poll.c). */
static void start_recv(weir_conn *conn)
{
	struct weir__op *op = &conn->recv;

	if (__builtin_expect(op->group != conn->wants_group, 0))
		use_group(conn, conn->wants_group);
	conn->is_odd = conn->misfits || op->group;
	conn->is_receiving = true;
	if (conn->io->ops->start(conn->io, op))
		recv_done(op);
}

static void recv_abort(struct weir__task *task, int why)
{
	weir_conn *conn = task->wait;

	conn->reader = NULL;
	weir__ready(task->worker, task, why);
}

WEIR__WAIT_KIND(recv_abort, "recv", weir__conn_describe);

/* ---- Taking it ---------------------------------------------------------- */

/* Parks until recv_done() has filled *into, with the byte count; 0 at the end of the stream, or
 * -errno. */
static inline ssize_t await_arrival(struct weir__worker *self, weir_conn *conn, weir_buf *into)
{
	conn->reader = self->current;
	conn->into = into;
	conn->inside++;
	int n = weir__park(self, recv_abort, conn);
	weir__conn_leave(conn);
	return n;
}

/*
 * Whoever has taken a budget's worth of what was there without parking lets others run before the
 * next. One of them may close the connection, which waits until this task has left, or cancel this
 * task: 0, -ECANCELED, -ETIME.
 */
static inline int take_turns(struct weir__worker *self, weir_conn *conn)
{
	if (__builtin_expect(self->budget > 0, 1))
		return 0;
	conn->inside++;
	weir__budget_spend(self);
	weir__conn_leave(conn);
	return conn->is_closing ? -ECANCELED : weir__interrupted(self, self->current);
}

/* The next lease of the stream into *into, which is empty. Its length, 0 at the end, or -errno. */
static ssize_t next_lease(struct weir__worker *self, weir_conn *conn, weir_buf *into)
{
	if (conn->is_closing || conn->reader || conn->is_taking)
		return conn->is_closing ? -ECANCELED : -EBUSY;
	if (!conn->queue && !conn->end && !conn->is_receiving)
		start_recv(conn);
	if (conn->queue) {
		lend(into, dequeue(conn));
		self->budget--;
		return (ssize_t)into->len;
	}
	if (conn->end)
		return tell_end(conn);
	conn->is_drained = true;
	return await_arrival(self, conn, into);
}

static __attribute__((noinline)) ssize_t recv_oddly(weir_conn *conn, weir_buf *ret)
{
	struct weir__worker *self = weir__worker_self();

	weir_buf_release(ret);
	int err = weir__conn_may_park(conn, self);
	if (err == 0)
		err = take_turns(self, conn);
	if (err < 0)
		return err;
	if (conn->front.block) {
		*ret = conn->front;
		conn->front.block = NULL;
		return (ssize_t)ret->len;
	}
	return next_lease(self, conn, ret);
}

ssize_t weir_recv(weir_conn *conn, weir_buf *ret)
{
	struct weir__worker *self = weir__worker_self();

	if (__builtin_expect(conn->worker != self || !conn->is_drained || conn->reader ||
				     ret->block || !self->current ||
				     !weir__is_calm(self, self->current),
			     0))
		return recv_oddly(conn, ret);
	return await_arrival(self, conn, ret);
}

/* Between our wake-up and now another reader has taken what had come: we wait for the next. */
static __attribute__((noinline)) ssize_t fill_again(struct weir__worker *self, weir_conn *conn)
{
	ssize_t n;

	do {
		n = weir__interrupted(self, self->current);
		if (n == 0)
			n = next_lease(self, conn, &conn->front);
		conn->is_drained = false;
	} while (n > 0 && !conn->front.block);
	return n;
}

/* Makes conn->front hold unread bytes. Positive, 0 at the end of the stream, or -errno. */
static ssize_t fill_front(struct weir__worker *self, weir_conn *conn)
{
	int err = take_turns(self, conn);

	if (err < 0)
		return err;
	if (conn->front.block) {
		self->budget--;
		return 1;
	}
	ssize_t n = next_lease(self, conn, &conn->front);
	conn->is_drained = false;
	return n <= 0 || conn->front.block ? n : fill_again(self, conn);
}

static void consume_front(weir_conn *conn, size_t n)
{
	conn->front.data += n;
	conn->front.len -= n;
	conn->front.cap -= n;
	if (conn->front.len == 0)
		weir_buf_release(&conn->front);
}

ssize_t weir__conn_recv_most(weir_conn *conn, weir_buf *ret, size_t most)
{
	struct weir__worker *self = weir__worker_self();
	ssize_t n = weir__conn_may_park(conn, self);

	if (n < 0)
		return n;
	n = fill_front(self, conn);
	if (n <= 0)
		return n;
	weir_buf_share_view(&conn->front, ret);
	if (ret->len > most)
		ret->len = ret->cap = most;
	consume_front(conn, ret->len);
	return (ssize_t)ret->len;
}

int weir_read_full(weir_conn *conn, void *ret, size_t len)
{
	struct weir__worker *self = weir__worker_self();
	char *to = ret;
	int err = weir__conn_may_park(conn, self);

	while (len > 0 && err == 0) {
		ssize_t got = fill_front(self, conn);
		if (got <= 0)
			return got == 0 ? -ENODATA : (int)got;
		size_t n = conn->front.len < len ? conn->front.len : len;
		memcpy(to, conn->front.data, n);
		consume_front(conn, n);
		to += n;
		len -= n;
		err = len > 0 ? weir__interrupted(self, self->current) : 0;
	}
	return err;
}

ssize_t weir_read_until(weir_conn *conn, char delimiter, void *ret, size_t cap)
{
	struct weir__worker *self = weir__worker_self();
	char *to = ret;
	size_t count = 0;
	int err = weir__conn_may_park(conn, self);

	while (err == 0 && count < cap) {
		ssize_t got = fill_front(self, conn);
		if (got <= 0)
			return got == 0 && count > 0 ? -ENODATA : got;
		size_t n = conn->front.len < cap - count ? conn->front.len : cap - count;
		const char *end = memchr(conn->front.data, delimiter, n);
		if (end)
			n = (size_t)(end - conn->front.data) + 1;
		memcpy(to + count, conn->front.data, n);
		consume_front(conn, n);
		count += n;
		if (end)
			return (ssize_t)count;
		err = weir__interrupted(self, self->current);
	}
	return err < 0 ? err : -EMSGSIZE;
}

/* ---- Life --------------------------------------------------------------- */

void weir__conn_recv_init(weir_conn *conn)
{
	conn->queue_tail = &conn->queue;
	weir__conn_keep_op(conn, &conn->recv, WEIR__OP_RECV, recv_done);
	conn->recv.arrived = recv_arrived;
	conn->recv.multi = true;
	conn->lend_max = (uint16_t)conn->worker->runtime->config.lend_max;
}

void weir__conn_recv_wake(weir_conn *conn)
{
	conn->is_drained = false;
	if (conn->reader)
		wake_reader(conn, -ECANCELED);
}

void weir__conn_recv_cancel(weir_conn *conn)
{
	if (conn->is_receiving)
		conn->io->ops->cancel(conn->io, &conn->recv);
}

void weir__conn_recv_done(weir_conn *conn)
{
	conn->io->ops->forget(conn->io, &conn->recv);
	use_group(conn, WEIR__BUFFER_SMALL);
	while (conn->queue)
		weir__block_drop(dequeue(conn));
	weir_buf_release(&conn->front);
}
