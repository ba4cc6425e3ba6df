/* SPDX-License-Identifier: MIT */
/*
 * poll_test.h: the epoll driver, driven through its seam as conn.c and listener.c drive it:
 * operations on socket pairs and loopback sockets with a done() that writes down what it was told.
 * No tasks run.
 */
#ifndef TESTS_POLL_TEST_H
#define TESTS_POLL_TEST_H

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "io/io_internal.h"
#include "refuse.h"
#include "tests/descriptors.h"

enum { FD_BYTES = 256, BURST = 200, BIG_BYTES = 8 << 20 };

static struct weir__runtime runtime;
static struct weir__worker worker;
static struct weir__io *io;
static int descriptors_before;

/* An operation and what its done() was told. */
struct watch {
	struct weir__op op;
	struct weir__handle *handle;
	int calls;
	int res; /* of the last call */
	int given[BURST + 1];
	size_t bytes; /* received, all calls */
	char data[FD_BYTES];
	void (*then)(struct watch *watch);
};

/* ---- Set-up ---------------------------------------------------------------------------------- */

/* Without a directory, which would be one more. */
static inline void open_driver(void)
{
	descriptors_before = count_descriptors();
	ck_assert_int_eq(weir__heap_attach(), 0);
	weir__config_init(&runtime.config);
	weir__worker_init(&worker, &runtime, 0);
	ck_assert_int_eq(weir__poll_open(&worker, &io), 0);
	worker.driver = &io->driver;
}

/* Every test closes what it opened, so this sees what the driver leaves behind. */
static inline void close_driver(void)
{
	io->driver.ops->close(&io->driver);
	ck_assert_int_eq(count_descriptors(), descriptors_before);
}

static inline void turn(int64_t timeout_ns)
{
	worker.now_ns = weir__clock_ns();
	int64_t until = timeout_ns == WEIR_FOREVER ? INT64_MAX : worker.now_ns + timeout_ns;
	io->driver.ops->submit_and_wait(&io->driver, until);
	io->driver.ops->reap(&io->driver);
	worker.now_ns = weir__clock_ns();
}

static inline void turns_until(const int *counter, int wanted)
{
	while (*counter < wanted)
		turn(WEIR_FOREVER); /* Check's timeout ends what never comes */
}

/* Lets everything that is under way arrive. */
static inline void settle(void)
{
	turn(20 * WEIR_MS);
	turn(20 * WEIR_MS);
}

static inline void keep_block(struct watch *watch)
{
	struct weir__block *block = watch->op.block;
	size_t len = watch->op.res > 0 ? (size_t)watch->op.res : 0;
	if (watch->op.code != WEIR__OP_RECV)
		return;
	ck_assert_int_eq(block != NULL, len > 0);
	if (block == NULL)
		return;
	ck_assert_uint_eq(block->refs, 1);
	ck_assert_uint_le(len, block->cap);
	for (size_t i = 0; i < len && watch->bytes + i < FD_BYTES; i++)
		watch->data[watch->bytes + i] = block->base[i];
	watch->bytes += len;
	weir__block_drop(block);
}

static inline void note(struct watch *watch)
{
	watch->res = watch->op.res;
	if (watch->calls < BURST + 1)
		watch->given[watch->calls] = watch->op.res;
	watch->calls++;
	keep_block(watch);
}

static inline void on_done(struct weir__op *op)
{
	struct watch *watch = op->owner;
	note(watch);
	if (watch->then)
		watch->then(watch);
}

/* True when it completed at once, which counts as a call. */
static inline bool begin(struct watch *watch, struct weir__handle *handle, enum weir__op_code code)
{
	watch->op.code = (uint8_t)code;
	watch->op.handle = handle;
	watch->op.done = on_done;
	watch->op.owner = watch;
	watch->handle = handle;
	bool is_over = io->ops->start(io, &watch->op);
	if (is_over) {
		ck_assert(!watch->op.more);
		note(watch);
	}
	return is_over;
}

static inline bool begin_send(struct watch *watch, struct weir__handle *handle, const void *data,
			      size_t len)
{
	watch->op.data = (void *)data;
	watch->op.len = len;
	return begin(watch, handle, WEIR__OP_SEND);
}

static inline bool begin_connect(struct watch *watch, struct weir__handle *handle,
				 const void *address, socklen_t len)
{
	watch->op.data = (void *)address;
	watch->op.len = len;
	return begin(watch, handle, WEIR__OP_CONNECT);
}

static inline void cancel(struct watch *watch)
{
	io->ops->cancel(io, &watch->op);
}

static inline void close_handle(struct weir__handle *handle)
{
	while (handle->ops)
		io->ops->cancel(io, handle->ops);
	io->ops->close(io, handle);
	handle->fd = -1;
}

/* ---- Sockets --------------------------------------------------------------------------------- */

static inline void unix_pair(struct weir__handle *ours, int *theirs)
{
	int fds[2];
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	*ours = (struct weir__handle){ .fd = fds[0] };
	*theirs = fds[1];
}

static inline int listen_tcp(struct sockaddr_in *ret_address, int backlog)
{
	socklen_t len = sizeof(*ret_address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	*ret_address = (struct sockaddr_in){ .sin_family = AF_INET,
					     .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	ck_assert_int_eq(bind(fd, (struct sockaddr *)ret_address, len), 0);
	ck_assert_int_eq(listen(fd, backlog), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)ret_address, &len), 0);
	return fd;
}

static inline int connect_tcp(const struct sockaddr_in *address)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(connect(fd, (const struct sockaddr *)address, sizeof(*address)), 0);
	return fd;
}

static inline void tcp_pair(struct weir__handle *ours, int *theirs)
{
	struct sockaddr_in address;
	int listener = listen_tcp(&address, 1);
	*theirs = connect_tcp(&address);
	*ours = (struct weir__handle){ .fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC) };
	ck_assert_int_ge(ours->fd, 0);
	close(listener);
}

/* Loop tests over both: 0 is Unix, 1 is TCP. */
static inline void pair(int kind, struct weir__handle *ours, int *theirs)
{
	if (kind == 0)
		unix_pair(ours, theirs);
	else
		tcp_pair(ours, theirs);
}

static inline void put(int fd, const char *text)
{
	ck_assert_int_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static inline void reset(int fd)
{
	struct linger now = { .l_onoff = 1, .l_linger = 0 };
	ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)), 0);
	close(fd);
}

static inline socklen_t unix_address(struct sockaddr_un *ret, const char *name)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	int len = snprintf(ret->sun_path + 1, sizeof(ret->sun_path) - 1, "weir-%s-%d", name,
			   getpid());
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
}

static inline int new_socket(int family)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ck_assert_int_ge(fd, 0);
	return fd;
}

static inline void close_given(const struct watch *watch)
{
	for (int i = 0; i < watch->calls; i++)
		if (watch->given[i] >= 0)
			close(watch->given[i]);
}

static inline void close_all(const int *fds, int count)
{
	for (int i = 0; i < count; i++)
		close(fds[i]);
}

static inline char *pattern(size_t len)
{
	char *data = malloc(len);
	ck_assert_ptr_nonnull(data);
	for (size_t i = 0; i < len; i++)
		data[i] = (char)(i * 2654435761u >> 13);
	return data;
}

/* ---- Suites ---------------------------------------------------------------------------------- */

static inline TCase *add_case(Suite *suite, const char *name, const char *tags)
{
	TCase *tcase = tcase_create(name);
	tcase_set_tags(tcase, tags);
	tcase_add_checked_fixture(tcase, open_driver, close_driver);
	tcase_set_timeout(tcase, 10);
	suite_add_tcase(suite, tcase);
	return tcase;
}

#endif
