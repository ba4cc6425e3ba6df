/* SPDX-License-Identifier: MIT */
/*
 * test_io_ring_full.c: a submission queue that is full, and a kernel that takes nothing from it.
 *
 * io_uring_enter2() below stands before liburing's, for the whole test program, and refuses what it
 * is told to as the kernel does when it has no memory: nothing is taken and nobody waits. Nothing
 * else happens on these rings, no timer and no look after the heap: what is not started again by
 * the driver itself stays undone until the patience ends.
 */
#include <check.h>
#include <errno.h>
#include <liburing.h>
#include <signal.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "io/ring.h"
#include "tests/runtime_test.h"

enum { ENTRIES = 32, BYTES = 64, PATIENCE_S = 10, REFUSALS_MAX = 4 };

static unsigned refusals;	       /* enters with something to submit that are still refused */
static void (*after_enter)(int taken); /* once, after the next one */
static void (*before_sleep)(void);     /* once, when nothing more is looked at before the next */

int io_uring_enter2(unsigned fd, unsigned to_submit, unsigned min_complete, unsigned flags,
		    sigset_t *mask, size_t mask_bytes)
{
	if (min_complete > 0 && before_sleep) {
		void (*fn)(void) = before_sleep;
		before_sleep = NULL;
		fn();
	}
	if (to_submit > 0 && refusals > 0) {
		refusals--;
		return -EAGAIN;
	}
	long n = syscall(SYS_io_uring_enter, fd, to_submit, min_complete, flags, mask, mask_bytes);
	if (n >= 0 && to_submit > 0 && after_enter) {
		void (*fn)(int taken) = after_enter;
		after_enter = NULL;
		fn((int)n);
	}
	return n < 0 ? -errno : (int)n;
}

/* NULL on another driver, where there is nothing to be tested. */
static struct weir__ring *own_ring(void)
{
	struct weir__driver *driver = weir__worker_self()->driver;

	return strcmp(driver->ops->name, "io_uring") == 0 ? weir__ring_of_driver(driver) : NULL;
}

/* ---- Connections, more of them than entries -------------------------------------------------- */

enum { PAIRS = ENTRIES + 1 };

struct pairs {
	weir_conn *conns[PAIRS];
	int fds[PAIRS]; /* the far ends */
	unsigned arrived;
};

static void meet_all(struct pairs *pairs)
{
	char address[128];
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int len = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "weir-full-%d",
			   (int)getpid());
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct timeval patience = { .tv_sec = PATIENCE_S };

	snprintf(address, sizeof address, "unix:@%s", name.sun_path + 1);
	ck_assert_int_eq(
		bind(listener, (struct sockaddr *)&name,
		     (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len)),
		0);
	ck_assert_int_eq(listen(listener, PAIRS), 0);
	for (unsigned i = 0; i < PAIRS; i++) {
		ck_assert_int_eq(weir_connect(&pairs->conns[i], address), 0);
		pairs->fds[i] = accept(listener, NULL, NULL);
		ck_assert_int_ge(pairs->fds[i], 0);
		setsockopt(pairs->fds[i], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	}
	close(listener);
}

static void part(struct pairs *pairs)
{
	for (unsigned i = 0; i < PAIRS; i++) {
		weir_conn_close(pairs->conns[i]);
		close(pairs->fds[i]);
	}
}

static void send_some(weir_conn *conn)
{
	weir_auto_buf buf = WEIR_BUF_INIT;

	ck_assert_int_eq(weir_buf_get(&buf, BYTES), 0);
	memset(buf.data, 'x', BYTES);
	buf.len = BYTES;
	ck_assert_int_eq((int)weir_send(conn, &buf), BYTES);
}

/* On a thread, so that the worker has nothing to do meanwhile. */
static int read_all(void *arg)
{
	struct pairs *pairs = arg;
	char bytes[BYTES];

	for (unsigned i = 0; i < PAIRS; i++)
		pairs->arrived += recv(pairs->fds[i], bytes, BYTES, MSG_WAITALL) == BYTES;
	return 0;
}

/* One more than there are entries for; nobody waits for any of them. */
static int send_to_all(void *arg)
{
	struct pairs pairs = { .arrived = 0 };

	meet_all(&pairs);
	(void)weir_sleep(WEIR_MS); /* with nothing queued */
	if (own_ring())
		refusals = *(unsigned *)arg;
	for (unsigned i = 0; i < PAIRS; i++)
		send_some(pairs.conns[i]);
	ck_assert_int_eq(weir_blocking(read_all, &pairs), 0);
	ck_assert_uint_eq(pairs.arrived, PAIRS);
	part(&pairs);
	return 0;
}

/* ---- Cancelling when no entry is left for it ------------------------------------------------- */

struct closing {
	struct pairs pairs;
	struct weir_scope *scope;
};

/* In a cancelled task a close does not linger: it cancels the send. */
static int close_cancelled(void *arg)
{
	struct closing *closing = arg;

	weir_scope_cancel(closing->scope);
	weir_conn_close(closing->pairs.conns[0]);
	closing->pairs.conns[0] = NULL;
	return 0;
}

static void cancel_first(struct closing *closing)
{
	WEIR_SCOPE(scope, PATIENCE_S * WEIR_SEC);

	closing->scope = &scope;
	ck_assert_int_eq(weir_spawn(&scope, close_cancelled, closing), 0);
	ck_assert_int_eq(weir_scope_wait(&scope), -ECANCELED);
}

static int cancel_among_many(void *arg)
{
	struct closing closing = { .scope = NULL };
	struct pairs *pairs = &closing.pairs;

	meet_all(pairs);
	(void)weir_sleep(WEIR_MS);
	for (unsigned i = 0; i < ENTRIES; i++)
		send_some(pairs->conns[i]);
	if (own_ring())
		refusals = *(unsigned *)arg;
	cancel_first(&closing);
	WEIR_SCOPE(patience, PATIENCE_S * WEIR_SEC);
	for (unsigned i = 1; i < PAIRS; i++) /* waits until the one before is over */
		send_some(pairs->conns[i]);
	ck_assert_int_eq(weir_blocking(read_all, pairs), 0);
	ck_assert_uint_eq(pairs->arrived, PAIRS);
	part(pairs);
	return 0;
}

/* ---- The ear for strangers ------------------------------------------------------------------- */

static unsigned refusals_then;

/* All the entries that there will be when the kernel has taken so many. */
static void fill_queue(int taken)
{
	struct weir__ring *ring = own_ring();

	while (ring->uring.sq.sqe_tail != ring->full_at + (unsigned)taken) {
		struct io_uring_sqe *sqe = weir__ring_next_sqe(ring);
		io_uring_prep_nop(sqe);
		sqe->user_data = weir__ring_special(WEIR__CODE_IGNORE, 0);
	}
	refusals = refusals_then;
}

static int nothing(void *arg)
{
	(void)arg;
	return 0;
}

/* The kernel ends its poll of the eventfd while there is no entry to arm another. */
static int lose_an_ear(void *arg)
{
	struct weir__ring *ring = own_ring();

	refusals_then = *(unsigned *)arg;
	(void)weir_sleep(WEIR_MS);
	if (ring) {
		struct io_uring_sqe *sqe = weir__ring_get_sqe(ring);
		io_uring_prep_cancel64(sqe, weir__ring_special(WEIR__CODE_WAKE, 0), 0);
		sqe->user_data = weir__ring_special(WEIR__CODE_IGNORE, 0);
		after_enter = fill_queue;
	}
	(void)weir_sleep(WEIR_MS);
	ck_assert_int_eq(weir_blocking(nothing, NULL), 0); /* whose thread wakes us at its end */
	ck_assert(!ring || !ring->is_deaf);
	return 0;
}

/* ---- What ends before its cancellation found an entry ---------------------------------------- */

struct late {
	weir_listener *listener;
	int result;
};

/* When it goes on nothing of its operation may be left, which lay on its stack. */
static int accept_late(void *arg)
{
	struct late *late = arg;
	weir_auto_conn conn = NULL;

	late->result = weir_accept(late->listener, &conn);
	ck_assert(!own_ring() || !own_ring()->waiting);
	return 0;
}

/* A client, and the completion of its accept lies in the queue. */
static int knock(const weir_listener *listener)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	const char *text = weir_listener_address(listener) + strlen("unix:@");
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t len = strlen(text);

	memcpy(name.sun_path + 1, text, len);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&name,
				 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + len)),
			 0);
	if (own_ring())
		(void)weir__ring_enter(own_ring(), 0, NULL);
	return fd;
}

static int end_before_cancelled(void *arg)
{
	struct late late = { .result = 1 };
	char address[64];
	WEIR_SCOPE(patience, PATIENCE_S * WEIR_SEC);

	snprintf(address, sizeof address, "unix:@weir-late-%d", (int)getpid());
	ck_assert_int_eq(weir_listen(&late.listener, address), 0);
	WEIR_SCOPE(scope, WEIR_FOREVER);
	ck_assert_int_eq(weir_spawn(&scope, accept_late, &late), 0);
	ck_assert_int_eq(weir_sleep(WEIR_MS), 0);
	int fd = knock(late.listener);
	if (own_ring()) {
		refusals_then = *(unsigned *)arg;
		fill_queue(0);
	}
	weir_scope_cancel(&scope);
	ck_assert_int_eq(weir_scope_wait(&scope), -ECANCELED);
	weir_scope_close(&scope);
	ck_assert(late.result == 0 || late.result == -ECANCELED);
	close(fd);
	weir_listener_close(late.listener);
	return 0;
}

/* ---- A completion too late ------------------------------------------------------------------- */

static int stale_fd;

/* The NOP's completion becomes that of an accept long gone, with a client. */
static void forge(int taken)
{
	struct io_uring_cq *cq = &own_ring()->uring.cq;

	(void)taken;
	for (unsigned at = *cq->khead; at != __atomic_load_n(cq->ktail, __ATOMIC_ACQUIRE); at++) {
		struct io_uring_cqe *cqe = &cq->cqes[at & cq->ring_mask];
		if (cqe->user_data == weir__ring_special(WEIR__CODE_IGNORE, 99)) {
			cqe->user_data =
				weir__ring_special(WEIR__OP_ACCEPT | WEIR__CODE_WANTS_FD, 0) |
				(uint64_t)77 << WEIR__GENERATION_SHIFT;
			cqe->res = stale_fd;
		}
	}
}

static uint64_t stale_completions(void)
{
	struct weir_worker_stats stats;

	ck_assert_int_eq(weir_worker_stats_get(0, &stats), 0);
	return stats.stale_completions;
}

static int hear_of_a_late_client(void *arg)
{
	struct weir__ring *ring = own_ring();
	int pair[2];
	char byte;

	(void)arg;
	if (!ring)
		return 0;
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	stale_fd = pair[0];
	uint64_t before = stale_completions();
	struct io_uring_sqe *sqe = weir__ring_get_sqe(ring);
	io_uring_prep_nop(sqe);
	sqe->user_data = weir__ring_special(WEIR__CODE_IGNORE, 99);
	after_enter = forge;
	ck_assert_int_eq(weir_sleep(WEIR_MS), 0);
	ck_assert_uint_eq(stale_completions(), before + 1);
	ck_assert_int_eq(recv(pair[1], &byte, 1, MSG_DONTWAIT), 0); /* the other end is closed */
	close(pair[1]);
	return 0;
}

/* ---- An entry too late ------------------------------------------------------------------------
 */

static void raise_one(void)
{
	ck_assert_int_eq(raise(SIGUSR1), 0);
}

/* The handler runs on the worker's own thread; an entry that it adds to the ring is seen too late.
 */
static int hear_a_signal(void *arg)
{
	WEIR_SCOPE(patience, PATIENCE_S * WEIR_SEC);

	(void)arg;
	before_sleep = own_ring() ? raise_one : NULL;
	if (before_sleep)
		expect(weir_signal_wait(SIGUSR1) == SIGUSR1);
	return 0;
}

/* ---- All ------------------------------------------------------------------------------------- */

static void run_refused(int (*fn)(void *), unsigned count)
{
	setenv("WEIR_SQ_ENTRIES", "32", 1);
	setenv("WEIR_POOL_EPOCH_MS", "60000", 1);
	setenv("WEIR_STALL_MS", "0", 1); /* a stall is looked into by a signal, which wakes */
	run_on(1, fn, &count);
}

START_TEST(what_found_no_entry_starts_though_nothing_else_happens)
{
	run_refused(send_to_all, (unsigned)_i);
}
END_TEST

START_TEST(a_quiet_send_is_cancelled_without_an_entry)
{
	run_refused(cancel_among_many, (unsigned)_i);
}
END_TEST

START_TEST(a_wake_up_from_outside_is_heard_after_its_poll_found_no_entry)
{
	run_refused(lose_an_ear, (unsigned)_i);
}
END_TEST

START_TEST(what_ends_before_its_cancellation_found_an_entry_leaves_nothing)
{
	run_refused(end_before_cancelled, (unsigned)_i);
}
END_TEST

START_TEST(a_client_of_an_accept_that_is_no_more_is_closed_and_counted)
{
	run_refused(hear_of_a_late_client, 0);
}
END_TEST

START_TEST(a_signal_is_heard_that_comes_when_its_worker_goes_to_sleep)
{
	run_refused(hear_a_signal, 0);
}
END_TEST

Suite *io_ring_full_suite(void);
Suite *io_ring_full_suite(void)
{
	Suite *suite = suite_create("io_ring_full");
	TCase *tcase = tcase_create("refused");

	tcase_set_timeout(tcase, 2 * PATIENCE_S);
	tcase_set_tags(tcase, "fast real"); /* the kernel's ring */
	tcase_add_loop_test(tcase, what_found_no_entry_starts_though_nothing_else_happens, 0,
			    REFUSALS_MAX + 1);
	tcase_add_loop_test(tcase, a_quiet_send_is_cancelled_without_an_entry, 0, REFUSALS_MAX + 1);
	tcase_add_loop_test(tcase, a_wake_up_from_outside_is_heard_after_its_poll_found_no_entry, 0,
			    REFUSALS_MAX + 1);
	tcase_add_loop_test(tcase, what_ends_before_its_cancellation_found_an_entry_leaves_nothing,
			    0, REFUSALS_MAX + 1);
	tcase_add_test(tcase, a_client_of_an_accept_that_is_no_more_is_closed_and_counted);
	tcase_add_test(tcase, a_signal_is_heard_that_comes_when_its_worker_goes_to_sleep);
	suite_add_tcase(suite, tcase);
	return suite;
}
