/* SPDX-License-Identifier: MIT */
/*
 * copy_test.h: what the suites of copying share: two connections and a task that copies from one to
 * the other.
 */
#ifndef TESTS_COPY_TEST_H
#define TESTS_COPY_TEST_H

#include "tests/net_test.h"

/* A source's two sides and a sink's: what is put into in.near is to come out of out.far. */
struct road {
	struct ends in, out;
	int64_t moved, back;
	int64_t result;
	int64_t idle_ns;
	bool ends_together, finish, is_over;
};

static inline void open_road(struct road *road, const char *address)
{
	open_ends(&road->in, address);
	open_ends(&road->out, "127.0.0.1:0");
}

static inline void close_road(struct road *road)
{
	close_ends(&road->in);
	close_ends(&road->out);
}

static inline int copy_road(void *arg)
{
	struct road *road = arg;

	road->result = weir_copy(weir_end_conn(road->in.far), weir_end_conn(road->out.near),
				 .moved = &road->moved, .finish = road->finish);
	road->is_over = true;
	return 0;
}

static inline int copy_both(void *arg)
{
	struct road *road = arg;

	road->result =
		weir_copy_both(weir_end_conn(road->in.far), weir_end_conn(road->out.near),
			       .a_to_b = &road->moved, .b_to_a = &road->back,
			       .idle_ns = road->idle_ns, .ends_together = road->ends_together);
	road->is_over = true;
	return 0;
}

static inline void expect_text(weir_conn *conn, const char *text)
{
	char got[64];

	ck_assert_int_eq(weir_read_full(conn, got, strlen(text)), 0);
	ck_assert_mem_eq(got, text, strlen(text));
}

static inline void expect_end(weir_conn *conn)
{
	char byte;

	ck_assert_int_eq(weir_read_full(conn, &byte, 1), -ENODATA);
}

#endif
