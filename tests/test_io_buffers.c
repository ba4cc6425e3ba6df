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

static int hear_of_no_memory(void *arg)
{
	weir_auto_buf buf = WEIR_BUF_INIT;

	expect_word(arg, &buf, -ENOMEM);
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
		while (!burst.group->starved)
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

Suite *io_buffers_suite(void);
Suite *io_buffers_suite(void)
{
	Suite *suite = suite_create("io_buffers");
	TCase *buffers = add_case(suite, "buffers");

	tcase_set_tags(buffers, "net real"); /* the kernel's ring */
	tcase_add_test(buffers, a_ring_the_kernel_refuses_is_told_of_and_tried_again);
	tcase_add_test(buffers, who_waits_for_a_lease_that_comes_back_to_no_ring_is_told);
	return suite;
}
