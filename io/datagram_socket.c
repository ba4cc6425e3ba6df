/* SPDX-License-Identifier: MIT */
/*
 * datagram_socket.c: the kernel's datagram sockets: opening them, and the calls that never wait.
 *
 * Comes from: datagram.c, through the driver; poll.c, and ring.c where its kernel lacks something.
 * Goes to: the kernel.
 */
#include "io/datagram.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "io/socket.h"

/* Not SO_REUSEADDR: of two UDP sockets with it and one port, one hears nothing. */
static int set_options(int fd, const struct weir__address *address, bool shared)
{
	const int one = 1, zero = 0;

	if (address->any.sa_family == AF_UNIX)
		return shared ? -EOPNOTSUPP : 0;
	if (shared && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) < 0)
		return -errno;
	if (address->any.sa_family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero);
	(void)setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &one, sizeof one);
	return 0;
}

static int bind_to(int fd, struct weir__address *address)
{
	int err = weir__socket_bind(fd, SOCK_DGRAM, address);

	if (err < 0)
		return err;
	address->len = sizeof address->un; /* the largest of them */
	return getsockname(fd, &address->any, &address->len) < 0 ? -errno : 0;
}

int weir__datagram_open(struct weir__io *io, struct weir__address *address, bool shared)
{
	int nonblocking = io->needs_nonblocking ? SOCK_NONBLOCK : 0;
	int fd = socket(address->any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC | nonblocking, 0);

	if (fd < 0)
		return -errno;
	int err = set_options(fd, address, shared);
	if (err == 0)
		err = bind_to(fd, address);
	if (err < 0) {
		(void)close(fd);
		return err;
	}
	return fd;
}

int weir__datagram_connect(struct weir__io *io, int fd, const struct weir__address *to)
{
	(void)io;
	return connect(fd, &to->any, to->len) < 0 ? -errno : 0;
}

static ssize_t receive(int fd, struct weir__datagram *head, size_t room)
{
	struct iovec payload = { head->payload, room - sizeof *head };
	struct msghdr message = {
		.msg_name = head->name,
		.msg_namelen = sizeof head->name,
		.msg_iov = &payload,
		.msg_iovlen = 1,
	};
	ssize_t n;

	do
		n = recvmsg(fd, &message, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	head->name_len = message.msg_namelen;
	head->control_len = 0;
	head->payload_len = (uint32_t)n;
	head->flags = (uint32_t)message.msg_flags;
	return n + (ssize_t)sizeof *head;
}

int weir__datagram_receive(int fd, size_t room, struct weir__block **ret)
{
	weir_buf buf = WEIR_BUF_INIT;

	if (weir_buf_get(&buf, room) < 0)
		return -ENOMEM;
	ssize_t n = receive(fd, (struct weir__datagram *)(void *)buf.data, room);
	if (n < 0)
		weir_buf_release(&buf);
	else
		*ret = buf.block;
	return (int)n;
}

static bool is_unix(int fd)
{
	int domain = AF_UNSPEC;
	socklen_t len = sizeof domain;

	(void)getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len);
	return domain == AF_UNIX;
}

/*
 * Of one part and without control data, sendmsg(2) is sendto(2) and 0.15 us more: the kernel
 * fetches and checks the header, and the vector behind it. Past the library's function, which in a
 * process with threads makes itself a cancellation point and undoes it, for a call that does not
 * wait.
 */
static ssize_t send_one(int fd, const struct msghdr *message)
{
	return syscall(SYS_sendto, fd, message->msg_iov->iov_base, message->msg_iov->iov_len,
		       MSG_DONTWAIT | MSG_NOSIGNAL, message->msg_name, message->msg_namelen);
}

int weir__datagram_send(int fd, const struct weir__op *op)
{
	ssize_t n;

	do
		n = send_one(fd, op->data);
	while (n < 0 && errno == EINTR);
	if (n >= 0)
		return (int)n;
	return errno != EAGAIN ? -errno : is_unix(fd) ? -EBUSY : -EAGAIN;
}
