/* SPDX-License-Identifier: MIT */
/*
 * Datagram sockets: UDP over IPv4 and IPv6, and Unix sockets with and without a file. What is sent
 * comes whole, with its sender, or says that it was cut; it is counted, and memory may be short.
 */
#include "tests/datagram_test.h"

enum { UDP_BYTES_MAX = 65507 };

/* ---- There and back -------------------------------------------------------------------------- */

static int answered(void *arg)
{
	struct pair pair;
	struct weir_address from;
	weir_auto_buf buf = WEIR_BUF_INIT;
	char text[128];
	open_pair(&pair, (int)(intptr_t)arg);
	send_text(pair.near, "question", &pair.far_address);
	ck_assert_int_eq(weir_dgram_recv(pair.far, &buf, &from), 8);
	ck_assert_int_eq(buf.len, 8);
	ck_assert_mem_eq(buf.data, "question", 8);
	ck_assert(weir_address_equal(&from, &pair.near_address));
	ck_assert(!weir_address_equal(&from, &pair.far_address));
	ck_assert_int_eq(weir_address_format(&from, text, sizeof(text)), 0);
	ck_assert_str_eq(text, weir_dgram_address(pair.near));
	ck_assert_int_eq(weir_dgram_send(pair.far, buf.data, buf.len, &from), 8);
	expect_text(pair.near, "question");
	close_pair(&pair);
	ck_assert_mem_eq(buf.data, "question", 8); /* a lease outlives its socket */
	return 0;
}

START_TEST(a_datagram_comes_with_its_sender_and_can_be_answered)
{
	run_case(answered, _i);
	if (addresses[_i] == NULL) /* the file is gone with the socket */
		ck_assert_int_ne(access(address_of(_i) + strlen("unix:"), F_OK), 0);
}
END_TEST

static int every_length(void *arg)
{
	static const size_t lens[] = { 1, 0, 63, 1472, 3967, 3968, 3969, 4096, 65379, 65507, 0, 2 };
	char *data = pattern(UDP_BYTES_MAX), *got = malloc(UDP_BYTES_MAX);
	weir_auto_buf buf = WEIR_BUF_INIT;
	struct pair pair;
	open_pair(&pair, (int)(intptr_t)arg);
	for (size_t i = 0; i < COUNT(lens); i++) {
		ssize_t len = (ssize_t)lens[i];
		ck_assert_int_eq(weir_dgram_send(pair.near, data, lens[i], &pair.far_address), len);
		ck_assert_int_eq(weir_dgram_recv(pair.far, &buf, NULL), len);
		ck_assert_uint_eq(buf.len, lens[i]);
		ck_assert(memcmp(buf.data, data, lens[i]) == 0);
		ck_assert_int_eq(weir_dgram_send(pair.far, data, lens[i], &pair.near_address), len);
		ck_assert_int_eq(weir_dgram_read(pair.near, got, UDP_BYTES_MAX, NULL), len);
		ck_assert(memcmp(got, data, lens[i]) == 0);
	}
	close_pair(&pair);
	free(data);
	free(got);
	return 0;
}

START_TEST(every_length_comes_as_it_went_and_none_is_no_end)
{
	run_case(every_length, _i);
}
END_TEST

/* All of them fit a socket's buffer as Linux makes it: over UDP the rest would be lost. */
enum { MANY = 50, SENDERS = 4 };

static int send_many(void *arg)
{
	const struct pair *pair = arg;
	for (int i = 0; i < MANY; i++) {
		ck_assert_int_eq(weir_dgram_send(pair->near, &i, sizeof(i), &pair->far_address),
				 sizeof(i));
		if (i % 20 == 0)
			weir_yield();
	}
	return 0;
}

static int many_senders(void *arg)
{
	struct pair pair;
	int seen[MANY] = { 0 };
	open_pair(&pair, (int)(intptr_t)arg);
	WEIR_SCOPE(senders, WEIR_FOREVER);
	for (int i = 0; i < SENDERS; i++)
		spawn(&senders, send_many, &pair);
	for (int i = 0; i < SENDERS * MANY; i++) {
		int number;
		ck_assert_int_eq(weir_dgram_read(pair.far, &number, sizeof(number), NULL),
				 sizeof(number));
		ck_assert(number >= 0 && number < MANY);
		seen[number]++;
	}
	for (int i = 0; i < MANY; i++)
		ck_assert_int_eq(seen[i], SENDERS);
	ck_assert_int_eq(weir_scope_wait(&senders), 0);
	close_pair(&pair);
	return 0;
}

START_TEST(any_number_of_tasks_send_on_one_socket)
{
	run_case(many_senders, _i);
}
END_TEST

/* More than wait at the socket here: the rest waits in the kernel. */
static int unread(void *arg)
{
	struct pair pair;
	int count = 150;
	open_pair(&pair, (int)(intptr_t)arg);
	send_text(pair.near, "first", &pair.far_address);
	expect_text(pair.far, "first"); /* now it receives */
	for (int i = 0; i < count; i++)
		ck_assert_int_eq(weir_dgram_send(pair.near, &i, sizeof(i), &pair.far_address),
				 sizeof(i));
	settle();
	for (int i = 0; i < count; i++) {
		int number;
		ck_assert_int_eq(weir_dgram_read(pair.far, &number, sizeof(number), NULL),
				 sizeof(number));
		ck_assert_int_eq(number, i);
	}
	close_pair(&pair);
	return 0;
}

START_TEST(what_comes_while_nobody_reads_waits_in_order)
{
	run_case(unread, _i);
}
END_TEST

static int echo_datagrams(void *arg)
{
	weir_dgram *dgram = arg;
	for (;;) {
		weir_auto_buf buf = WEIR_BUF_INIT;
		struct weir_address from;
		ssize_t n = weir_dgram_recv(dgram, &buf, &from);
		if (n >= 0)
			n = weir_dgram_send(dgram, buf.data, buf.len, &from);
		if (n < 0)
			return (int)n;
	}
}

static int both_families(void *arg)
{
	weir_auto_dgram server = NULL;
	char text[64], from_text[64];
	(void)arg;
	ck_assert_int_eq(weir_dgram_open(&server, ":0"), 0);
	const char *port = strrchr(weir_dgram_address(server), ':');
	WEIR_SCOPE(serving, WEIR_FOREVER);
	spawn(&serving, echo_datagrams, server);
	for (int i = 0; i < 2; i++) {
		weir_auto_dgram client = NULL;
		struct weir_address to, from;
		ck_assert_int_eq(weir_dgram_open(&client, addresses[i]), 0);
		snprintf(text, sizeof(text), "%s%s", i ? "[::1]" : "127.0.0.1", port);
		parse(&to, text);
		send_text(client, "hello", &to);
		char got[8];
		ck_assert_int_eq(weir_dgram_read(client, got, sizeof(got), &from), 5);
		ck_assert_int_eq(weir_address_format(&from, from_text, sizeof(from_text)), 0);
		ck_assert_str_eq(from_text, text);
	}
	weir_scope_close(&serving);
	return 0;
}

START_TEST(every_address_means_both_families)
{
	run_on(1, both_families, NULL);
}
END_TEST

/* ---- What does not fit ----------------------------------------------------------------------- */

static int cut(void *arg)
{
	int i = (int)(intptr_t)arg;
	weir_auto_dgram small = NULL;
	weir_auto_dgram near = NULL;
	weir_auto_buf buf = WEIR_BUF_INIT;
	struct weir_address to, from;
	char *data = pattern(70000), got[200];
	ck_assert_int_eq(weir_dgram_open(&small, address_of(i), .bytes_max = 100), 0);
	ck_assert_int_eq(weir_dgram_open(&near, client_address(i)), 0);
	parse(&to, weir_dgram_address(small));
	for (size_t len = 100; len <= 6500; len *= 8) {
		bool fits = len == 100;
		ck_assert_int_eq(weir_dgram_send(near, data, len, &to), (ssize_t)len);
		memset(&from, 0, sizeof(from));
		ck_assert_int_eq(weir_dgram_recv(small, &buf, &from), fits ? 100 : -EMSGSIZE);
		ck_assert_uint_eq(buf.len, 100);
		ck_assert_mem_eq(buf.data, data, 100);
		ck_assert_uint_ne(from.len, 0);
		ck_assert_int_eq(weir_dgram_send(near, data, len, &to), (ssize_t)len);
		memset(got, 'x', sizeof(got));
		ck_assert_int_eq(weir_dgram_read(small, got, 70, NULL), -EMSGSIZE);
		ck_assert_mem_eq(got, data, 70);
		ck_assert_int_eq(got[70], 'x');
	}
	send_text(near, "short", &to); /* the rest of those is gone */
	expect_text(small, "short");
	free(data);
	return 0;
}

START_TEST(a_datagram_that_is_cut_says_so)
{
	run_case(cut, _i);
}
END_TEST

static int too_long(void *arg)
{
	struct pair pair;
	int i = (int)(intptr_t)arg;
	size_t len = UDP_BYTES_MAX + 1 + (i == 1) * 20; /* IPv6 has the longer ones */
	char *data = pattern(len);
	open_pair(&pair, i);
	ck_assert_int_eq(weir_dgram_send(pair.near, data, len, &pair.far_address), -EMSGSIZE);
	send_text(pair.near, "next", &pair.far_address);
	expect_text(pair.far, "next");
	close_pair(&pair);
	free(data);
	return 0;
}

START_TEST(what_is_too_long_to_send_is_emsgsize_at_once)
{
	run_case(too_long, _i);
}
END_TEST

/* ---- Seeing and counting --------------------------------------------------------------------- */

static char *written(int (*write)(FILE *out))
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);
	ck_assert_int_eq(write(out), 0);
	fclose(out);
	return text;
}

static int seen(void *arg)
{
	struct pair pair;
	struct reader reader;
	char *text, expected[128];
	weir_auto_dgram small = NULL;
	struct weir_address to;
	(void)arg;
	open_pair(&pair, 0);
	reader = (struct reader){ .dgram = pair.far };
	WEIR_SCOPE(reading, WEIR_FOREVER);
	spawn(&reading, read_number, &reader);
	settle();
	text = written(weir_tasks_write);
	snprintf(expected, sizeof(expected), " at %s", weir_dgram_address(pair.far));
	ck_assert_ptr_nonnull(strstr(text, " in datagram recv ("));
	ck_assert_ptr_nonnull(strstr(text, expected));
	free(text);
	send_text(pair.near, "four", &pair.far_address);
	ck_assert_int_eq(weir_scope_wait(&reading), 0);
	ck_assert_int_eq(weir_dgram_open(&small, "127.0.0.1:0", .bytes_max = 3), 0);
	parse(&to, weir_dgram_address(small));
	send_text(pair.near, "five", &to);
	ck_assert_int_eq(weir_dgram_read(small, expected, sizeof(expected), NULL), -EMSGSIZE);
	ck_assert_int_eq(weir_dgram_send(pair.near, "x", 1, NULL), -EDESTADDRREQ);
	text = written(weir_metrics_write);
	ck_assert_ptr_nonnull(strstr(text, "\nweir_datagrams_received_total 2\n"));
	ck_assert_ptr_nonnull(strstr(text, "\nweir_datagrams_cut_total 1\n"));
	ck_assert_ptr_nonnull(strstr(text, "\nweir_datagrams_sent_total 2\n"));
	ck_assert_ptr_nonnull(strstr(text, "\nweir_datagrams_failed_total 1\n"));
	free(text);
	close_pair(&pair);
	return 0;
}

START_TEST(who_waits_is_listed_and_what_went_is_counted)
{
	run(seen);
}
END_TEST

/* ---- Memory ---------------------------------------------------------------------------------- */

static int exchange_datagrams(void)
{
	weir_auto_dgram near = NULL;
	weir_auto_dgram far = NULL;
	weir_auto_buf buf = WEIR_BUF_INIT;
	struct weir_address to, from;
	int err = weir_dgram_open(&far, "127.0.0.1:0");
	if (err == 0)
		err = weir_dgram_open(&near, "127.0.0.1:0", .bytes_max = 500);
	if (err < 0)
		return err;
	WEIR_SCOPE(patience, WEIR_SEC);
	parse(&to, weir_dgram_address(far));
	ssize_t n = weir_dgram_send(near, "hello", 5, &to);
	if (n == 5)
		n = weir_dgram_recv(far, &buf, &from);
	if (n == 5)
		n = weir_dgram_send(far, buf.data, buf.len, &from);
	if (n == 5)
		n = weir_dgram_recv(near, &buf, NULL);
	return n == 5 ? 0 : (int)n;
}

static int refuse_in_turn(void *arg)
{
	uint64_t nth = 0, counted;
	(void)arg;
	ck_assert_int_eq(exchange_datagrams(), 0);
	do {
		ck_assert_uint_lt(++nth, 200);
		weir_mem_fail_after(nth);
		int err = exchange_datagrams();
		counted = weir_mem_fail_after(0);
		if (counted >= nth)
			ck_assert_msg(err == 0 || err == -ENOMEM, "site %d: %s", (int)nth,
				      weir_errname(err));
		else
			ck_assert_int_eq(err, 0);
		ck_assert_int_eq(exchange_datagrams(), 0);
	} while (counted >= nth);
	ck_assert_uint_ge(nth, 2);
	return 0;
}

START_TEST(a_refused_allocation_costs_no_more_than_the_exchange)
{
	run(refuse_in_turn);
}
END_TEST

static int refuse_first(void *arg)
{
	struct pair pair;
	open_pair(&pair, (int)(intptr_t)arg);
	send_text(pair.near, "kept", &pair.far_address);
	settle();
	weir_mem_fail_after(1);
	char got[8];
	ssize_t n = weir_dgram_read(pair.far, got, sizeof(got), NULL);
	(void)weir_mem_fail_after(0);
	ck_assert_int_eq(n, -ENOMEM);
	expect_text(pair.far, "kept");
	close_pair(&pair);
	return 0;
}

START_TEST(a_receive_without_memory_loses_nothing)
{
	run_case(refuse_first, _i);
}
END_TEST

Suite *io_datagram_suite(void)
{
	int all = COUNT(addresses), inet = 2;
	Suite *suite = suite_create("io_datagram");
	TCase *basic = add_case(suite, "basic");
	tcase_add_loop_test(basic, a_datagram_comes_with_its_sender_and_can_be_answered, 0, all);
	tcase_add_loop_test(basic, a_datagram_that_is_cut_says_so, 0, inet);
	TCase *moving = add_other_case(suite, "moving");
	tcase_add_loop_test(moving, every_length_comes_as_it_went_and_none_is_no_end, 0, all);
	tcase_add_loop_test(moving, any_number_of_tasks_send_on_one_socket, 0, all);
	tcase_add_loop_test(moving, what_comes_while_nobody_reads_waits_in_order, 0, inet);
	tcase_add_test(moving, every_address_means_both_families);
	tcase_add_loop_test(moving, a_datagram_that_is_cut_says_so, inet, all);
	tcase_add_loop_test(moving, what_is_too_long_to_send_is_emsgsize_at_once, 0, inet);
	TCase *looking = add_other_case(suite, "looking");
	tcase_add_test(looking, who_waits_is_listed_and_what_went_is_counted);
	TCase *memory = add_case(suite, "memory");
	tcase_set_tags(memory, "real"); /* allocations are counted, and a seed changes them */
	tcase_add_test(memory, a_refused_allocation_costs_no_more_than_the_exchange);
	tcase_add_loop_test(memory, a_receive_without_memory_loses_nothing, 0, all);
	return suite;
}
