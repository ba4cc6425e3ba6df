/* SPDX-License-Identifier: MIT */
/*
 * test_io_buffers.c: the kernel refuses to take receive buffers.
 *
 * io_uring_register_buf_ring() below stands before liburing's, for the whole test program.
 */
#include <errno.h>
#include <liburing.h>
#include <sys/syscall.h>

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

/* A burst is over but for a few leases when the ring is to shrink; these come back to no ring. */
static int refuse_the_smaller_ring(void *arg)
{
	struct ends ends[CONNS] = { 0 };
	weir_buf bufs[CONNS] = { { .data = NULL } };
	struct weir__buffer_ring *group = small_buffers();
	WEIR_SCOPE(patience, PATIENCE_S * WEIR_SEC);

	(void)arg;
	for (int i = 0; i < CONNS; i++)
		open_ends(&ends[i], "127.0.0.1:0");
	for (int i = 0; i < CONNS; i++)
		put(ends[i].near, "hello");
	for (int i = 0; i < CONNS; i++)
		expect_word(ends[i].far, &bufs[i], 5);
	is_refused = true;
	for (int i = KEPT; i < CONNS; i++)
		weir_buf_release(&bufs[i]);
	while (group && group->ring)
		ck_assert_int_eq(weir_sleep(20 * WEIR_MS), 0);
	for (int i = 0; i < KEPT; i++)
		weir_buf_release(&bufs[i]);
	put(ends[0].near, "hello");
	if (group)
		expect_word(ends[0].far, &bufs[0], -ENOMEM);
	is_refused = false;
	expect_word(ends[0].far, &bufs[0], 5);
	weir_buf_release(&bufs[0]);
	for (int i = 0; i < CONNS; i++)
		close_ends(&ends[i]);
	return 0;
}

START_TEST(a_ring_the_kernel_refuses_is_told_of_and_tried_again)
{
	setenv("WEIR_RECV_BUFFERS", "2", 1);
	setenv("WEIR_RECV_SHRINK_MS", "10", 1);
	run(refuse_the_smaller_ring);
}
END_TEST

Suite *io_buffers_suite(void);
Suite *io_buffers_suite(void)
{
	Suite *suite = suite_create("io_buffers");
	TCase *buffers = add_case(suite, "buffers");

	tcase_set_tags(buffers, "net real"); /* the kernel's ring */
	tcase_add_test(buffers, a_ring_the_kernel_refuses_is_told_of_and_tried_again);
	return suite;
}
