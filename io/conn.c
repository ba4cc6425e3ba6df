/* SPDX-License-Identifier: MIT */
/*
 * conn.c: connections: connect, receive, send, shut down, close.
 *
 * Comes from: ring.c or poll.c (completions of the operations below). Goes to: user code, as leases; and
 * back to the driver with weir_send().
 *
 * Receiving is the connection's business, not the caller's: one receive operation stays armed in the kernel
 * and its completions queue up here as blocks, at most lend_max of them. weir_recv() takes the oldest, or
 * parks without any operation of its own; so its cancellation never touches the kernel, and bytes that
 * arrive late wait for the next call. A send is the caller's: its operation lies on the task's stack.
 */
#include "io/io_internal.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

#include "io/address.h"
#include "io/conn.h"
#include "runtime/fatal.h"

static weir_pool *conn_pool;

int weir__conn_pool_init(void)
{
	if (conn_pool)
		return 0;
	return weir_pool_new(&conn_pool, .object_bytes = sizeof(weir_conn), .align = 64,
			     .name = "connection");
}

/* ---- Who is inside -------------------------------------------------------------------------------- */

/*
 * A task that comes back from a park inside a call on `conn`. weir_conn_close() by another task waits for
 * it; the connection stays valid until this task parks again or ends.
 */
static void leave(weir_conn *conn)
{
	if (--conn->inside == 0 && conn->closer) {
		weir__ready(conn->io->worker, conn->closer, 0);
		conn->closer = NULL;
	}
}

static int run_op(weir_conn *conn, struct weir__op *op)
{
	conn->inside++;
	int res = weir__op_run(conn->io, op);
	leave(conn);
	return res;
}

/* ---- Receiving ---------------------------------------------------------------------------------- */

static void start_recv(weir_conn *conn);

static void enqueue(weir_conn *conn, struct weir__block *block)
{
	block->next = NULL;
	*conn->queue_tail = block;
	conn->queue_tail = &block->next;
	conn->queued++;
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

/* Small buffers until they come back full twice in a row, then bulk ones; back when they stay nearly empty. */
static void choose_group(weir_conn *conn, const struct weir__block *block)
{
	bool is_full = block->len == block->cap;
	bool is_bulk = conn->recv.group == 1;
	bool suits = is_bulk ? block->len * 16 >= block->cap : !is_full;

	if (suits)
		conn->misfits = 0;
	else if (++conn->misfits >= (is_bulk ? 64 : 2))
		conn->wants_group = !is_bulk;
}

static void take_arrival(weir_conn *conn, struct weir__op *op)
{
	op->block->len = (size_t)op->res;
	choose_group(conn, op->block);
	enqueue(conn, op->block);
	op->block = NULL;
	if (!op->more)
		return;
	/* a slow reader stops the flow; another buffer size takes a new operation */
	if (conn->queued >= conn->lend_max || conn->wants_group != op->group)
		conn->io->ops->cancel(conn->io, op);
}

static void wake_reader(weir_conn *conn, int result)
{
	struct weir__task *reader = conn->reader;

	if (!reader)
		return;
	conn->reader = NULL;
	weir__ready(conn->io->worker, reader, result);
}

static void take_end(weir_conn *conn, int res)
{
	if (res == 0)
		conn->end = WEIR__CONN_EOF;
	else if (res != -ECANCELED) /* we asked for that ourselves: the stream goes on */
		conn->end = res;
}

static void recv_done(struct weir__op *op)
{
	weir_conn *conn = op->owner;


	if (op->res > 0)
		take_arrival(conn, op);
	else
		take_end(conn, op->res);
	conn->is_receiving = op->more;
	if (conn->queue || conn->end)
		wake_reader(conn, 0);
	else if (conn->reader && !op->more)
		start_recv(conn); /* it ended with nothing for the reader who waits */
}

/* Arms the receive operation. It may complete at once (poll.c). */
static void start_recv(weir_conn *conn)
{
	struct weir__op *op = &conn->recv;

	op->code = WEIR__OP_RECV;
	op->handle = &conn->handle;
	op->done = recv_done;
	op->owner = conn;
	op->group = conn->wants_group;
	op->multi = true;
	conn->misfits = 0;
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

/* Parks until a block is queued or the stream has ended. 0 or why not. */
static int await_arrival(struct weir__worker *self, weir_conn *conn)
{
	if (!conn->is_receiving)
		start_recv(conn);
	if (conn->queue || conn->end) {
		weir__budget_spend(self);
		return 0;
	}
	conn->reader = self->current;
	conn->inside++;
	int err = weir__park(self, recv_abort, conn);
	leave(conn);
	return err;
}

/* Common to all calls that park: 0, -EXDEV, -ECANCELED, -ETIME. */
static int may_park(const weir_conn *conn, struct weir__worker *self)
{
	if (__builtin_expect(!self || conn->io->worker != self || !self->current, 0))
		return -EXDEV;
	return weir__interrupted(self, self->current);
}

/* Makes conn->front hold unread bytes. 1, 0 at the end of the stream, or -errno. */
static int fill_front(struct weir__worker *self, weir_conn *conn)
{
	if (conn->front.block)
		return 1;
	if (conn->is_closing)
		return -ECANCELED;
	if (conn->reader)
		return -EBUSY;
	if (!conn->queue) {
		if (!conn->end) {
			int err = await_arrival(self, conn);
			if (err < 0 || conn->is_closing)
				return err < 0 ? err : -ECANCELED;
		}
		if (!conn->queue)
			return conn->end == WEIR__CONN_EOF ? 0 : conn->end;
	} else {
		weir__budget_spend(self);
	}
	struct weir__block *block = dequeue(conn);
	conn->front = (weir_buf){ block->base, block->len, block->cap, block };
	return 1;
}

ssize_t weir_recv(weir_conn *conn, weir_buf *ret)
{
	struct weir__worker *self = weir__worker_self();
	int err = may_park(conn, self);

	if (ret->block)
		weir_buf_release(ret);
	if (err < 0)
		return err;
	err = fill_front(self, conn);
	if (err <= 0)
		return err;
	*ret = conn->front;
	conn->front.block = NULL;
	return (ssize_t)ret->len;
}

static void consume_front(weir_conn *conn, size_t n)
{
	conn->front.data += n;
	conn->front.len -= n;
	conn->front.cap -= n;
	if (conn->front.len == 0)
		weir_buf_release(&conn->front);
}

int weir_read_full(weir_conn *conn, void *ret, size_t len)
{
	struct weir__worker *self = weir__worker_self();
	char *to = ret;
	int err = may_park(conn, self);

	while (len > 0 && err == 0) {
		err = fill_front(self, conn);
		if (err <= 0)
			return err == 0 ? -ENODATA : err;
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
		err = fill_front(self, conn);
		if (err <= 0)
			return err == 0 && count > 0 ? -ENODATA : err;
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

/* ---- Sending ------------------------------------------------------------------------------------ */

enum { SEND_BYTES_MAX = 1 << 30 }; /* one operation's length is 32 bits */

static ssize_t send_all(struct weir__worker *self, weir_conn *conn, const char *data, size_t len)
{
	size_t sent = 0;
	int res;

	do {
		size_t left = len - sent;
		struct weir__op op = {
			.code = WEIR__OP_SEND,
			.handle = &conn->handle,
			.data = (void *)(data + sent),
			.len = left < SEND_BYTES_MAX ? left : SEND_BYTES_MAX,
		};
		conn->is_sending = true;
		res = run_op(conn, &op);
		conn->is_sending = false;
		if (res > 0)
			sent += (size_t)res;
	} while (res > 0 && sent < len && !conn->is_closing &&
		 weir__interrupted(self, self->current) == 0);
	return sent > 0 ? (ssize_t)sent : res;
}

ssize_t weir_write(weir_conn *conn, const void *data, size_t len)
{
	struct weir__worker *self = weir__worker_self();
	int err = may_park(conn, self);

	if (err == 0 && conn->is_sending)
		err = -EBUSY;
	if (err < 0)
		return err;
	return len > 0 ? send_all(self, conn, data, len) : 0;
}

ssize_t weir_send(weir_conn *conn, weir_buf *buf)
{
	ssize_t n = weir_write(conn, buf->data, buf->len);

	weir_buf_release(buf);
	return n;
}

int weir_shutdown(weir_conn *conn)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__op op = { .code = WEIR__OP_SHUTDOWN, .handle = &conn->handle };
	int err = may_park(conn, self);

	return err < 0 ? err : run_op(conn, &op);
}

/* ---- Life --------------------------------------------------------------------------------------- */

int weir__conn_new(struct weir__io *io, int fd, bool is_direct, weir_conn **ret)
{
	weir_conn *conn = weir_pool_get(conn_pool);

	if (!conn)
		return -ENOMEM;
	memset(conn, 0, sizeof *conn);
	conn->handle.fd = fd;
	conn->handle.is_direct = is_direct;
	conn->io = io;
	conn->queue_tail = &conn->queue;
	conn->lend_max = (uint16_t)io->worker->runtime->config.lend_max;
	*ret = conn;
	return 0;
}

static int connect_fd(struct weir__io *io, const struct weir__address *address)
{
	const int one = 1;
	int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (address->any.sa_family != AF_UNIX)
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
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

int weir_connect(weir_conn **ret, const char *text)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__address address;

	if (!self || !self->current)
		return -EINVAL;
	int err = weir__interrupted(self, self->current);
	if (err == 0)
		err = weir__address_parse(text, &address);
	if (err < 0)
		return err;
	struct weir__io *io = weir__io_of(self);
	int fd = connect_fd(io, &address);
	if (fd < 0)
		return fd;
	err = weir__conn_new(io, fd, false, ret);
	if (err < 0)
		(void)close(fd);
	return err;
}

void weir__conn_free(weir_conn *conn)
{
	weir_pool_put(conn_pool, conn);
}

void weir_conn_close(weir_conn *conn)
{
	if (!conn)
		return;
	WEIR_ASSERT(conn->io->worker == weir__worker_self());
	conn->is_closing = true;
	wake_reader(conn, -ECANCELED);
	weir__handle_close(conn->io, &conn->handle);
	if (conn->inside > 0) {
		conn->closer = conn->io->worker->current;
		(void)weir__park(conn->io->worker, NULL, NULL);
	}
	while (conn->queue)
		weir__block_drop(dequeue(conn));
	weir_buf_release(&conn->front);
	weir__conn_free(conn);
}

/* ---- Asking ------------------------------------------------------------------------------------- */

int weir_conn_peer(weir_conn *conn, char *ret, size_t cap)
{
	struct weir__worker *self = weir__worker_self();
	struct sockaddr_storage peer;
	socklen_t len = sizeof peer;
	int err = may_park(conn, self);
	int fd = conn->handle.fd;

	if (err < 0)
		return err;
	if (conn->handle.is_direct) {
		struct weir__op op = { .code = WEIR__OP_INSTALL, .handle = &conn->handle };
		fd = run_op(conn, &op);
		if (fd < 0)
			return fd;
	}
	err = getpeername(fd, (struct sockaddr *)&peer, &len) < 0 ? -errno : 0;
	if (conn->handle.is_direct)
		(void)close(fd);
	return err < 0 ? err : weir__address_format((struct sockaddr *)&peer, len, ret, cap);
}

void *weir_conn_user(const weir_conn *conn)
{
	return conn->user;
}
