/* SPDX-License-Identifier: MIT */
/*
 * datagram_test.h: what the suites of datagram sockets share: two sockets that know each other's
 * address, and short texts between them.
 */
#ifndef TESTS_DATAGRAM_TEST_H
#define TESTS_DATAGRAM_TEST_H

#include "tests/net_test.h"

/* Two sockets, which know of each other what a program would: an address. */
struct pair {
	weir_dgram *near, *far;
	struct weir_address near_address, far_address;
};

static inline const char *client_address(int i)
{
	return i < 2 ? addresses[i] : "unix:";
}

static inline void parse(struct weir_address *ret, const char *text)
{
	ck_assert_int_eq(weir_address_parse(ret, text), 0);
}

static inline void open_pair(struct pair *pair, int i)
{
	ck_assert_int_eq(weir_dgram_open(&pair->far, address_of(i)), 0);
	ck_assert_int_eq(weir_dgram_open(&pair->near, client_address(i)), 0);
	parse(&pair->near_address, weir_dgram_address(pair->near));
	parse(&pair->far_address, weir_dgram_address(pair->far));
}

static inline void close_pair(struct pair *pair)
{
	weir_dgram_close(pair->near);
	weir_dgram_close(pair->far);
}

static inline void send_text(weir_dgram *dgram, const char *text, const struct weir_address *to)
{
	ck_assert_int_eq(weir_dgram_send(dgram, text, strlen(text), to), (ssize_t)strlen(text));
}

static inline void expect_text(weir_dgram *dgram, const char *text)
{
	char got[64];
	ck_assert_int_eq(weir_dgram_read(dgram, got, sizeof(got), NULL), (ssize_t)strlen(text));
	ck_assert_mem_eq(got, text, strlen(text));
}

static inline void run_case(weir_fn fn, int i)
{
	run_on(1, fn, (void *)(intptr_t)i);
}

struct reader {
	weir_dgram *dgram;
	ssize_t result;
	int number;
};

static inline int read_number(void *arg)
{
	struct reader *reader = arg;
	reader->result = weir_dgram_read(reader->dgram, &reader->number, sizeof(int), NULL);
	return 0;
}

/* Memcheck takes half a second for each test: it has those that touch every path of the bytes. */
static inline TCase *add_other_case(Suite *suite, const char *name)
{
	TCase *tcase = add_case(suite, name);
	tcase_set_tags(tcase, "datagram");
	return tcase;
}

#endif
