/* SPDX-License-Identifier: MIT */
/*
 * socket.c: listening sockets, sockets to connect, names of peers.
 *
 * Comes from: conn.c and listener.c, through the driver. Goes to: the kernel. Every listening
 * socket of an address has SO_REUSEPORT, so that each worker can have one; a Unix socket, and one
 * that was inherited, is shared.
 */
#include "io/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/address.h"
#include "io/datagram.h"

/* A Unix socket file that no socket is bound to any more is in the way; a live one is not ours to
 * take.
 */
static int remove_stale(int type, const struct weir__address *address)
{
	struct stat st;

	if (address->any.sa_family != AF_UNIX || address->len <= sizeof address->any.sa_family ||
	    !address->un.sun_path[0])
		return -EADDRINUSE;
	if (stat(address->un.sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return -EADDRINUSE;
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* one of another type that lives says EPROTOTYPE */
	bool is_dead = connect(fd, &address->any, address->len) < 0 && errno == ECONNREFUSED;
	(void)close(fd);
	if (!is_dead)
		return -EADDRINUSE;
	return unlink(address->un.sun_path) < 0 ? -errno : 0;
}

int weir__socket_bind(int fd, int type, const struct weir__address *address)
{
	int err = bind(fd, &address->any, address->len) < 0 ? -errno : 0;

	if (err != -EADDRINUSE)
		return err;
	err = remove_stale(type, address);
	if (err < 0)
		return err;
	return bind(fd, &address->any, address->len) < 0 ? -errno : 0;
}

static void set_options(int fd, const struct weir__address *address, bool nagle)
{
	const int one = 1, zero = 0;

	if (address->any.sa_family == AF_UNIX)
		return;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
	if (address->any.sa_family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
	if (!nagle) /* accepted sockets inherit it */
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static int open_socket(const struct weir__address *address, int backlog, bool nagle)
{
	int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	set_options(fd, address, nagle);
	int err = weir__socket_bind(fd, SOCK_STREAM, address);
	if (err == 0 && listen(fd, backlog) < 0)
		err = -errno;
	if (err < 0) {
		(void)close(fd);
		return err;
	}
	return fd;
}

/* SO_REUSEPORT would let two servers of one user share a port by mistake: ask without it first. */
static int check_free(const struct weir__address *address)
{
	const int one = 1, zero = 0;

	if (address->any.sa_family == AF_UNIX)
		return 0;
	int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (address->any.sa_family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
	int err = bind(fd, &address->any, address->len) < 0 ? -errno : 0;
	(void)close(fd);
	return err;
}

static int listen_first(struct weir__io *io, struct weir__address *address, int backlog, bool nagle)
{
	int err = check_free(address);
	int fd = err < 0 ? err : open_socket(address, backlog, nagle);

	(void)io;
	if (fd < 0)
		return fd;
	address->len = sizeof address->un; /* the largest of them */
	if (getsockname(fd, &address->any, &address->len) < 0) {
		err = -errno;
		(void)close(fd);
		return err;
	}
	return fd;
}

static int listen_along(struct weir__io *io, const struct weir__address *address, int backlog,
			bool nagle)
{
	(void)io;
	return open_socket(address, backlog, nagle);
}

static int share(struct weir__io *io, int fd)
{
	(void)io;
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return own < 0 ? -errno : own;
}

int weir__socket_option(int fd, int option)
{
	int value = 0;
	socklen_t len = sizeof value;

	return getsockopt(fd, SOL_SOCKET, option, &value, &len) < 0 ? -errno : value;
}

/* Waiting clients may be another process's before we come: accepting must not block. */
static int adopt(struct weir__io *io, int fd, struct weir__address *ret, bool nagle)
{
	struct weir__address address = { .len = sizeof address.un };
	const int one = 1;
	int type = weir__socket_option(fd, SO_TYPE),
	    listens = weir__socket_option(fd, SO_ACCEPTCONN);
	int flags = fcntl(fd, F_GETFL);

	(void)io;
	if (type < 0)
		return type;
	if (type != SOCK_STREAM || listens != 1)
		return -EINVAL;
	if (getsockname(fd, &address.any, &address.len) < 0 ||
	    fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return -errno;
	if (!nagle && address.any.sa_family != AF_UNIX)
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	*ret = address;
	return 0;
}

static void unlisten(struct weir__io *io, const struct weir__address *address)
{
	(void)io;
	if (address->any.sa_family == AF_UNIX && address->un.sun_path[0])
		(void)unlink(address->un.sun_path);
}

static int open_to_connect(struct weir__io *io, const struct weir__address *address)
{
	const int one = 1;
	int nonblocking = io->needs_nonblocking ? SOCK_NONBLOCK : 0;
	int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | nonblocking, 0);

	if (fd < 0)
		return -errno;
	if (address->any.sa_family != AF_UNIX)
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

static int peer(struct weir__io *io, int fd, struct weir__address *ret)
{
	struct weir__address address;

	(void)io;
	address.len = sizeof address.un;
	if (getpeername(fd, &address.any, &address.len) < 0)
		return -errno;
	*ret = address;
	return 0;
}

const struct weir__socket_ops weir__kernel_sockets = {
	.listen = listen_first,
	.adopt = adopt,
	.share = share,
	.listen_along = listen_along,
	.unlisten = unlisten,
	.open = open_to_connect,
	.peer = peer,
	.open_datagram = weir__datagram_open,
	.connect_datagram = weir__datagram_connect,
};
