/* SPDX-License-Identifier: MIT */
/*
 * conn_fd.c: descriptors of connections, and descriptors that travel on Unix sockets.
 *
 * Comes from: user code. Goes to: system calls that do not block, and the driver's poll operation
 * where they would.
 *
 * The hard idea: what is received belongs to somebody at every moment. The receive that a
 * connection keeps armed takes bytes without what comes with them, so it must not have begun; and a
 * descriptor is taken out by a call that never waits, so a cancelled wait has taken none.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#include "io/conn.h"
#include "io/socket.h"

/* Room for one: of more in a message the kernel closes the rest. */
union control {
	struct cmsghdr header;
	char room[CMSG_SPACE(sizeof(int))];
};

/* A descriptor of its own for a call; a slot of the ring's table has none. */
static int descriptor_of(weir_conn *conn)
{
	if (conn->handle.is_direct)
		return weir__conn_install(conn);
	int fd = fcntl(conn->handle.fd, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

static void give_back(weir_conn *conn, int fd)
{
	conn->io->ops->close(conn->io, &(struct weir__handle){ .fd = fd });
}

/* A descriptor of a Unix socket. */
static int unix_descriptor_of(weir_conn *conn)
{
	int fd = descriptor_of(conn);
	int domain = fd < 0 ? fd : weir__socket_option(fd, SO_DOMAIN);

	if (fd >= 0 && domain != AF_UNIX) {
		give_back(conn, fd);
		return domain < 0 ? domain : -EOPNOTSUPP;
	}
	return fd;
}

/* Parks until the connection may be ready for `events`. */
static int await(weir_conn *conn, unsigned events)
{
	struct weir__op op;

	if (conn->is_closing) /* its closer waits for this task no longer */
		return -ECANCELED;
	/* in a shield before, or as it was woken from the last wait: nobody interrupts it again */
	int res = weir__interrupted(conn->worker, conn->worker->current);
	if (res < 0)
		return res;
	weir__op_init(&op, WEIR__OP_POLL, &conn->handle);
	op.len = events;
	res = weir__conn_run(conn, &op);
	if (res >= 0 && conn->is_closing)
		return -ECANCELED;
	return res < 0 ? res : 0;
}

/* ---- Sending ------------------------------------------------------------ */

static ssize_t try_send(int own, int fd, const void *data, size_t len)
{
	struct iovec part = { (void *)data, len };
	union control control = { .room = { 0 } };
	struct msghdr message = { .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = control.room,
				  .msg_controllen = sizeof control.room };

	control.header = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof fd),
					   .cmsg_level = SOL_SOCKET,
					   .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
	ssize_t n = sendmsg(own, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	return n < 0 ? -errno : n;
}

/* The descriptor and some of the bytes. */
static ssize_t send_first(weir_conn *conn, int fd, const void *data, size_t len)
{
	int own = unix_descriptor_of(conn);
	ssize_t n = own < 0 ? own : -EINTR;

	while (n == -EINTR || n == -EAGAIN) {
		int err = n == -EAGAIN ? await(conn, POLLOUT) : 0;
		n = err < 0 ? err : try_send(own, fd, data, len);
	}
	if (own >= 0)
		give_back(conn, own);
	return n;
}

ssize_t weir_send_fd(weir_conn *conn, int fd, const void *data, size_t len)
{
	struct weir__worker *self = weir__worker_self();
	int err = weir__conn_may_send(self, conn);

	if (err == 0 && (len == 0 || weir__virtual))
		err = len == 0 ? -EINVAL : -EOPNOTSUPP;
	if (err < 0)
		return err;
	conn->send_state = WEIR__SEND_CALLER;
	ssize_t n = send_first(conn, fd, data, len);
	conn->send_state = WEIR__SEND_IDLE;
	if (n < 0 || (size_t)n == len || conn->is_closing)
		return n;
	ssize_t rest = weir_write(conn, (const char *)data + n, len - (size_t)n);
	return rest < 0 ? n : n + rest;
}

/* ---- Receiving ---------------------------------------------------------- */

static ssize_t try_recv(int own, int *ret_fd, void *ret, size_t cap)
{
	struct iovec part = { ret, cap };
	union control control;
	struct msghdr message = { .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = control.room,
				  .msg_controllen = CMSG_LEN(sizeof(int)) };
	ssize_t n = recvmsg(own, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0)
		return -errno;
	const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
		memcpy(ret_fd, CMSG_DATA(header), sizeof *ret_fd);
	else if (message.msg_flags & MSG_CTRUNC)
		return -EMFILE;
	else
		*ret_fd = -1;
	return n;
}

static ssize_t recv_some(weir_conn *conn, int *ret_fd, void *ret, size_t cap)
{
	int own = unix_descriptor_of(conn);
	ssize_t n = own < 0 ? own : -EINTR;

	while (n == -EINTR || n == -EAGAIN) {
		int err = n == -EAGAIN ? await(conn, POLLIN) : 0;
		n = err < 0 ? err : try_recv(own, ret_fd, ret, cap);
	}
	if (own >= 0)
		give_back(conn, own);
	return n;
}

ssize_t weir_recv_fd(weir_conn *conn, int *ret_fd, void *ret, size_t cap)
{
	struct weir__worker *self = weir__worker_self();
	int err = weir__conn_may_park(conn, self);

	if (err == 0 && (cap == 0 || weir__virtual))
		err = cap == 0 ? -EINVAL : -EOPNOTSUPP;
	if (err == 0 && (conn->is_taking || conn->is_receiving || conn->queue || conn->front.block))
		err = -EBUSY;
	if (err < 0)
		return err;
	conn->is_taking = true;
	ssize_t n = recv_some(conn, ret_fd, ret, cap);
	conn->is_taking = false;
	return n;
}

/* ---- A descriptor from a connection, and the other way round ------------ */

int weir_conn_dup(weir_conn *conn)
{
	struct weir__worker *self = weir__worker_self();

	if (conn->worker != self || !self->current)
		return conn->worker != self ? -EXDEV : -EINVAL;
	return weir__virtual ? -EOPNOTSUPP : descriptor_of(conn);
}

/* 0, or why it is no connected stream. */
static int check_stream(int fd)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof peer;
	int type = weir__socket_option(fd, SO_TYPE);

	if (type != SOCK_STREAM)
		return type < 0 ? type : -EPROTOTYPE;
	return getpeername(fd, (struct sockaddr *)&peer, &len) < 0 ? -errno : 0;
}

int weir_conn_from(weir_conn **ret, int fd)
{
	struct weir__worker *self = weir__worker_self();
	int one = 1;

	if (!self || !self->current)
		return -EINVAL;
	if (weir__virtual)
		return -EOPNOTSUPP;
	struct weir__io *io = weir__io_of(self);
	int err = check_stream(fd);
	if (err == 0 && io->needs_nonblocking && ioctl(fd, FIONBIO, &one) < 0)
		err = -errno;
	return err < 0 ? err : weir__conn_new(io, fd, false, ret);
}
