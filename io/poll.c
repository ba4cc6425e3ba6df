/* SPDX-License-Identifier: MIT */
/*
 * poll.c: the driver for where io_uring is refused: epoll, and plain system calls that never block.
 *
 * Comes from: conn.c and listener.c (operations). Goes to: the kernel, and back as completions that
 * make tasks ready. Relies on conn.c for non-blocking sockets to connect.
 *
 * The hard idea: readiness is remembered, not asked for. A descriptor joins the epoll set once,
 * edge triggered, at its first operation that has to wait; handle->ready then says what is not
 * known to be exhausted. A short read or write is such knowledge, so a request costs one recv, one
 * send and its share of one wait. Where a short read proves nothing (the stream has ended, urgent
 * data, a Unix socket that carries descriptors) only EAGAIN does.
 *
 * An event names its handle by address and can outlive it in two places. In the kernel, while
 * another process holds the same open file: so a descriptor leaves the set before it is closed. In
 * the batch that is being handled: so leaving strikes out what is left of it.
 */
#include "io/io_internal.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "io/datagram.h"
#include "io/socket.h"
#include "io/readiness.h"
#include "io/stream.h"
#include "runtime/fatal.h"

enum { EVENTS_MAX = 256, ACCEPTS_MAX = 64 };

/* Between two looks for events while tasks are ready: a look costs 1 % of it. */
#define LOOK_NS (50 * WEIR_US)

/* Between two attempts to connect to a Unix socket with a full backlog: room in it is no event. */
#define RETRY_NS (2 * WEIR_MS)

/* handle->ready */
enum {
	READABLE = 1 << 0,
	WRITABLE = 1 << 1,
	UNSURE = 1 << 2,  /* a short read leaves READABLE; until the next EAGAIN */
	IS_UNIX = 1 << 3, /* a short read leaves READABLE, always */
};

struct poll {
	struct weir__io io; /* first */
	int epoll_fd;
	int wake_fd;
	bool has_pwait2;
	int64_t looked_ns;
	struct weir__op *retries; /* connects, through queue_next */
	struct weir__op **retries_tail;
	int64_t retry_ns;
	unsigned next; /* of events, the one being handled */
	unsigned count;
	struct epoll_event events[EVENTS_MAX];
};

static struct poll *poll_of(struct weir__io *io)
{
	return (struct poll *)(void *)io;
}

static struct poll *poll_of_driver(struct weir__driver *driver)
{
	return (struct poll *)(void *)driver;
}

static void count_up(uint64_t *counter)
{
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

/* Before each system call. */
static void entering(struct poll *poll)
{
	count_up(&poll->io.driver.enters);
}

/* ---- The epoll set ------------------------------------------------------ */

static int control(struct poll *poll, int what, struct weir__handle *handle)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET,
				     .data.ptr = handle };

	entering(poll);
	return epoll_ctl(poll->epoll_fd, what, handle->fd, &event) < 0 ? -errno : 0;
}

/* Asks for an event about what is ready already. */
static int rearm(struct poll *poll, struct weir__handle *handle)
{
	return control(poll, EPOLL_CTL_MOD, handle);
}

static bool is_unix(struct poll *poll, int fd)
{
	int domain = AF_UNSPEC;
	socklen_t len = sizeof domain;

	entering(poll);
	(void)getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len);
	return domain == AF_UNIX;
}

/*
 * What is ready already makes an event, so nothing is lost between an EAGAIN and this. A listener
 * that workers share wakes them all: with EPOLLEXCLUSIVE the event could go to one that may not
 * accept more, and the others would not hear of the client.
 */
static int join(struct poll *poll, struct weir__handle *handle)
{
	int err = control(poll, EPOLL_CTL_ADD, handle);

	if (err < 0)
		return err;
	handle->is_polled = true;
	if (is_unix(poll, handle->fd))
		handle->ready |= IS_UNIX;
	return 0;
}

static void leave(struct poll *poll, struct weir__handle *handle)
{
	if (!handle->is_polled)
		return;
	(void)control(poll, EPOLL_CTL_DEL, handle);
	handle->is_polled = false;
	for (unsigned i = poll->next; i < poll->count; i++)
		if (poll->events[i].data.ptr == handle)
			poll->events[i].data.ptr = NULL;
}

/* ---- Attempts: false when the operation has to wait --------------------- */

static bool give(struct weir__op *op, int res)
{
	op->res = res;
	return true;
}

/* Where the stream has ended or broken, UNSURE leaves READABLE for the next receive to see it too.
 */
static void note_recv(struct weir__handle *handle, ssize_t n, size_t wanted)
{
	if (n < 0)
		handle->ready &= ~(READABLE | UNSURE);
	else if ((size_t)n < wanted && !(handle->ready & (UNSURE | IS_UNIX)))
		handle->ready &= ~READABLE;
}

/* Holds a buffer during the call, not while waiting. */
static bool try_recv(struct poll *poll, struct weir__op *op)
{
	const struct weir__config *config = &poll->io.worker->runtime->config;
	weir_buf buf = WEIR_BUF_INIT;
	ssize_t n;

	if (weir_buf_get(&buf, op->group ? config->recv_bulk_bytes : config->recv_bytes) < 0) {
		count_up(&poll->io.driver.recv_empty);
		return give(op, -ENOMEM);
	}
	do {
		entering(poll);
		n = recv(op->handle->fd, buf.data, buf.cap, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	int err = n < 0 ? errno : 0;
	if (!err || err == EAGAIN)
		note_recv(op->handle, n, buf.cap);
	if (n > 0)
		op->block = buf.block;
	else
		weir_buf_release(&buf);
	return err == EAGAIN ? false : give(op, err ? -err : (int)n);
}

static bool try_send(struct poll *poll, struct weir__op *op)
{
	while (op->moved < op->len) {
		const char *from = (const char *)op->data + op->moved;
		size_t left = op->len - op->moved;
		entering(poll);
		ssize_t n = send(op->handle->fd, from, left, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			return give(op, op->moved ? (int)op->moved : -errno);
		if (n > 0)
			op->moved += (size_t)n;
		if (n < (ssize_t)left) {
			op->handle->ready &= ~WRITABLE;
			return false;
		}
	}
	return give(op, (int)op->moved);
}

/* The errors of a client that is gone again took that client off the backlog. */
static bool try_accept(struct poll *poll, struct weir__op *op)
{
	int fd;

	do {
		entering(poll);
		fd = accept4(op->handle->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	} while (fd < 0 && (errno == ECONNABORTED || errno == EPROTO || errno == EINTR));
	if (fd < 0 && errno == EAGAIN) {
		op->handle->ready &= ~READABLE;
		return false;
	}
	return give(op, fd < 0 ? -errno : fd);
}

static void retry_later(struct poll *poll, struct weir__op *op)
{
	if (!poll->retries)
		poll->retry_ns = weir__clock_ns() + RETRY_NS;
	op->is_waiting = true;
	op->queue_next = NULL;
	*poll->retries_tail = op;
	poll->retries_tail = &op->queue_next;
}

static bool try_recv_from(struct poll *poll, struct weir__op *op)
{
	entering(poll);
	int n = weir__datagram_receive(op->handle->fd, op->len, &op->block);
	if (n == -EAGAIN) {
		op->handle->ready &= ~(READABLE | UNSURE);
		return false;
	}
	if (n == -ENOMEM)
		count_up(&poll->io.driver.recv_empty);
	return give(op, n);
}

static bool try_send_to(struct poll *poll, struct weir__op *op)
{
	entering(poll);
	int n = weir__datagram_send(op->handle->fd, op);
	if (n != -EAGAIN)
		return give(op, n);
	op->handle->ready &= ~WRITABLE;
	return false;
}

static bool try_connect(struct poll *poll, struct weir__op *op)
{
	struct weir__handle *handle = op->handle;

	entering(poll);
	if (connect(handle->fd, op->data, (socklen_t)op->len) == 0)
		return give(op, 0);
	if (errno == EAGAIN) {
		retry_later(poll, op);
		return false;
	}
	if (errno != EINPROGRESS && errno != EINTR)
		return give(op, -errno);
	int err = join(poll, handle);
	return err < 0 ? give(op, err) : false;
}

/* The handle may have been made for the connect alone, so the set forgets it. */
static bool end_connect(struct poll *poll, struct weir__op *op)
{
	int err = 0;
	socklen_t len = sizeof err;

	entering(poll);
	if (getsockopt(op->handle->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
		err = errno;
	leave(poll, op->handle);
	return give(op, -err);
}

/*
 * Exactly what is asked for; an edge may have been of something else. `told`: what epoll has said
 * of it, of which POLLPRI may be said only once (the kernel's pressure figures).
 */
static bool try_poll(struct poll *poll_driver, struct weir__op *op, uint32_t told)
{
	struct pollfd entry = { .fd = op->handle->fd, .events = (short)op->len };
	int n;

	do {
		entering(poll_driver);
		n = poll(&entry, 1, 0);
	} while (n < 0 && errno == EINTR);
	if (n >= 0)
		n = entry.revents | (int)(told & (uint32_t)op->len & POLLPRI);
	return n != 0 && give(op, n < 0 ? -errno : n);
}

static bool start_poll(struct poll *poll, struct weir__op *op)
{
	if (try_poll(poll, op, 0))
		return true;
	int err = op->handle->is_polled ? 0 : join(poll, op->handle);
	return err < 0 && give(op, err);
}

static unsigned side_of(const struct weir__op *op)
{
	switch (op->code) {
	case WEIR__OP_RECV:
	case WEIR__OP_RECV_FROM:
	case WEIR__OP_ACCEPT:
		return READABLE;
	case WEIR__OP_POLL: /* asks the kernel, not the handle */
		return 0;
	default:
		return WRITABLE;
	}
}

static bool attempt(struct poll *poll, struct weir__op *op)
{
	switch (op->code) {
	case WEIR__OP_RECV:
		return try_recv(poll, op);
	case WEIR__OP_SEND:
		return try_send(poll, op);
	case WEIR__OP_ACCEPT:
		return try_accept(poll, op);
	case WEIR__OP_RECV_FROM:
		return try_recv_from(poll, op);
	case WEIR__OP_SEND_TO:
		return try_send_to(poll, op);
	default:
		return end_connect(poll, op);
	}
}

/* ---- Starting and ending operations ------------------------------------- */

static bool start_transfer(struct poll *poll, struct weir__op *op)
{
	struct weir__handle *handle = op->handle;

	if (!handle->is_polled) /* nothing is known */
		handle->ready = READABLE | WRITABLE;
	if (handle->ready & side_of(op) && attempt(poll, op))
		return true;
	int err = handle->is_polled ? 0 : join(poll, handle);
	return err < 0 ? give(op, op->moved ? (int)op->moved : err) : false;
}

/* A multishot accept hears of the clients that wait already by an event, like of all others. */
static bool start_accept(struct poll *poll, struct weir__op *op)
{
	struct weir__handle *handle = op->handle;
	int one = 1, err = 0;

	if (!handle->is_polled) {
		entering(poll); /* an inherited listener may block */
		err = ioctl(handle->fd, FIONBIO, &one) < 0 ? -errno : join(poll, handle);
		handle->ready |= READABLE;
	} else if (op->multi && handle->ready & READABLE) {
		err = rearm(poll, handle);
	}
	if (err < 0)
		return give(op, err);
	return !op->multi && handle->ready & READABLE && try_accept(poll, op);
}

static bool start(struct poll *poll, struct weir__op *op)
{
	switch (op->code) {
	case WEIR__OP_RECV:
	case WEIR__OP_SEND:
	case WEIR__OP_RECV_FROM:
	case WEIR__OP_SEND_TO:
		return start_transfer(poll, op);
	case WEIR__OP_ACCEPT:
		return start_accept(poll, op);
	case WEIR__OP_CONNECT:
		return try_connect(poll, op);
	case WEIR__OP_POLL:
		return start_poll(poll, op);
	case WEIR__OP_SHUTDOWN:
		entering(poll);
		return give(op, shutdown(op->handle->fd, SHUT_WR) < 0 ? -errno : 0);
	}
	return give(op, -EOPNOTSUPP); /* slots are the ring's */
}

static bool poll_start(struct weir__io *io, struct weir__op *op)
{
	struct poll *poll = poll_of(io);

	op->block = NULL;
	op->moved = 0;
	op->more = false;
	op->accepted_direct = false;
	op->is_waiting = false;
	count_up(&io->driver.submissions);
	if (start(poll, op)) {
		count_up(&io->driver.completions);
		return true;
	}
	weir__op_link(op);
	return false;
}

/* res and block are set. The operation, and its handle, may be gone afterwards. */
static void finish(struct poll *poll, struct weir__op *op)
{
	op->more = false;
	weir__op_unlink(op);
	count_up(&poll->io.driver.completions);
	op->done(op);
}

static void forget_retry(struct poll *poll, struct weir__op *op)
{
	struct weir__op **at = &poll->retries;

	while (*at != op)
		at = &(*at)->queue_next;
	*at = op->queue_next;
	if (!*at)
		poll->retries_tail = at;
	op->is_waiting = false;
}

static void poll_cancel(struct weir__io *io, struct weir__op *op)
{
	struct poll *poll = poll_of(io);

	if (op->state != WEIR__OP_QUEUED)
		return;
	if (op->is_waiting)
		forget_retry(poll, op);
	op->res = op->moved ? (int)op->moved : -ECANCELED;
	finish(poll, op);
}

static void poll_close_handle(struct weir__io *io, struct weir__handle *handle)
{
	struct poll *poll = poll_of(io);

	WEIR_ASSERT(!handle->ops);
	leave(poll, handle);
	entering(poll);
	(void)close(handle->fd);
}

/* ---- Events ------------------------------------------------------------- */

/* New ones are linked in front. */
static struct weir__op *oldest(const struct weir__handle *handle, unsigned side)
{
	struct weir__op *found = NULL;

	for (struct weir__op *op = handle ? handle->ops : NULL; op; op = op->next)
		if (side_of(op) == side)
			found = op;
	return found;
}

/* Each done() may close the handle, which then is no longer the event's. */
static void serve(struct poll *poll, const struct epoll_event *event, unsigned side)
{
	unsigned accepts = 0;
	struct weir__op *op;

	while ((op = oldest(event->data.ptr, side)) && op->handle->ready & side) {
		if (accepts == ACCEPTS_MAX) {
			(void)rearm(poll, op->handle); /* it is in the set: cannot fail */
			return;
		}
		if (!attempt(poll, op))
			return;
		accepts += op->code == WEIR__OP_ACCEPT;
		if (op->multi && op->code == WEIR__OP_ACCEPT && op->res >= 0) {
			op->more = true;
			count_up(&poll->io.driver.completions);
			op->done(op);
		} else {
			finish(poll, op);
		}
	}
}

static bool has_polls(const struct weir__handle *handle)
{
	const struct weir__op *op = handle->ops;

	while (op && op->code != WEIR__OP_POLL)
		op = op->next;
	return op != NULL;
}

/* A reader's and a writer's, perhaps, beside other operations. */
static void serve_polls(struct poll *poll, const struct epoll_event *event)
{
	struct weir__op *next;

	for (struct weir__op *op = ((struct weir__handle *)event->data.ptr)->ops;
	     op && event->data.ptr; op = next) {
		next = op->next;
		if (op->code == WEIR__OP_POLL && try_poll(poll, op, event->events))
			finish(poll, op);
	}
}

static void on_event(struct poll *poll, const struct epoll_event *event)
{
	const uint32_t end = EPOLLRDHUP | EPOLLHUP | EPOLLERR;
	struct weir__handle *handle = event->data.ptr;

	if (has_polls(handle)) {
		serve_polls(poll, event);
		if (!event->data.ptr)
			return;
	}
	if (event->events & (EPOLLIN | EPOLLPRI | end))
		handle->ready |= READABLE;
	if (event->events & (EPOLLPRI | end))
		handle->ready |= UNSURE;
	if (event->events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		handle->ready |= WRITABLE;
	serve(poll, event, READABLE);
	if (event->data.ptr)
		serve(poll, event, WRITABLE);
}

static void retry_connects(struct poll *poll)
{
	int64_t now = weir__clock_ns();
	unsigned left = 0;

	if (now < poll->retry_ns)
		return;
	poll->retry_ns = now + RETRY_NS;
	for (const struct weir__op *op = poll->retries; op; op = op->queue_next)
		left++;
	/* those that fail again go to the end; done() may shorten the list */
	for (; left > 0 && poll->retries; left--) {
		struct weir__op *op = poll->retries;
		forget_retry(poll, op);
		if (try_connect(poll, op))
			finish(poll, op);
	}
}

/* ---- The driver --------------------------------------------------------- */

/*
 * Sleeps at most `left_ns`; -1: no limit. Kernels before 5.11 have no epoll_pwait2, and seccomp
 * profiles from before it refuse it with EPERM: then time is counted in milliseconds, rounded up.
 */
static int wait_for_events(struct poll *poll, int64_t left_ns)
{
	int64_t ms = left_ns / WEIR_MS + (left_ns % WEIR_MS > 0);

	entering(poll);
	if (left_ns > 0 && poll->has_pwait2) {
		struct timespec left = { left_ns / WEIR_SEC, left_ns % WEIR_SEC };
		int n = epoll_pwait2(poll->epoll_fd, poll->events, EVENTS_MAX, &left, NULL);
		if (n >= 0 || (errno != ENOSYS && errno != EPERM))
			return n;
		poll->has_pwait2 = false;
		entering(poll);
	}
	if (left_ns < 0)
		ms = -1;
	return epoll_wait(poll->epoll_fd, poll->events, EVENTS_MAX,
			  ms < INT_MAX ? (int)ms : INT_MAX);
}

static int64_t time_left(const struct poll *poll, int64_t until_ns)
{
	if (poll->retries && poll->retry_ns < until_ns)
		until_ns = poll->retry_ns;
	if (until_ns == INT64_MAX)
		return -1;
	int64_t left = until_ns ? until_ns - weir__clock_ns() : 0;
	return left > 0 ? left : 0;
}

static void poll_submit_and_wait(struct weir__driver *driver, int64_t wait_until_ns)
{
	struct poll *poll = poll_of_driver(driver);
	int64_t now = poll->io.worker->now_ns;

	if (poll->count > 0) /* not reaped: their edges will not come again */
		return;
	if (!wait_until_ns && now - poll->looked_ns < LOOK_NS)
		return;
	poll->looked_ns = now;
	int n;
	/* a signal, or a stopped process that goes on, ends the call but not the sleep */
	do {
		n = wait_for_events(poll, time_left(poll, wait_until_ns));
	} while (n < 0 && errno == EINTR && wait_until_ns);
	poll->count = n > 0 ? (unsigned)n : 0;
}

static unsigned poll_reap(struct weir__driver *driver)
{
	struct poll *poll = poll_of_driver(driver);
	uint64_t before = driver->completions;

	for (poll->next = 0; poll->next < poll->count; poll->next++)
		if (poll->events[poll->next].data.ptr) /* else wake(), or the handle was closed */
			on_event(poll, &poll->events[poll->next]);
	poll->next = poll->count = 0;
	if (poll->retries)
		retry_connects(poll);
	return (unsigned)(driver->completions - before);
}

/* Each write is an edge of its own, so the eventfd is never read. */
static void poll_wake(struct weir__driver *target, struct weir__driver *from)
{
	const uint64_t one = 1;
	int saved = errno; /* a signal handler's victim may be looking at it */

	(void)!write(poll_of_driver(target)->wake_fd, &one, sizeof one);
	errno = saved;
	if (from)
		count_up(&from->enters);
}

static int poll_pollable(struct weir__driver *driver)
{
	return poll_of_driver(driver)->epoll_fd;
}

static int64_t poll_flush(struct weir__driver *driver)
{
	const struct poll *poll = poll_of_driver(driver);

	if (poll->count > 0)
		return 0;
	return poll->retries ? poll->retry_ns : INT64_MAX;
}

static void poll_close(struct weir__driver *driver)
{
	struct poll *poll = poll_of_driver(driver);

	WEIR_ASSERT(!poll->retries);
	if (poll->epoll_fd >= 0)
		(void)close(poll->epoll_fd);
	if (poll->wake_fd >= 0)
		(void)close(poll->wake_fd);
}

static const struct weir__driver_ops driver_ops = {
	.name = "epoll",
	.submit_and_wait = poll_submit_and_wait,
	.reap = poll_reap,
	.wake = poll_wake,
	.pollable = poll_pollable,
	.flush = poll_flush,
	.close = poll_close,
	.readiness_begin = weir__readiness_begin,
	.readiness_forget = weir__readiness_forget,
};

/* Nothing is kept for an operation that is not in flight. */
static void poll_forget(struct weir__io *io, struct weir__op *op)
{
	(void)io;
	(void)op;
}

static const struct weir__io_ops io_ops = {
	.start = poll_start,
	.send = weir__conn_send,
	.cancel = poll_cancel,
	.forget = poll_forget,
	.close = poll_close_handle,
};

static int open_set(struct poll *poll)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET }; /* data.ptr: NULL */

	poll->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (poll->wake_fd < 0)
		return -errno;
	poll->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (poll->epoll_fd < 0)
		return -errno;
	return epoll_ctl(poll->epoll_fd, EPOLL_CTL_ADD, poll->wake_fd, &event) < 0 ? -errno : 0;
}

int weir__poll_open(struct weir__worker *worker, struct weir__io **ret)
{
	struct poll *poll = weir__io_new(sizeof *poll);

	if (!poll)
		return -ENOMEM;
	poll->io.driver.ops = &driver_ops;
	poll->io.ops = &io_ops;
	poll->io.sockets = &weir__kernel_sockets;
	poll->io.pipes = &weir__kernel_pipes;
	poll->io.worker = worker;
	poll->io.needs_nonblocking = true;
	poll->epoll_fd = poll->wake_fd = -1;
	poll->has_pwait2 = true;
	poll->retries_tail = &poll->retries;
	int err = open_set(poll);
	if (err < 0) {
		poll_close(&poll->io.driver);
		free(poll);
		return err;
	}
	*ret = &poll->io;
	return 0;
}
