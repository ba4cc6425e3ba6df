/* SPDX-License-Identifier: MIT */
/*
 * conn.c: connections: connect, receive, send, shut down, close.
 *
 * Comes from: ring.c or poll.c (completions of the operations below). Goes to: user code, as
 * leases; and back to the driver with weir_send().
 *
 * Receiving is the connection's business, not the caller's: one receive operation stays armed in
 * the kernel and its completions queue up here as blocks, at most lend_max of them. weir_recv()
 * takes the oldest, or parks without any operation of its own; so its cancellation never touches
 * the kernel, and bytes that arrive late wait for the next call.
 *
 * Sending a lease is the connection's business too: weir_send() hands it over and returns; the next
 * one waits for it, so one is in flight and order is kept. weir_write() sends from the caller's
 * memory and so waits for the end; its operation lies on the task's stack.
 */
#include "io/io_internal.h"

#include <errno.h>
#include <string.h>

#include "alloc/usdt.h"
#include "io/address.h"
#include "io/conn.h"
#include "io/name.h"
#include "runtime/fatal.h"
#include "runtime/wait_kind.h"

static const int64_t LINGER_NS = 5 * WEIR_SEC;

static weir_pool *conn_pool;

int weir__conn_pool_init(void)
{
	if (conn_pool)
		return 0;
	return weir_pool_new(&conn_pool, .object_bytes = sizeof(weir_conn), .align = 64,
			     .name = "connection");
}

/* ---- Who is inside ------------------------------------------------------ */

/* With a task inside, or an operation of its own (a writer's is its task's) with the driver. */
static bool is_busy(const weir_conn *conn)
{
	return conn->inside > 0 || conn->is_receiving || conn->send_state == WEIR__SEND_LEASE;
}

static __attribute__((noinline)) void wake_closer(weir_conn *conn)
{
	struct weir__task *closer = conn->closer;

	if (is_busy(conn))
		return;
	conn->closer = NULL;
	weir__ready(conn->worker, closer, 0);
}

/*
 * A task that comes back from a park inside a call on `conn`. weir_conn_close() by another task
 * waits for it; the connection stays valid until this task parks again or ends.
 */
static inline void leave(weir_conn *conn)
{
	conn->inside--;
	if (__builtin_expect(conn->closer != NULL, 0))
		wake_closer(conn);
}

static inline int run_op(weir_conn *conn, struct weir__op *op)
{
	conn->inside++;
	int res = weir__op_run(conn->io, op);
	leave(conn);
	return res;
}

/* ---- Receiving ---------------------------------------------------------- */

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
		wake_closer(conn);
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
	conn->misfits = 0;
	conn->is_odd = op->group;
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

static void describe_conn(const struct weir__task *task, char *ret, size_t cap)
{
	const weir_conn *conn = task->wait;

	weir__handle_describe(&conn->handle, ret, cap);
}
WEIR__WAIT_KIND(recv_abort, "recv", describe_conn);

/* Parks until recv_done() has filled *into, with the byte count; 0 at the end of the stream, or
 * -errno. */
static inline ssize_t await_arrival(struct weir__worker *self, weir_conn *conn, weir_buf *into)
{
	conn->reader = self->current;
	conn->into = into;
	conn->inside++;
	int n = weir__park(self, recv_abort, conn);
	leave(conn);
	return n;
}

/* Common to all calls that park: 0, -EXDEV, -EINVAL (no task), -ECANCELED, -ETIME. */
static inline int may_park(const weir_conn *conn, struct weir__worker *self)
{
	if (__builtin_expect(conn->worker != self, 0))
		return -EXDEV;
	if (__builtin_expect(!self->current, 0))
		return -EINVAL;
	return weir__interrupted(self, self->current);
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
	leave(conn);
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
	int err = may_park(conn, self);
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
	return n;
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
	ssize_t n = may_park(conn, self);

	if (n < 0)
		return n;
	do /* another reader may have been faster */
		n = fill_front(self, conn);
	while (n > 0 && !conn->front.block);
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
	int err = may_park(conn, self);

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
	int err = may_park(conn, self);

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

/* ---- Sending ------------------------------------------------------------ */

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
		wake_closer(conn);
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

WEIR__WAIT_KIND(writer_abort, "send", describe_conn);

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
		leave(conn);
	}
	if (err == 0 && conn->send_state == WEIR__SEND_BROKEN) {
		err = conn->send_error;
		conn->send_state = WEIR__SEND_IDLE;
	}
	return err;
}

/* Before anything is sent: 0 when this task may. */
static int may_send(struct weir__worker *self, weir_conn *conn)
{
	int err = may_park(conn, self);

	if (err == 0 && conn->send_state != WEIR__SEND_IDLE) {
		err = await_sent(self, conn, INT64_MAX);
		if (err == 0 && conn->is_closing)
			err = -ECANCELED;
	}
	return err;
}

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
	int err = may_send(self, conn);

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
	ssize_t n = run_op(conn, &op);
	conn->send_state = WEIR__SEND_IDLE;
	return n;
}

ssize_t weir_write(weir_conn *conn, const void *data, size_t len)
{
	struct weir__worker *self = weir__worker_self();
	size_t sent = 0;
	ssize_t n = may_send(self, conn);

	while (n >= 0 && sent < len) {
		n = send_some(conn, (const char *)data + sent, len - sent);
		if (n > 0)
			sent += (size_t)n;
		if (n > 0 && sent < len && (conn->is_closing || may_park(conn, self) < 0))
			break;
	}
	return sent > 0 ? (ssize_t)sent : n;
}

int weir_shutdown(weir_conn *conn)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__op op = { .code = WEIR__OP_SHUTDOWN, .handle = &conn->handle };
	int err = may_send(self, conn);

	return err < 0 ? err : run_op(conn, &op);
}

/* ---- Life --------------------------------------------------------------- */

static void keep_op(weir_conn *conn, struct weir__op *op, enum weir__op_code code,
		    void (*done)(struct weir__op *))
{
	weir__op_init(op, code, &conn->handle);
	op->is_kept = true;
	op->done = done;
	op->owner = conn;
}

static void init(weir_conn *conn, struct weir__io *io, int fd, bool is_direct)
{
	memset(conn, 0, sizeof *conn);
	conn->handle.fd = fd;
	conn->handle.is_direct = is_direct;
	conn->io = io;
	conn->worker = io->worker;
	conn->queue_tail = &conn->queue;
	keep_op(conn, &conn->recv, WEIR__OP_RECV, recv_done);
	conn->recv.arrived = recv_arrived;
	keep_op(conn, &conn->send, WEIR__OP_SEND, send_done);
	conn->recv.multi = true;
	conn->lend_max = (uint16_t)io->worker->runtime->config.lend_max;
	WEIR__USDT(conn_open, conn, fd);
}

int weir__conn_new(struct weir__io *io, int fd, bool is_direct, weir_conn **ret)
{
	weir_conn *conn = weir_pool_get(conn_pool);

	if (!conn)
		return -ENOMEM;
	init(conn, io, fd, is_direct);
	*ret = conn;
	return 0;
}

weir_conn *weir__conn_on_ledge(struct weir__io *io, int fd, bool is_direct)
{
	weir_conn *conn = weir__ledge_get(io->worker->current->stack);

	init(conn, io, fd, is_direct);
	conn->is_on_ledge = true;
	return conn;
}

static int connect_fd(struct weir__io *io, const struct weir__address *address)
{
	int fd = io->sockets->open(io, address);

	if (fd < 0)
		return fd;
	struct weir__handle handle = { .fd = fd };
	struct weir__op op = {
		.code = WEIR__OP_CONNECT,
		.handle = &handle,
		.data = (void *)&address->any,
		.len = address->len,
	};
	int err = weir__op_run(io, &op);
	if (err < 0) {
		weir__handle_close(io, &handle);
		return err;
	}
	return fd;
}

enum { NAME_ADDRESSES_MAX = 8 };

/* A descriptor connected to the first of the addresses that takes us, or the last one's error. */
static int connect_any(struct weir__io *io, const struct weir__address *addresses, int count)
{
	int fd = -EINVAL;

	for (int i = 0; i < count; i++) {
		fd = connect_fd(io, &addresses[i]);
		if (fd >= 0 || fd == -ECANCELED || fd == -ETIME)
			break;
	}
	return fd;
}

int weir_connect(weir_conn **ret, const char *text)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__address addresses[NAME_ADDRESSES_MAX];
	int count = 1;

	if (!self || !self->current)
		return -EINVAL;
	int err = weir__interrupted(self, self->current);
	if (err < 0)
		return err;
	if (weir__address_parse(text, &addresses[0]) < 0)
		count = weir__name_resolve(self, text, addresses, NAME_ADDRESSES_MAX);
	if (count < 0)
		return count;
	struct weir__io *io = weir__io_of(self);
	int fd = connect_any(io, addresses, count);
	if (fd < 0)
		return fd;
	err = weir__conn_new(io, fd, false, ret);
	if (err < 0)
		io->ops->close(io, &(struct weir__handle){ .fd = fd });
	return err;
}

static void conn_free(weir_conn *conn)
{
	if (conn->is_on_ledge)
		weir__ledge_put(conn);
	else
		weir_pool_put(conn_pool, conn);
}

/*
 * What was given to weir_send() goes out before the connection is closed, unless that takes too
 * long or the closing task is cancelled.
 */
static void linger(weir_conn *conn)
{
	struct weir__worker *self = conn->worker;

	if (weir__interrupted(self, self->current) == 0)
		(void)await_sent(self, conn, weir__clock_ns() + LINGER_NS);
}

void weir_conn_close(weir_conn *conn)
{
	if (!conn)
		return;
	WEIR_ASSERT(conn->worker == weir__worker_self() && conn->worker->current);
	conn->is_closing = true;
	conn->is_drained = false;
	if (conn->reader)
		wake_reader(conn, -ECANCELED);
	wake_writer(conn, -ECANCELED);
	if (conn->send_state == WEIR__SEND_LEASE)
		linger(conn);
	if (conn->is_receiving)
		conn->io->ops->cancel(conn->io, &conn->recv);
	conn->is_send_cancelled = true;
	if (conn->send_state == WEIR__SEND_LEASE)
		conn->io->ops->cancel(conn->io, &conn->send);
	weir__handle_cancel(conn->io, &conn->handle);
	if (is_busy(conn)) {
		conn->closer = conn->worker->current;
		weir__park_for(conn->worker, "close");
	}
	WEIR__USDT(conn_close, conn, conn->handle.fd);
	weir__handle_close(conn->io, &conn->handle);
	conn->io->ops->forget(conn->io, &conn->recv);
	conn->io->ops->forget(conn->io, &conn->send);
	use_group(conn, WEIR__BUFFER_SMALL);
	while (conn->queue)
		weir__block_drop(dequeue(conn));
	weir_buf_release(&conn->front);
	conn_free(conn);
}

/* ---- Asking ------------------------------------------------------------- */

/* A descriptor of a connection that has none: the kernel gives it at once, also to who is late. */
int weir__conn_install(weir_conn *conn)
{
	struct weir__op op = { .code = WEIR__OP_INSTALL, .handle = &conn->handle };
	WEIR_SHIELD(shield, WEIR_FOREVER);

	return run_op(conn, &op);
}

int weir_conn_peer(weir_conn *conn, char *ret, size_t cap)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__address peer;
	int fd = conn->handle.fd;

	if (conn->worker != self || !self->current)
		return conn->worker != self ? -EXDEV : -EINVAL;
	if (conn->handle.is_direct)
		fd = weir__conn_install(conn);
	if (fd < 0)
		return fd;
	int err = conn->io->sockets->peer(conn->io, fd, &peer);
	if (conn->handle.is_direct)
		conn->io->ops->close(conn->io, &(struct weir__handle){ .fd = fd });
	return err < 0 ? err : weir__address_format(&peer.any, peer.len, ret, cap);
}

void *weir_conn_user(const weir_conn *conn)
{
	return conn->user;
}

/* ---- For conn_fd.c ------------------------------------------------------ */

int weir__conn_may_park(const weir_conn *conn, struct weir__worker *self)
{
	return may_park(conn, self);
}

int weir__conn_may_send(struct weir__worker *self, weir_conn *conn)
{
	return may_send(self, conn);
}

int weir__conn_run(weir_conn *conn, struct weir__op *op)
{
	return run_op(conn, op);
}
