/* SPDX-License-Identifier: MIT */
/*
 * conn.c: connections: where they come from, who is inside one, and how it is closed.
 *
 * Comes from: listener.c, weir_connect() and conn_fd.c, with a descriptor or a slot of the ring's
 * table. Receiving is in conn_recv.c, sending in conn_send.c.
 *
 * The hard idea: closing waits for everybody. Tasks parked in a call are let go of, the operations
 * that are the connection's own are cancelled, and the closer parks until the last of both has
 * ended; only then the descriptor goes, and the memory.
 */
#include "io/io_internal.h"

#include <errno.h>
#include <string.h>

#include "alloc/usdt.h"
#include "io/address.h"
#include "io/conn.h"
#include "io/name.h"
#include "runtime/fatal.h"

static weir_pool *conn_pool;

int weir__conn_pool_init(void)
{
	if (conn_pool)
		return 0;
	return weir_pool_new(&conn_pool, .object_bytes = sizeof(weir_conn), .align = 64,
			     .name = "connection");
}

/* ---- Who is inside ------------------------------------------------------ */

void weir__conn_wake_closer(weir_conn *conn)
{
	struct weir__task *closer = conn->closer;

	if (weir__conn_is_busy(conn))
		return;
	conn->closer = NULL;
	weir__ready(conn->worker, closer, 0);
}

void weir__conn_describe(const struct weir__task *task, char *ret, size_t cap)
{
	const weir_conn *conn = task->wait;

	weir__handle_describe(&conn->handle, ret, cap);
}

/* ---- Life --------------------------------------------------------------- */

void weir__conn_keep_op(weir_conn *conn, struct weir__op *op, enum weir__op_code code,
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
	weir__conn_recv_init(conn);
	weir__conn_send_init(conn);
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
	int err;
	/*
	 * EINTR: a thread of io_uring's, waiting for room in a Unix socket's queue, was in a
	 * process that was stopped and goes on. It has not connected.
	 */
	do {
		struct weir__op op = {
			.code = WEIR__OP_CONNECT,
			.handle = &handle,
			.data = (void *)&address->any,
			.len = address->len,
		};
		err = weir__interrupted(io->worker, io->worker->current);
		if (err == 0)
			err = weir__op_run(io, &op);
	} while (err == -EINTR);
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

void weir_conn_close(weir_conn *conn)
{
	if (!conn)
		return;
	WEIR_ASSERT(conn->worker == weir__worker_self() && conn->worker->current);
	conn->is_closing = true;
	weir__conn_recv_wake(conn);
	weir__conn_send_wake(conn);
	weir__conn_send_linger(conn);
	weir__conn_recv_cancel(conn);
	weir__conn_send_cancel(conn);
	weir__handle_cancel(conn->io, &conn->handle);
	/* again: a reader that had left may be taking what is there, and in the midst of a turn */
	while (weir__conn_is_busy(conn)) {
		conn->closer = conn->worker->current;
		weir__park_for(conn->worker, "close");
	}
	WEIR__USDT(conn_close, conn, conn->handle.fd);
	weir__handle_close(conn->io, &conn->handle);
	conn->io->ops->forget(conn->io, &conn->send);
	weir__conn_recv_done(conn);
	conn_free(conn);
}

/* ---- Asking ------------------------------------------------------------- */

/* A descriptor of a connection that has none: the kernel gives it at once, also to who is late. */
int weir__conn_install(weir_conn *conn)
{
	struct weir__op op = { .code = WEIR__OP_INSTALL, .handle = &conn->handle };
	WEIR_SHIELD(shield, WEIR_FOREVER);

	return weir__conn_run(conn, &op);
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
