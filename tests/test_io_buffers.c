/* SPDX-License-Identifier: MIT */
/*
 * test_io_buffers.c: the kernel refuses to take receive buffers; which of them a connection takes.
 *
 * io_uring_register_buf_ring() below stands before liburing's, for the whole test program.
 */
#include <errno.h>
#include <liburing.h>
#include <sys/syscall.h>

#include "io/conn.h"
#include "io/ring.h"
#include "tests/net_test.h"

enum { CONNS = 16, KEPT = 4, PATIENCE_S = 10 };

static bool is_refused;

int io_uring_register_buf_ring(struct io_uring *uring, struct io_uring_buf_reg *reg, unsigned flags)
{
	(void)flags;
	if (is_refused)
		return -ENOMEM;
	long n = syscall(SYS_io_uring_register, uring->ring_fd, IORING_REGISTER_PBUF_RING, reg, 1);
	return n < 0 ? -errno : 0;
}

/* NULL where there is nothing to be tested: another driver, or a kernel that takes back no ring. */
static struct weir__buffer_ring *small_buffers(void)
{
	struct weir__driver *driver = weir__worker_self()->driver;

	if (strcmp(driver->ops->name, "io_uring") != 0)
		return NULL;
	struct weir__ring *ring = weir__ring_of_driver(driver);
	bool is_still = ring->has_buffers && ring->uring.flags & IORING_SETUP_DEFER_TASKRUN;
	return is_still ? &ring->groups[WEIR__BUFFER_SMALL] : NULL;
}

static void expect_word(weir_conn *conn, weir_buf *buf, ssize_t expected)
{
	ck_assert_int_eq((int)weir_recv(conn, buf), (int)expected);
	if (expected > 0)
		ck_assert_mem_eq(buf->data, "hello", 5);
}

struct burst {
	struct ends ends[CONNS];
	weir_buf bufs[CONNS];
	struct weir__buffer_ring *group;
};

/* It is over but for a few leases when the ring is to shrink, and there is none any more. */
static void begin(struct burst *burst)
{
	burst->group = small_buffers();
	for (int i = 0; i < CONNS; i++)
		open_ends(&burst->ends[i], "127.0.0.1:0");
	for (int i = 0; i < CONNS; i++)
		put(burst->ends[i].near, "hello");
	for (int i = 0; i < CONNS; i++)
		expect_word(burst->ends[i].far, &burst->bufs[i], 5);
	is_refused = true;
	for (int i = KEPT; i < CONNS; i++)
		weir_buf_release(&burst->bufs[i]);
	while (burst->group && burst->group->ring)
		ck_assert_int_eq(weir_sleep(20 * WEIR_MS), 0);
}

static void release_the_rest(struct burst *burst)
{
	for (int i = 0; i < KEPT; i++)
		weir_buf_release(&burst->bufs[i]);
}

static void end(struct burst *burst)
{
	is_refused = false;
	expect_word(burst->ends[0].far, &burst->bufs[0], 5);
	weir_buf_release(&burst->bufs[0]);
	for (int i = 0; i < CONNS; i++)
		close_ends(&burst->ends[i]);
}

/* The leases come back to no ring. */
static int refuse_the_smaller_ring(void *arg)
{
	struct burst burst = { .group = NULL };
	WEIR_SCOPE(patience, PATIENCE_S * WEIR_SEC);

	(void)arg;
	begin(&burst);
	release_the_rest(&burst);
	put(burst.ends[0].near, "hello");
	if (burst.group)
		expect_word(burst.ends[0].far, &burst.bufs[0], -ENOMEM);
	end(&burst);
	return 0;
}

static bool is_told;

static int hear_of_no_memory(void *arg)
{
	weir_auto_buf buf = WEIR_BUF_INIT;

	expect_word(arg, &buf, -ENOMEM);
	is_told = true;
	return 0;
}

/* A receive waits for one of them to come back, and none comes back to it. */
static int release_where_one_waits(void *arg)
{
	struct burst burst = { .group = NULL };
	WEIR_SCOPE(patience, PATIENCE_S * WEIR_SEC);
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	begin(&burst);
	put(burst.ends[0].near, "hello");
	if (burst.group) {
		spawn(&scope, hear_of_no_memory, burst.ends[0].far);
		while (!burst.group->starved && !is_told)
			ck_assert_int_eq(weir_sleep(WEIR_MS), 0);
	}
	release_the_rest(&burst);
	ck_assert_int_eq(weir_scope_wait(&scope), 0);
	end(&burst);
	return 0;
}

START_TEST(a_ring_the_kernel_refuses_is_told_of_and_tried_again)
{
	setenv("WEIR_RECV_BUFFERS", "2", 1);
	setenv("WEIR_RECV_SHRINK_MS", "10", 1);
	run(refuse_the_smaller_ring);
}
END_TEST

START_TEST(who_waits_for_a_lease_that_comes_back_to_no_ring_is_told)
{
	setenv("WEIR_RECV_BUFFERS", "2", 1);
	setenv("WEIR_RECV_SHRINK_MS", "10", 1);
	run(release_where_one_waits);
}
END_TEST

/* ---- Their sizes ------------------------------------------------------------------------------
 */

enum { UP = 2, DOWN = 64, CROWD = 4 }; /* misfits in a row before another size is taken */

static char message[64 << 10];

/* One message, and how large the buffer was that it came in. */
static size_t pass(struct ends *ends, size_t bytes)
{
	weir_auto_buf buf = WEIR_BUF_INIT;
	size_t got = 0, cap = 0;

	ck_assert_int_eq(weir_write(ends->near, message, bytes), (ssize_t)bytes);
	while (got < bytes) {
		ssize_t n = weir_recv(ends->far, &buf);
		ck_assert_int_gt(n, 0);
		got += (size_t)n;
		cap = buf.cap;
	}
	return cap;
}

static void pass_many(struct ends *ends, unsigned count, size_t bytes, size_t cap)
{
	for (unsigned i = 0; i < count; i++)
		ck_assert_uint_eq(pass(ends, bytes), cap);
}

static int grow_and_shrink(void *arg)
{
	struct ends ends = { .near = NULL };

	(void)arg;
	open_ends(&ends, own_name("sizes"));
	size_t small = pass(&ends, 1), bulk = sizeof message;
	pass_many(&ends, UP - 1, small, small);
	pass_many(&ends, 1, small - 1, small);
	pass_many(&ends, UP, small, small);
	pass_many(&ends, 1, 1, bulk);
	pass_many(&ends, 1, bulk / 16, bulk);
	pass_many(&ends, DOWN - 1, bulk / 16 - 1, bulk);
	pass_many(&ends, 1, bulk / 16, bulk);
	pass_many(&ends, DOWN, bulk / 16 - 1, bulk);
	pass_many(&ends, 1, 1, small);
	close_ends(&ends);
	return 0;
}

START_TEST(larger_buffers_follow_full_ones_and_small_ones_follow_many_nearly_empty_ones)
{
	run(grow_and_shrink);
}
END_TEST

static void expect_group(struct ends *ends, unsigned count, size_t bytes, unsigned group)
{
	for (unsigned i = 0; i < count; i++) {
		(void)pass(ends, bytes);
		ck_assert_msg(ends->far->recv.group == group, "%zu bytes, the %uth: %u", bytes,
			      i + 1, ends->far->recv.group);
	}
}

static void open_bulk(struct ends *ends, int nth)
{
	char name[24];

	snprintf(name, sizeof name, "sizes%d", nth);
	open_ends(ends, own_name(name));
	size_t small = pass(ends, 1);
	pass_many(ends, UP, small, small);
	expect_group(ends, 1, sizeof message / 2, WEIR__BUFFER_BULK);
}

static int take_turns(void *arg)
{
	struct weir__io *io = weir__io_of(weir__worker_self());
	struct ends ends[CROWD] = { 0 };
	size_t bulk = sizeof message;

	(void)arg;
	if (!io->bulk_crowd)
		return 0;
	io->bulk_crowd = CROWD;
	for (int i = 0; i < CROWD - 1; i++)
		open_bulk(&ends[i], i);
	expect_group(&ends[0], 2 * UP, bulk, WEIR__BUFFER_BULK); /* three are no crowd */
	open_bulk(&ends[CROWD - 1], CROWD - 1);
	expect_group(&ends[0], UP, bulk / 2, WEIR__BUFFER_BULK);
	expect_group(&ends[0], DOWN + 1, bulk / 4, WEIR__BUFFER_TURNS);
	expect_group(&ends[0], DOWN, bulk / 4 - 1, WEIR__BUFFER_TURNS);
	expect_group(&ends[0], 2 * UP, bulk / 2 - 1, WEIR__BUFFER_BULK);
	expect_group(&ends[1], UP, bulk / 2, WEIR__BUFFER_BULK);
	for (int i = 2; i < CROWD; i++)
		close_ends(&ends[i]);
	expect_group(&ends[1], DOWN + 1, bulk / 2, WEIR__BUFFER_TURNS); /* half of them */
	close_ends(&ends[0]);
	expect_group(&ends[1], DOWN, bulk / 2, WEIR__BUFFER_TURNS);
	expect_group(&ends[1], 1, bulk / 2, WEIR__BUFFER_BULK);
	close_ends(&ends[1]);
	ck_assert_uint_eq(io->bulk_conns, 0);
	return 0;
}

START_TEST(a_crowd_with_large_messages_takes_turns_until_it_is_half_of_one)
{
	run(take_turns);
}
END_TEST

Suite *io_buffers_suite(void);
Suite *io_buffers_suite(void)
{
	Suite *suite = suite_create("io_buffers");
	TCase *buffers = add_case(suite, "buffers");

	tcase_set_tags(buffers, "net real"); /* the kernel's ring */
	tcase_add_test(buffers, a_ring_the_kernel_refuses_is_told_of_and_tried_again);
	tcase_add_test(buffers, who_waits_for_a_lease_that_comes_back_to_no_ring_is_told);
	TCase *sizes = add_case(suite, "sizes");
	tcase_set_tags(sizes, "net real"); /* what is sent in one piece arrives so */
	tcase_add_test(
		sizes,
		larger_buffers_follow_full_ones_and_small_ones_follow_many_nearly_empty_ones);
	tcase_add_test(sizes, a_crowd_with_large_messages_takes_turns_until_it_is_half_of_one);
	return suite;
}
