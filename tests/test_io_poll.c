/* SPDX-License-Identifier: MIT */
/*
 * The epoll driver, driven through its seam as conn.c and listener.c drive it: operations on socket
 * pairs and loopback sockets with a done() that writes down what it was told. No tasks run.
 */
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
static int count_descriptors(void)
{
	int count = 0;
	for (int fd = 0; fd < 1024; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static void open_driver(void)
{
	descriptors_before = count_descriptors();
	ck_assert_int_eq(weir__heap_attach(), 0);
	weir__config_init(&runtime.config);
	weir__worker_init(&worker, &runtime, 0);
	ck_assert_int_eq(weir__poll_open(&worker, &io), 0);
	worker.driver = &io->driver;
}

/* Every test closes what it opened, so this sees what the driver leaves behind. */
static void close_driver(void)
{
	io->driver.ops->close(&io->driver);
	ck_assert_int_eq(count_descriptors(), descriptors_before);
}

static void turn(int64_t timeout_ns)
{
	worker.now_ns = weir__clock_ns();
	int64_t until = timeout_ns == WEIR_FOREVER ? INT64_MAX : worker.now_ns + timeout_ns;
	io->driver.ops->submit_and_wait(&io->driver, until);
	io->driver.ops->reap(&io->driver);
	worker.now_ns = weir__clock_ns();
}

static void turns_until(const int *counter, int wanted)
{
	while (*counter < wanted)
		turn(WEIR_FOREVER); /* Check's timeout ends what never comes */
}

/* Lets everything that is under way arrive. */
static void settle(void)
{
	turn(20 * WEIR_MS);
	turn(20 * WEIR_MS);
}

static void keep_block(struct watch *watch)
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

static void note(struct watch *watch)
{
	watch->res = watch->op.res;
	if (watch->calls < BURST + 1)
		watch->given[watch->calls] = watch->op.res;
	watch->calls++;
	keep_block(watch);
}

static void on_done(struct weir__op *op)
{
	struct watch *watch = op->owner;
	note(watch);
	if (watch->then)
		watch->then(watch);
}

/* True when it completed at once, which counts as a call. */
static bool begin(struct watch *watch, struct weir__handle *handle, enum weir__op_code code)
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

static bool begin_send(struct watch *watch, struct weir__handle *handle, const void *data,
		       size_t len)
{
	watch->op.data = (void *)data;
	watch->op.len = len;
	return begin(watch, handle, WEIR__OP_SEND);
}

static bool begin_connect(struct watch *watch, struct weir__handle *handle, const void *address,
			  socklen_t len)
{
	watch->op.data = (void *)address;
	watch->op.len = len;
	return begin(watch, handle, WEIR__OP_CONNECT);
}

static void cancel(struct watch *watch)
{
	io->ops->cancel(io, &watch->op);
}

static void close_handle(struct weir__handle *handle)
{
	while (handle->ops)
		io->ops->cancel(io, handle->ops);
	io->ops->close(io, handle);
	handle->fd = -1;
}

/* ---- Sockets --------------------------------------------------------------------------------- */

static void unix_pair(struct weir__handle *ours, int *theirs)
{
	int fds[2];
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	*ours = (struct weir__handle){ .fd = fds[0] };
	*theirs = fds[1];
}

static int listen_tcp(struct sockaddr_in *ret_address, int backlog)
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

static int connect_tcp(const struct sockaddr_in *address)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(connect(fd, (const struct sockaddr *)address, sizeof(*address)), 0);
	return fd;
}

static void tcp_pair(struct weir__handle *ours, int *theirs)
{
	struct sockaddr_in address;
	int listener = listen_tcp(&address, 1);
	*theirs = connect_tcp(&address);
	*ours = (struct weir__handle){ .fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC) };
	ck_assert_int_ge(ours->fd, 0);
	close(listener);
}

/* Loop tests over both: 0 is Unix, 1 is TCP. */
static void pair(int kind, struct weir__handle *ours, int *theirs)
{
	if (kind == 0)
		unix_pair(ours, theirs);
	else
		tcp_pair(ours, theirs);
}

static void put(int fd, const char *text)
{
	ck_assert_int_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static void reset(int fd)
{
	struct linger now = { .l_onoff = 1, .l_linger = 0 };
	ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)), 0);
	close(fd);
}

static socklen_t unix_address(struct sockaddr_un *ret, const char *name)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	int len = snprintf(ret->sun_path + 1, sizeof(ret->sun_path) - 1, "weir-%s-%d", name,
			   getpid());
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
}

static int new_socket(int family)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	ck_assert_int_ge(fd, 0);
	return fd;
}

/* ---- Receiving ------------------------------------------------------------------------------- */

START_TEST(what_has_arrived_is_received_at_once)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	pair(_i, &ours, &theirs);
	put(theirs, "hello");
	ck_assert(begin(&recv, &ours, WEIR__OP_RECV));
	ck_assert_int_eq(recv.res, 5);
	ck_assert_mem_eq(recv.data, "hello", 5);
	ck_assert_uint_eq(io->driver.submissions, 1);
	ck_assert_uint_eq(io->driver.completions, 1);
	ck_assert_uint_eq(io->driver.enters, 1);
	close_handle(&ours);
	close(theirs);
}
END_TEST

START_TEST(what_arrives_later_is_received_when_it_does)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	settle();
	ck_assert_int_eq(recv.calls, 0);
	put(theirs, "later");
	turns_until(&recv.calls, 1);
	ck_assert_int_eq(recv.res, 5);
	ck_assert_ptr_null(ours.ops);
	settle();
	ck_assert_int_eq(recv.calls, 1);
	ck_assert_uint_eq(io->driver.completions, 1);
	close_handle(&ours);
	close(theirs);
}
END_TEST

static uint64_t objects_in_use(void)
{
	struct weir_pool_stats stats[WEIR_CLASS_COUNT + 16];
	size_t n = weir_pool_stats_get(stats, sizeof(stats) / sizeof(*stats));
	uint64_t sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += stats[i].in_use;
	return sum;
}

START_TEST(a_connection_that_waits_owns_no_buffer)
{
	enum { CONNS = 50 };
	static struct weir__handle ours[CONNS];
	static struct watch recv[CONNS];
	int theirs[CONNS];
	uint64_t before = objects_in_use();
	for (int i = 0; i < CONNS; i++) {
		unix_pair(&ours[i], &theirs[i]);
		ck_assert(!begin(&recv[i], &ours[i], WEIR__OP_RECV));
	}
	ck_assert_uint_eq(objects_in_use(), before);
	for (int i = 0; i < CONNS; i++) {
		close_handle(&ours[i]);
		close(theirs[i]);
	}
}
END_TEST

START_TEST(the_end_of_the_stream_is_seen_behind_the_data_and_ever_after)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	pair(_i & 1, &ours, &theirs);
	if (_i & 2) { /* in one event, at a descriptor that is watched already */
		ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
		settle();
		put(theirs, "last");
		close(theirs);
		turns_until(&recv.calls, 1);
	} else {
		put(theirs, "last");
		close(theirs);
		ck_assert(begin(&recv, &ours, WEIR__OP_RECV));
	}
	ck_assert_int_eq(recv.res, 4);
	for (int calls = 2; calls < 5; calls++) {
		begin(&recv, &ours, WEIR__OP_RECV);
		turns_until(&recv.calls, calls);
		ck_assert_int_eq(recv.res, 0);
	}
	close_handle(&ours);
}
END_TEST

START_TEST(a_half_closed_peer_can_still_be_sent_to)
{
	struct weir__handle ours;
	struct watch recv = { 0 }, send = { 0 };
	char got[8];
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	shutdown(theirs, SHUT_WR);
	turns_until(&recv.calls, 1);
	ck_assert_int_eq(recv.res, 0);
	ck_assert(begin_send(&send, &ours, "answer", 6));
	ck_assert_int_eq(send.res, 6);
	ck_assert_int_eq(read(theirs, got, sizeof(got)), 6);
	close_handle(&ours);
	close(theirs);
}
END_TEST

START_TEST(a_reset_is_econnreset_waiting_or_not)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	tcp_pair(&ours, &theirs);
	if (_i == 0)
		ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	reset(theirs);
	if (_i == 1)
		begin(&recv, &ours, WEIR__OP_RECV);
	turns_until(&recv.calls, 1);
	ck_assert_int_eq(recv.res, -ECONNRESET);
	close_handle(&ours);
}
END_TEST

START_TEST(urgent_data_does_not_hide_what_follows)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	tcp_pair(&ours, &theirs);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	settle();
	put(theirs, "ab");
	ck_assert_int_eq(send(theirs, "!", 1, MSG_OOB), 1);
	put(theirs, "cd");
	turns_until(&recv.calls, 1);
	for (int calls = 2; recv.bytes < 4; calls++) {
		begin(&recv, &ours, WEIR__OP_RECV);
		turns_until(&recv.calls, calls);
	}
	ck_assert_mem_eq(recv.data, "abcd", 4);
	close_handle(&ours);
	close(theirs);
}
END_TEST

static void put_with_descriptor(int fd, const char *text, int carried)
{
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	struct iovec part = { (void *)text, strlen(text) };
	struct msghdr message = { .msg_iov = &part,
				  .msg_iovlen = 1,
				  .msg_control = control.room,
				  .msg_controllen = sizeof(control.room) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &carried, sizeof(carried));
	ck_assert_int_eq(sendmsg(fd, &message, 0), (ssize_t)strlen(text));
}

START_TEST(descriptors_in_a_unix_stream_do_not_hide_what_follows)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	unix_pair(&ours, &theirs);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	settle();
	put_with_descriptor(theirs, "ab", STDERR_FILENO);
	put(theirs, "cd");
	turns_until(&recv.calls, 1);
	ck_assert_int_eq(recv.res, 2); /* the kernel stops there: else this tests nothing */
	begin(&recv, &ours, WEIR__OP_RECV);
	turns_until(&recv.calls, 2);
	ck_assert_mem_eq(recv.data, "abcd", 4);
	close_handle(&ours);
	close(theirs);
}
END_TEST

START_TEST(a_full_buffer_means_there_may_be_more)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	char *data = calloc(1, 2 * 4096);
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	ck_assert_int_eq(send(theirs, data, 2 * 4096, 0), 2 * 4096);
	turns_until(&recv.calls, 1);
	while (recv.bytes < 2 * 4096)
		ck_assert(begin(&recv, &ours, WEIR__OP_RECV));
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	close_handle(&ours);
	close(theirs);
	free(data);
}
END_TEST

START_TEST(the_second_group_has_bulk_buffers)
{
	struct weir__handle ours;
	struct watch recv = { .op.group = 1 };
	char *data = calloc(1, 65536);
	int theirs;
	unix_pair(&ours, &theirs);
	ck_assert_int_eq(send(theirs, data, 65536, 0), 65536);
	ck_assert(begin(&recv, &ours, WEIR__OP_RECV));
	ck_assert_int_eq(recv.res, 65536);
	close_handle(&ours);
	close(theirs);
	free(data);
}
END_TEST

START_TEST(no_memory_is_enomem_and_loses_no_data)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	unix_pair(&ours, &theirs);
	if (_i == 0)
		put(theirs, "here");
	weir_mem_fail_after(1);
	begin(&recv, &ours, WEIR__OP_RECV);
	turn(0);
	ck_assert_int_eq(recv.res, -ENOMEM);
	weir_mem_fail_after(0);
	if (_i == 1) {
		ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
		weir_mem_fail_after(1);
		put(theirs, "here");
		turns_until(&recv.calls, 2);
		ck_assert_int_eq(recv.res, -ENOMEM);
		weir_mem_fail_after(0);
	}
	ck_assert(begin(&recv, &ours, WEIR__OP_RECV));
	ck_assert_mem_eq(recv.data, "here", 4);
	ck_assert_uint_ge(io->driver.recv_empty, 1);
	close_handle(&ours);
	close(theirs);
}
END_TEST

/* ---- Cost ------------------------------------------------------------------------------------ */

START_TEST(a_request_costs_a_recv_a_send_and_its_share_of_a_wait)
{
	enum { CONNS = 32, ROUNDS = 5 };
	static struct weir__handle ours[CONNS];
	static struct watch recv[CONNS], send[CONNS];
	char got[8];
	int theirs[CONNS];
	for (int i = 0; i < CONNS; i++) {
		tcp_pair(&ours[i], &theirs[i]);
		ck_assert(!begin(&recv[i], &ours[i], WEIR__OP_RECV));
	}
	settle();
	for (int round = 1; round <= ROUNDS; round++) {
		for (int i = 0; i < CONNS; i++)
			put(theirs[i], "request");
		uint64_t before = io->driver.enters;
		turn(WEIR_FOREVER); /* loopback: all have arrived */
		for (int i = 0; i < CONNS; i++) {
			ck_assert_int_eq(recv[i].calls, round);
			ck_assert(begin_send(&send[i], &ours[i], "answer", 6));
			ck_assert(!begin(&recv[i], &ours[i], WEIR__OP_RECV));
		}
		ck_assert_uint_eq(io->driver.enters - before, 2 * CONNS + 1);
		for (int i = 0; i < CONNS; i++)
			ck_assert_int_eq(read(theirs[i], got, sizeof(got)), 6);
	}
	for (int i = 0; i < CONNS; i++) {
		close_handle(&ours[i]);
		close(theirs[i]);
	}
}
END_TEST

START_TEST(a_look_without_waiting_is_not_taken_on_every_turn)
{
	uint64_t before = io->driver.enters;
	worker.now_ns = weir__clock_ns();
	io->driver.ops->submit_and_wait(&io->driver, 0);
	ck_assert_uint_eq(io->driver.enters, before + 1);
	for (int i = 0; i < 10; i++)
		io->driver.ops->submit_and_wait(&io->driver, 0);
	ck_assert_uint_eq(io->driver.enters, before + 1);
	worker.now_ns += WEIR_MS;
	io->driver.ops->submit_and_wait(&io->driver, 0);
	ck_assert_uint_eq(io->driver.enters, before + 2);
}
END_TEST

/* ---- Sending --------------------------------------------------------------------------------- */

static char *pattern(size_t len)
{
	char *data = malloc(len);
	ck_assert_ptr_nonnull(data);
	for (size_t i = 0; i < len; i++)
		data[i] = (char)(i * 2654435761u >> 13);
	return data;
}

START_TEST(a_big_send_outlasts_a_slow_reader_and_is_one_completion)
{
	struct weir__handle ours;
	struct watch send = { 0 };
	char *data = pattern(BIG_BYTES), *got = malloc(BIG_BYTES);
	size_t len = 0;
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(!begin_send(&send, &ours, data, BIG_BYTES));
	while (len < BIG_BYTES) {
		ssize_t n = recv(theirs, got + len,
				 BIG_BYTES - len < 60000 ? BIG_BYTES - len : 60000, MSG_DONTWAIT);
		if (n > 0)
			len += (size_t)n;
		turn(n > 0 ? 0 : WEIR_MS);
	}
	turns_until(&send.calls, 1);
	ck_assert_int_eq(send.res, BIG_BYTES);
	ck_assert_mem_eq(got, data, BIG_BYTES);
	close_handle(&ours);
	close(theirs);
	free(data);
	free(got);
}
END_TEST

START_TEST(a_send_cancelled_midway_tells_what_has_gone)
{
	struct weir__handle ours;
	struct watch send = { 0 };
	char *data = pattern(BIG_BYTES), *got = malloc(BIG_BYTES);
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(!begin_send(&send, &ours, data, BIG_BYTES));
	cancel(&send);
	ck_assert_int_eq(send.calls, 1);
	ck_assert_int_gt(send.res, 0);
	ck_assert_int_lt(send.res, BIG_BYTES);
	ck_assert_ptr_null(ours.ops);
	int gone = send.res;
	uint64_t before = io->driver.enters;
	ck_assert(
		!begin_send(&send, &ours, "more", 4)); /* no room for a byte of it: that is known */
	ck_assert_uint_eq(io->driver.enters, before);
	cancel(&send);
	ck_assert_int_eq(send.res, -ECANCELED);
	close_handle(&ours);
	ck_assert_int_eq(recv(theirs, got, BIG_BYTES, MSG_WAITALL), gone);
	ck_assert_mem_eq(got, data, (size_t)gone);
	close(theirs);
	free(data);
	free(got);
}
END_TEST

START_TEST(a_send_to_nobody_is_epipe_and_no_signal)
{
	struct weir__handle ours;
	struct watch send = { 0 };
	int theirs;
	unix_pair(&ours, &theirs);
	close(theirs);
	ck_assert(begin_send(&send, &ours, "x", 1));
	ck_assert_int_eq(send.res, -EPIPE);
	close_handle(&ours);
}
END_TEST

START_TEST(a_send_broken_midway_reports_the_bytes_then_the_error)
{
	struct weir__handle ours;
	struct watch send = { 0 };
	char *data = pattern(BIG_BYTES);
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(!begin_send(&send, &ours, data, BIG_BYTES));
	settle();
	if (_i == 0)
		close(theirs);
	else
		reset(theirs);
	turns_until(&send.calls, 1);
	ck_assert_int_gt(send.res, 0);
	ck_assert_int_lt(send.res, BIG_BYTES);
	ck_assert(begin_send(&send, &ours, data, 1));
	ck_assert_int_lt(send.res, 0);
	close_handle(&ours);
	free(data);
}
END_TEST

START_TEST(both_directions_wait_independently)
{
	struct weir__handle ours;
	struct watch recv = { 0 }, send = { 0 };
	char *data = pattern(BIG_BYTES), *got = malloc(BIG_BYTES);
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	ck_assert(!begin_send(&send, &ours, data, BIG_BYTES));
	put(theirs, "in");
	turns_until(&recv.calls, 1);
	ck_assert_int_eq(send.calls, 0);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	for (size_t len = 0; len < BIG_BYTES; turn(0)) {
		ssize_t n = read(theirs, got, BIG_BYTES);
		ck_assert_int_gt(n, 0);
		len += (size_t)n;
	}
	turns_until(&send.calls, 1);
	ck_assert_int_eq(send.res, BIG_BYTES);
	ck_assert_int_eq(recv.calls, 1);
	close_handle(&ours);
	ck_assert_int_eq(recv.res, -ECANCELED);
	close(theirs);
	free(data);
	free(got);
}
END_TEST

START_TEST(shutdown_ends_the_sending_half_only)
{
	struct weir__handle ours;
	struct watch stop = { 0 }, recv = { 0 };
	char got[4];
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(begin(&stop, &ours, WEIR__OP_SHUTDOWN));
	ck_assert_int_eq(stop.res, 0);
	ck_assert_int_eq(read(theirs, got, sizeof(got)), 0);
	put(theirs, "still");
	begin(&recv, &ours, WEIR__OP_RECV);
	turns_until(&recv.calls, 1);
	ck_assert_int_eq(recv.res, 5);
	close_handle(&ours);
	close(theirs);
	ours = (struct weir__handle){ .fd = new_socket(AF_INET) };
	ck_assert(begin(&stop, &ours, WEIR__OP_SHUTDOWN));
	ck_assert_int_eq(stop.res, -ENOTCONN);
	close_handle(&ours);
}
END_TEST

/* ---- Accepting ------------------------------------------------------------------------------- */

static void close_given(const struct watch *watch)
{
	for (int i = 0; i < watch->calls; i++)
		if (watch->given[i] >= 0)
			close(watch->given[i]);
}

static void close_all(const int *fds, int count)
{
	for (int i = 0; i < count; i++)
		close(fds[i]);
}

START_TEST(a_burst_is_accepted_in_bounded_turns_by_one_operation)
{
	struct sockaddr_in address;
	struct weir__handle listener = { .fd = listen_tcp(&address, BURST) };
	struct watch accept = { .op.multi = true };
	int clients[BURST], turns = 0;
	for (int i = 0; i < BURST; i++)
		clients[i] = connect_tcp(&address);
	ck_assert(!begin(&accept, &listener, WEIR__OP_ACCEPT));
	for (int before = 0; accept.calls < BURST; turns++) {
		turn(WEIR_FOREVER);
		ck_assert(accept.op.more);
		ck_assert_int_le(accept.calls - before, 64);
		before = accept.calls;
	}
	ck_assert_int_ge(turns, BURST / 64);
	cancel(&accept);
	ck_assert_int_eq(accept.res, -ECANCELED);
	ck_assert(!accept.op.more);
	ck_assert_int_eq(fcntl(accept.given[0], F_GETFD), FD_CLOEXEC);
	close_given(&accept);
	close_all(clients, BURST);
	close_handle(&listener);
}
END_TEST

START_TEST(a_single_accept_takes_one_client_now_or_later)
{
	struct sockaddr_in address;
	struct weir__handle listener = { .fd = listen_tcp(&address, 8) };
	struct watch accept = { 0 };
	int clients[3];
	ck_assert(!begin(&accept, &listener, WEIR__OP_ACCEPT));
	for (int i = 0; i < 3; i++)
		clients[i] = connect_tcp(&address);
	turns_until(&accept.calls, 1);
	ck_assert(!accept.op.more);
	settle();
	ck_assert_int_eq(accept.calls, 1);
	ck_assert(begin(&accept, &listener, WEIR__OP_ACCEPT));
	ck_assert(begin(&accept, &listener, WEIR__OP_ACCEPT));
	ck_assert(!begin(&accept, &listener, WEIR__OP_ACCEPT));
	cancel(&accept);
	uint64_t before = io->driver.enters;
	ck_assert(!begin(&accept, &listener, WEIR__OP_ACCEPT));
	ck_assert_uint_eq(io->driver.enters, before); /* none waits: that is known */
	close_handle(&listener);
	close_given(&accept);
	close_all(clients, 3);
}
END_TEST

START_TEST(accepts_are_served_in_the_order_they_came)
{
	struct sockaddr_in address;
	struct weir__handle listener = { .fd = listen_tcp(&address, 8) };
	struct watch accepts[3] = { 0 };
	for (int i = 0; i < 3; i++)
		ck_assert(!begin(&accepts[i], &listener, WEIR__OP_ACCEPT));
	for (int i = 0; i < 3; i++) {
		int client = connect_tcp(&address);
		turns_until(&accepts[i].calls, 1);
		close(client);
		for (int j = i + 1; j < 3; j++)
			ck_assert_int_eq(accepts[j].calls, 0);
		close_given(&accepts[i]);
	}
	close_handle(&listener);
}
END_TEST

START_TEST(without_descriptors_accepting_ends_and_no_client_is_lost)
{
	struct sockaddr_in address;
	struct weir__handle listener = { .fd = listen_tcp(&address, 8) };
	struct watch accept = { .op.multi = _i == 0 };
	struct rlimit old, tight;
	int client;
	if (_i == 0)
		begin(&accept, &listener, WEIR__OP_ACCEPT);
	client = connect_tcp(&address);
	getrlimit(RLIMIT_NOFILE, &old);
	tight = old;
	tight.rlim_cur = (rlim_t)client + 1;
	for (int fd = 0; fd < client; fd++) /* no gaps */
		if (fcntl(fd, F_GETFD) < 0)
			tight.rlim_cur = (rlim_t)fd;
	setrlimit(RLIMIT_NOFILE, &tight);
	if (_i == 1)
		begin(&accept, &listener, WEIR__OP_ACCEPT);
	turns_until(&accept.calls, 1);
	ck_assert_int_eq(accept.res, -EMFILE);
	ck_assert(!accept.op.more);
	ck_assert_ptr_null(listener.ops);
	setrlimit(RLIMIT_NOFILE, &old);
	begin(&accept, &listener, WEIR__OP_ACCEPT); /* by no new event: there is none */
	turns_until(&accept.calls, 2);
	ck_assert_int_ge(accept.res, 0);
	close(accept.res);
	close(client);
	close_handle(&listener);
}
END_TEST

static void cancel_at_three(struct watch *watch)
{
	if (watch->calls == 3)
		cancel(watch);
}

START_TEST(a_listener_with_enough_clients_stops_in_the_middle_of_a_burst)
{
	struct sockaddr_in address;
	struct weir__handle listener = { .fd = listen_tcp(&address, 16) };
	struct watch accept = { .op.multi = true, .then = cancel_at_three };
	int clients[10];
	for (int i = 0; i < 10; i++)
		clients[i] = connect_tcp(&address);
	begin(&accept, &listener, WEIR__OP_ACCEPT);
	settle();
	ck_assert_int_eq(accept.calls, 4);
	ck_assert_int_eq(accept.res, -ECANCELED);
	begin(&accept, &listener, WEIR__OP_ACCEPT);
	turns_until(&accept.calls, 11);
	close_given(&accept);
	close_all(clients, 10);
	close_handle(&listener);
}
END_TEST

START_TEST(a_listener_two_drivers_share_starves_neither)
{
	struct sockaddr_in address;
	struct weir__handle handles[2];
	struct watch accepts[2] = { { .op.multi = true }, { .op.multi = true } };
	struct weir__io *ios[2] = { io, NULL };
	int clients[3];
	handles[0] = (struct weir__handle){ .fd = listen_tcp(&address, 8) };
	handles[1] = (struct weir__handle){ .fd = dup(handles[0].fd) };
	ck_assert_int_eq(weir__poll_open(&worker, &ios[1]), 0);
	for (int i = 0; i < 2; i++) {
		io = ios[i];
		begin(&accepts[i], &handles[i], WEIR__OP_ACCEPT);
	}
	clients[0] = connect_tcp(&address);
	io = ios[0];
	turn(WEIR_FOREVER); /* takes it */
	io = ios[1];
	turn(0); /* was told too, finds nothing, waits on */
	ck_assert_int_eq(accepts[0].calls, 1);
	ck_assert_int_eq(accepts[1].calls, 0);
	close_handle(&handles[1]);
	clients[1] = connect_tcp(&address);
	io = ios[0];
	turns_until(&accepts[0].calls, 2);
	close_handle(&handles[0]);
	ios[1]->driver.ops->close(&ios[1]->driver);
	close_all(accepts[0].given, 2);
	close_all(clients, 2);
}
END_TEST

/* ---- Connecting ------------------------------------------------------------------------------ */

START_TEST(a_connect_ends_when_it_is_through_and_leaves_its_handle)
{
	struct sockaddr_in address;
	int listener = listen_tcp(&address, 8);
	struct weir__handle connecting = { .fd = new_socket(AF_INET) }, ours;
	struct watch connect = { 0 }, recv = { 0 };
	begin_connect(&connect, &connecting, &address, sizeof(address));
	turns_until(&connect.calls, 1);
	ck_assert_int_eq(connect.res, 0);
	ours = connecting; /* as if made for the connection, or new and the old one gone */
	if (_i == 1)
		ours = (struct weir__handle){ .fd = connecting.fd };
	memset(&connecting, 0xee, sizeof(connecting));
	int theirs = accept(listener, NULL, NULL);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	put(theirs, "hello");
	turns_until(&recv.calls, 1);
	ck_assert_int_eq(recv.res, 5);
	close_handle(&ours);
	close(theirs);
	close(listener);
}
END_TEST

START_TEST(a_refused_connect_is_econnrefused)
{
	struct sockaddr_in address;
	struct sockaddr_un nobody;
	struct weir__handle tcp = { .fd = new_socket(AF_INET) };
	struct weir__handle local = { .fd = new_socket(AF_UNIX) };
	struct watch connect = { 0 };
	close(listen_tcp(&address, 1));
	begin_connect(&connect, &tcp, &address, sizeof(address));
	turns_until(&connect.calls, 1);
	ck_assert_int_eq(connect.res, -ECONNREFUSED);
	close_handle(&tcp);
	ck_assert(begin_connect(&connect, &local, &nobody, unix_address(&nobody, "nobody")));
	ck_assert_int_eq(connect.res, -ECONNREFUSED);
	close_handle(&local);
}
END_TEST

/* The backlog is full, so the handshake does not end. */
START_TEST(a_connect_without_an_answer_can_be_cancelled)
{
	struct sockaddr_in address;
	int listener = listen_tcp(&address, 0), first = connect_tcp(&address);
	struct weir__handle handle = { .fd = new_socket(AF_INET) };
	struct watch connect = { 0 };
	ck_assert(!begin_connect(&connect, &handle, &address, sizeof(address)));
	settle();
	ck_assert_int_eq(connect.calls, 0);
	cancel(&connect);
	ck_assert_int_eq(connect.res, -ECANCELED);
	close_handle(&handle);
	close(first);
	close(listener);
}
END_TEST

START_TEST(a_connect_waits_for_room_in_a_unix_backlog)
{
	enum { CONNS = 6 };
	struct sockaddr_un address;
	socklen_t len = unix_address(&address, "full");
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), over = 0;
	struct weir__handle handles[CONNS];
	struct watch connects[CONNS] = { 0 };
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, len), 0);
	ck_assert_int_eq(listen(listener, 0), 0);
	for (int i = 0; i < CONNS; i++) {
		handles[i] = (struct weir__handle){ .fd = new_socket(AF_UNIX) };
		over += begin_connect(&connects[i], &handles[i], &address, len);
	}
	ck_assert_int_eq(over, 1);
	settle();
	cancel(&connects[2]);
	cancel(&connects[CONNS - 1]);
	ck_assert_int_eq(connects[2].res, -ECANCELED);
	for (int through = 1; through < CONNS - 2; through++) {
		close(accept(listener, NULL, NULL)); /* room for one more, which nobody announces */
		while (io->driver.completions < (uint64_t)through + 3)
			turn(WEIR_FOREVER);
	}
	for (int i = 0; i < CONNS; i++) {
		ck_assert_int_eq(connects[i].calls, 1);
		ck_assert_int_eq(connects[i].res, i == 2 || i == CONNS - 1 ? -ECANCELED : 0);
		close_handle(&handles[i]);
	}
	close(listener);
}
END_TEST

/* ---- Cancelling ------------------------------------------------------------------------------ */

START_TEST(a_cancelled_receive_is_over_and_what_comes_later_waits_for_the_next)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	pair(_i, &ours, &theirs);
	ck_assert(!begin(&recv, &ours, WEIR__OP_RECV));
	cancel(&recv);
	ck_assert_int_eq(recv.calls, 1);
	ck_assert_int_eq(recv.res, -ECANCELED);
	ck_assert_int_eq(recv.op.state, WEIR__OP_FREE);
	cancel(&recv); /* too late: nothing */
	ck_assert_int_eq(recv.calls, 1);
	put(theirs, "hello");
	settle();
	ck_assert_int_eq(recv.calls, 1);
	ck_assert(begin(&recv, &ours, WEIR__OP_RECV));
	ck_assert_int_eq(recv.res, 5);
	close_handle(&ours);
	close(theirs);
}
END_TEST

/* ---- Events that outlive their handle -------------------------------------------------------- */

static void poison(struct weir__handle *handle)
{
	memset(handle, 0xee, sizeof(*handle)); /* as free() would: ops is a wild pointer now */
}

static struct watch *other;

static void close_other(struct watch *watch)
{
	(void)watch;
	other->then = NULL;
	close_handle(other->handle);
	poison(other->handle);
}

static void close_own(struct watch *watch)
{
	close_handle(watch->handle);
	poison(watch->handle);
}

START_TEST(an_event_of_a_handle_closed_in_its_batch_is_dropped)
{
	struct weir__handle a, b;
	struct watch recv_a = { .then = close_other }, recv_b = { .then = close_other };
	int their_a, their_b;
	pair(_i & 1, &a, &their_a);
	pair(_i & 1, &b, &their_b);
	begin(&recv_a, &a, WEIR__OP_RECV);
	begin(&recv_b, &b, WEIR__OP_RECV);
	settle();
	/* whichever comes first closes the second */
	put(_i & 2 ? their_b : their_a, "x");
	put(_i & 2 ? their_a : their_b, "x");
	other = _i & 2 ? &recv_a : &recv_b;
	turn(WEIR_FOREVER);
	ck_assert_int_eq(recv_a.calls, 1);
	ck_assert_int_eq(recv_b.calls, 1);
	ck_assert_int_eq(other->res, -ECANCELED);
	settle();
	close_handle(_i & 2 ? &b : &a);
	close(their_a);
	close(their_b);
}
END_TEST

START_TEST(a_handle_may_be_closed_by_its_own_completion)
{
	struct weir__handle ours;
	struct watch recv = { .then = close_own };
	int theirs;
	pair(_i & 1, &ours, &theirs);
	begin(&recv, &ours, WEIR__OP_RECV);
	settle();
	put(theirs, "x");
	if (_i & 2) /* readable, writable and at its end in one event */
		close(theirs);
	turns_until(&recv.calls, 1);
	ck_assert_int_eq(recv.res, 1);
	settle();
	if (!(_i & 2))
		close(theirs);
}
END_TEST

static void close_own_at_five(struct watch *watch)
{
	if (watch->calls == 5)
		close_own(watch);
}

START_TEST(a_listener_may_be_closed_in_the_middle_of_a_burst)
{
	struct sockaddr_in address;
	struct weir__handle listener = { .fd = listen_tcp(&address, 16) };
	struct watch accept = { .op.multi = true, .then = close_own_at_five };
	int clients[10];
	for (int i = 0; i < 10; i++)
		clients[i] = connect_tcp(&address);
	begin(&accept, &listener, WEIR__OP_ACCEPT);
	turns_until(&accept.calls, 6);
	ck_assert_int_eq(accept.res, -ECANCELED);
	close_given(&accept);
	close_all(clients, 10);
}
END_TEST

static struct weir__handle next_handle;
static struct watch next_recv;
static int next_theirs;

/* The descriptor's number comes back in the same batch, with another handle and nothing to read. */
static void reuse_other(struct watch *watch)
{
	int number = other->handle->fd;
	close_other(watch);
	unix_pair(&next_handle, &next_theirs);
	ck_assert_int_eq(next_handle.fd, number);
	ck_assert(!begin(&next_recv, &next_handle, WEIR__OP_RECV));
}

START_TEST(a_number_used_again_in_the_batch_gets_none_of_the_old_events)
{
	struct weir__handle a, b;
	struct watch recv_a = { .then = reuse_other }, recv_b = { 0 };
	int their_a, their_b;
	unix_pair(&a, &their_a);
	unix_pair(&b, &their_b);
	begin(&recv_a, &a, WEIR__OP_RECV);
	begin(&recv_b, &b, WEIR__OP_RECV);
	settle();
	other = &recv_b;
	put(their_a, "x");
	put(their_b, "x");
	turn(WEIR_FOREVER);
	settle();
	ck_assert_int_eq(next_recv.calls, 0);
	put(next_theirs, "mine");
	turns_until(&next_recv.calls, 1);
	ck_assert_int_eq(next_recv.res, 4);
	close_handle(&a);
	close_handle(&next_handle);
	close(their_a);
	close(their_b);
	close(next_theirs);
}
END_TEST

START_TEST(an_open_file_that_outlives_its_handle_sends_no_more_events)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	unix_pair(&ours, &theirs);
	begin(&recv, &ours, WEIR__OP_RECV);
	int copy = dup(ours.fd); /* as a forked child has it */
	close_handle(&ours);
	poison(&ours);
	put(theirs, "x");
	settle();
	ck_assert_int_eq(recv.calls, 1);
	ck_assert_int_eq(recv.res, -ECANCELED);
	close(copy);
	close(theirs);
}
END_TEST

START_TEST(a_batch_not_reaped_yet_is_not_lost)
{
	struct weir__handle ours;
	struct watch recv = { 0 };
	int theirs;
	unix_pair(&ours, &theirs);
	begin(&recv, &ours, WEIR__OP_RECV);
	settle();
	put(theirs, "x");
	io->driver.ops->submit_and_wait(&io->driver, INT64_MAX);
	io->driver.ops->submit_and_wait(&io->driver, INT64_MAX);
	io->driver.ops->reap(&io->driver);
	ck_assert_int_eq(recv.calls, 1);
	close_handle(&ours);
	close(theirs);
}
END_TEST

/* ---- Waking and waiting ---------------------------------------------------------------------- */

enum { WAKES = 2000 };
static _Atomic int sent, woken;

static void *wake_in_turn(void *arg)
{
	(void)arg;
	for (int i = 0; i < WAKES; i++) {
		while (woken < i)
			sched_yield();
		sent = i + 1;
		io->driver.ops->wake(&io->driver, NULL);
	}
	return NULL;
}

START_TEST(each_wake_ends_one_wait)
{
	pthread_t thread;
	ck_assert_int_eq(pthread_create(&thread, NULL, wake_in_turn, NULL), 0);
	for (int i = 0; i < WAKES; i++) {
		turn(WEIR_FOREVER);
		ck_assert_int_eq(sent, i + 1);
		woken = i + 1;
	}
	pthread_join(thread, NULL);
	ck_assert_uint_eq(io->driver.enters, WAKES);
}
END_TEST

static void wake_from_signal(int number)
{
	(void)number;
	io->driver.ops->wake(&io->driver, NULL);
}

START_TEST(a_signal_handler_before_the_wait_ends_it)
{
	ck_assert(signal(SIGUSR1, wake_from_signal) != SIG_ERR);
	for (int i = 0; i < 10; i++) {
		raise(SIGUSR1);
		turn(WEIR_FOREVER); /* no signal comes in here: only the wake can end it */
	}
}
END_TEST

START_TEST(another_worker_counts_the_call_that_wakes)
{
	struct weir__io *from;
	ck_assert_int_eq(weir__poll_open(&worker, &from), 0);
	io->driver.ops->wake(&io->driver, &from->driver);
	ck_assert_uint_eq(from->driver.enters, 1);
	ck_assert_uint_eq(io->driver.enters, 0);
	turn(WEIR_FOREVER);
	from->driver.ops->close(&from->driver);
}
END_TEST

static const int refusals[] = { 0, ENOSYS, EPERM };

START_TEST(a_wait_never_ends_before_its_time)
{
	static const int64_t times[] = { 1, 10 * WEIR_US, 999999, WEIR_MS + 1, 30 * WEIR_MS };
	if (refusals[_i])
		ck_assert_int_eq(
			refuse_syscall(SYS_epoll_pwait2, REFUSE_ANY, (uint32_t)refusals[_i]), 0);
	for (size_t i = 0; i < sizeof(times) / sizeof(*times); i++) {
		int64_t until = weir__clock_ns() + times[i];
		io->driver.ops->submit_and_wait(&io->driver, until);
		ck_assert_int_ge(weir__clock_ns(), until);
	}
	/* one call a wait, and one to find out about epoll_pwait2 */
	ck_assert_uint_le(io->driver.enters, sizeof(times) / sizeof(*times) + (_i > 0));
}
END_TEST

START_TEST(a_time_that_has_passed_is_no_wait)
{
	io->driver.ops->submit_and_wait(&io->driver, 1);
	io->driver.ops->submit_and_wait(&io->driver, weir__clock_ns() - WEIR_SEC);
	ck_assert_uint_eq(io->driver.enters, 2);
}
END_TEST

/* ---- What the kernel refuses ----------------------------------------------------------------- */

START_TEST(a_full_epoll_set_is_an_error_of_the_operation)
{
	struct weir__handle ours, listener;
	struct watch watch = { 0 }, accept = { .op.multi = true };
	struct sockaddr_in address;
	char *data = pattern(BIG_BYTES);
	int theirs;
	unix_pair(&ours, &theirs);
	listener.fd = listen_tcp(&address, 0);
	listener = (struct weir__handle){ .fd = listener.fd };
	ck_assert_int_eq(refuse_syscall(SYS_epoll_ctl, REFUSE_ANY, ENOSPC), 0);
	ck_assert(begin(&watch, &ours, WEIR__OP_RECV));
	ck_assert_int_eq(watch.res, -ENOSPC);
	ck_assert(begin_send(&watch, &ours, data, BIG_BYTES));
	ck_assert_int_gt(watch.res, 0); /* bytes beat errors */
	ck_assert(begin_send(&watch, &ours, data, BIG_BYTES));
	ck_assert_int_eq(watch.res, -ENOSPC);
	ck_assert(begin(&accept, &listener, WEIR__OP_ACCEPT));
	ck_assert_int_eq(accept.res, -ENOSPC);
	close_handle(&ours);
	close_handle(&listener);
	close(theirs);
	free(data);
}
END_TEST

START_TEST(opening_fails_cleanly)
{
	struct weir__io *none = NULL;
	struct rlimit limit;
	int before = count_descriptors();
	weir_mem_fail_after(1);
	ck_assert_int_eq(weir__poll_open(&worker, &none), -ENOMEM);
	weir_mem_fail_after(0);
	getrlimit(RLIMIT_NOFILE, &limit);
	int first_free = dup(0);
	close(first_free);
	for (int room = 0; room < 2; room++) {
		limit.rlim_cur = (rlim_t)(first_free + room);
		setrlimit(RLIMIT_NOFILE, &limit);
		ck_assert_int_eq(weir__poll_open(&worker, &none), -EMFILE);
	}
	ck_assert_ptr_null(none);
	ck_assert_int_eq(count_descriptors(), before);
}
END_TEST

/* ---- The suite ------------------------------------------------------------------------------- */

static TCase *add_case(Suite *suite, const char *name, const char *tags)
{
	TCase *tcase = tcase_create(name);
	tcase_set_tags(tcase, tags);
	tcase_add_checked_fixture(tcase, open_driver, close_driver);
	tcase_set_timeout(tcase, 10);
	suite_add_tcase(suite, tcase);
	return tcase;
}

static void add_receiving(Suite *suite)
{
	TCase *receiving = add_case(suite, "receiving", "fast");
	tcase_add_loop_test(receiving, what_has_arrived_is_received_at_once, 0, 2);
	tcase_add_loop_test(receiving, what_arrives_later_is_received_when_it_does, 0, 2);
	tcase_add_test(receiving, a_connection_that_waits_owns_no_buffer);
	tcase_add_loop_test(receiving, the_end_of_the_stream_is_seen_behind_the_data_and_ever_after,
			    0, 4);
	tcase_add_loop_test(receiving, a_half_closed_peer_can_still_be_sent_to, 0, 2);
	tcase_add_loop_test(receiving, a_reset_is_econnreset_waiting_or_not, 0, 2);
	tcase_add_test(receiving, urgent_data_does_not_hide_what_follows);
	tcase_add_test(receiving, descriptors_in_a_unix_stream_do_not_hide_what_follows);
	tcase_add_loop_test(receiving, a_full_buffer_means_there_may_be_more, 0, 2);
	tcase_add_test(receiving, the_second_group_has_bulk_buffers);
	tcase_add_loop_test(receiving, no_memory_is_enomem_and_loses_no_data, 0, 2);
	TCase *cost = add_case(suite, "cost", "fast");
	tcase_add_test(cost, a_request_costs_a_recv_a_send_and_its_share_of_a_wait);
	tcase_add_test(cost, a_look_without_waiting_is_not_taken_on_every_turn);
}

static void add_sending(Suite *suite)
{
	TCase *sending = add_case(suite, "sending", "fast");
	tcase_add_loop_test(sending, a_big_send_outlasts_a_slow_reader_and_is_one_completion, 0, 2);
	tcase_add_loop_test(sending, a_send_cancelled_midway_tells_what_has_gone, 0, 2);
	tcase_add_test(sending, a_send_to_nobody_is_epipe_and_no_signal);
	tcase_add_loop_test(sending, a_send_broken_midway_reports_the_bytes_then_the_error, 0, 2);
	tcase_add_loop_test(sending, both_directions_wait_independently, 0, 2);
	tcase_add_loop_test(sending, shutdown_ends_the_sending_half_only, 0, 2);
}

static void add_accepting(Suite *suite)
{
	TCase *accepting = add_case(suite, "accepting", "fast");
	tcase_add_test(accepting, a_burst_is_accepted_in_bounded_turns_by_one_operation);
	tcase_add_test(accepting, a_single_accept_takes_one_client_now_or_later);
	tcase_add_test(accepting, accepts_are_served_in_the_order_they_came);
	tcase_add_test(accepting, a_listener_with_enough_clients_stops_in_the_middle_of_a_burst);
	tcase_add_test(accepting, a_listener_two_drivers_share_starves_neither);
	/* not under memcheck: valgrind plays RLIMIT_NOFILE by closing what the kernel has accepted
	 */
	TCase *without = add_case(suite, "without_descriptors", "kernel_limits");
	tcase_add_loop_test(without, without_descriptors_accepting_ends_and_no_client_is_lost, 0,
			    2);
	TCase *connecting = add_case(suite, "connecting", "fast");
	tcase_add_loop_test(connecting, a_connect_ends_when_it_is_through_and_leaves_its_handle, 0,
			    2);
	tcase_add_test(connecting, a_refused_connect_is_econnrefused);
	tcase_add_test(connecting, a_connect_without_an_answer_can_be_cancelled);
	tcase_add_test(connecting, a_connect_waits_for_room_in_a_unix_backlog);
}

static void add_stale(Suite *suite)
{
	TCase *cancelling = add_case(suite, "cancelling", "fast");
	tcase_add_loop_test(cancelling,
			    a_cancelled_receive_is_over_and_what_comes_later_waits_for_the_next, 0,
			    2);
	TCase *stale = add_case(suite, "stale_events", "fast");
	tcase_add_loop_test(stale, an_event_of_a_handle_closed_in_its_batch_is_dropped, 0, 4);
	tcase_add_loop_test(stale, a_handle_may_be_closed_by_its_own_completion, 0, 4);
	tcase_add_test(stale, a_listener_may_be_closed_in_the_middle_of_a_burst);
	tcase_add_test(stale, a_number_used_again_in_the_batch_gets_none_of_the_old_events);
	tcase_add_test(stale, an_open_file_that_outlives_its_handle_sends_no_more_events);
	tcase_add_test(stale, a_batch_not_reaped_yet_is_not_lost);
}

Suite *io_poll_suite(void)
{
	Suite *suite = suite_create("io_poll");
	add_receiving(suite);
	add_sending(suite);
	add_accepting(suite);
	add_stale(suite);
	TCase *waiting = add_case(suite, "waiting", "fast");
	tcase_add_test(waiting, each_wake_ends_one_wait);
	tcase_add_test(waiting, a_signal_handler_before_the_wait_ends_it);
	tcase_add_test(waiting, another_worker_counts_the_call_that_wakes);
	tcase_add_test(waiting, a_time_that_has_passed_is_no_wait);
	TCase *refused = add_case(suite, "refused", "seccomp");
	tcase_add_loop_test(refused, a_wait_never_ends_before_its_time, 0, 3);
	tcase_add_test(refused, a_full_epoll_set_is_an_error_of_the_operation);
	tcase_add_test(refused, opening_fails_cleanly);
	return suite;
}
