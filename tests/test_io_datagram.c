/* SPDX-License-Identifier: MIT */
/*
 * test_io_datagram.c: datagram sockets: UDP over IPv4 and IPv6, and Unix sockets with and without a
 * file.
 */
#include "tests/net_test.h"

#include <sys/resource.h>
#include <sys/un.h>

enum { UDP_BYTES_MAX = 65507 };

/* Two sockets, which know of each other what a program would: an address. */
struct pair {
	weir_dgram *near, *far;
	struct weir_address near_address, far_address;
};

static const char *client_address(int i)
{
	return i < 2 ? addresses[i] : "unix:";
}

static void parse(struct weir_address *ret, const char *text)
{
	ck_assert_int_eq(weir_address_parse(ret, text), 0);
}

static void open_pair(struct pair *pair, int i)
{
	ck_assert_int_eq(weir_dgram_open(&pair->far, address_of(i)), 0);
	ck_assert_int_eq(weir_dgram_open(&pair->near, client_address(i)), 0);
	parse(&pair->near_address, weir_dgram_address(pair->near));
	parse(&pair->far_address, weir_dgram_address(pair->far));
}

static void close_pair(struct pair *pair)
{
	weir_dgram_close(pair->near);
	weir_dgram_close(pair->far);
}

static void send_text(weir_dgram *dgram, const char *text, const struct weir_address *to)
{
	ck_assert_int_eq(weir_dgram_send(dgram, text, strlen(text), to), (ssize_t)strlen(text));
}

static void expect_text(weir_dgram *dgram, const char *text)
{
	char got[64];
	ck_assert_int_eq(weir_dgram_read(dgram, got, sizeof(got), NULL), (ssize_t)strlen(text));
	ck_assert_mem_eq(got, text, strlen(text));
}

static void run_case(weir_fn fn, int i)
{
	run_on(1, fn, (void *)(intptr_t)i);
}

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

/* ---- Cancelling ------------------------------------------------------------------------------ */

struct reader {
	weir_dgram *dgram;
	ssize_t result;
	int number;
};

static int read_number(void *arg)
{
	struct reader *reader = arg;
	reader->result = weir_dgram_read(reader->dgram, &reader->number, sizeof(int), NULL);
	return 0;
}

static int late(void *arg)
{
	struct pair pair;
	weir_auto_buf buf = WEIR_BUF_INIT;
	open_pair(&pair, (int)(intptr_t)arg);
	{
		WEIR_SCOPE(patience, 2 * WEIR_MS);
		ck_assert_int_eq(weir_dgram_recv(pair.far, &buf, NULL), -ETIME);
		ck_assert_ptr_null(buf.block);
	}
	send_text(pair.near, "late", &pair.far_address);
	settle();
	expect_text(pair.far, "late");
	send_text(pair.near, "there", &pair.far_address);
	settle();
	{
		WEIR_SCOPE(over, WEIR_FOREVER);
		weir_scope_cancel(&over);
		ck_assert_int_eq(weir_dgram_recv(pair.far, &buf, NULL), -ECANCELED);
		ck_assert_int_eq(weir_dgram_send(pair.near, "x", 1, &pair.far_address), -ECANCELED);
	}
	expect_text(pair.far, "there");
	close_pair(&pair);
	return 0;
}

START_TEST(a_cancelled_or_late_receive_leaves_its_datagram_to_the_next)
{
	run_case(late, _i);
}
END_TEST

/* Cancelled as the datagram comes: it is that receive's or the next one's. */
static int race(void *arg)
{
	struct pair pair;
	open_pair(&pair, (int)(intptr_t)arg);
	for (int i = 0; i < 200; i++) {
		struct reader reader = { .dgram = pair.far, .number = -1 };
		WEIR_SCOPE(reading, WEIR_FOREVER);
		spawn(&reading, read_number, &reader);
		for (int yields = i % 3; yields > 0; yields--)
			weir_yield();
		ck_assert_int_eq(weir_dgram_send(pair.near, &i, sizeof(i), &pair.far_address),
				 sizeof(i));
		for (int yields = i % 5; yields > 0; yields--)
			weir_yield();
		weir_scope_close(&reading);
		if (reader.result < 0) {
			ck_assert_int_eq(reader.result, -ECANCELED);
			read_number(&reader);
		}
		ck_assert_int_eq(reader.number, i);
	}
	close_pair(&pair);
	return 0;
}

START_TEST(a_datagram_that_comes_with_the_cancellation_is_not_lost)
{
	run_case(race, _i);
}
END_TEST

static int close_under(void *arg)
{
	struct pair pair;
	struct reader readers[2] = { 0 };
	open_pair(&pair, (int)(intptr_t)arg);
	readers[0].dgram = readers[1].dgram = pair.far;
	WEIR_SCOPE(reading, WEIR_FOREVER);
	spawn(&reading, read_number, &readers[0]);
	settle();
	read_number(&readers[1]);
	ck_assert_int_eq(readers[1].result, -EBUSY);
	weir_dgram_close(pair.far);
	pair.far = NULL;
	ck_assert_int_eq(weir_scope_wait(&reading), 0);
	ck_assert_int_eq(readers[0].result, -ECANCELED);
	close_pair(&pair);
	return 0;
}

START_TEST(closing_ends_the_receive_of_another_task)
{
	run_case(close_under, _i);
}
END_TEST

static int close_unread(void *arg)
{
	struct pair pair;
	open_pair(&pair, (int)(intptr_t)arg);
	send_text(pair.near, "one", &pair.far_address);
	send_text(pair.near, "two", &pair.far_address);
	send_text(pair.near, "three", &pair.far_address);
	expect_text(pair.far, "one");
	settle();
	close_pair(&pair);
	return 0;
}

START_TEST(closing_drops_what_nobody_has_read)
{
	run_case(close_unread, _i);
}
END_TEST

struct stuffer {
	struct pair *pair;
	int sent;
	int result;
};

static int stuff(void *arg)
{
	struct stuffer *stuffer = arg;
	ssize_t n;
	while ((n = weir_dgram_send(stuffer->pair->near, &stuffer->sent, sizeof(int),
				    &stuffer->pair->far_address)) > 0)
		stuffer->sent++;
	stuffer->result = (int)n;
	return 0;
}

/* Returns how many it has sent when it sends no more. */
static int wait_until_stuffed(const struct stuffer *stuffer)
{
	int before;
	do {
		before = stuffer->sent;
		ck_assert_int_eq(weir_sleep(100 * WEIR_MS), 0); /* simulated machines are slow */
	} while (stuffer->sent != before);
	return before;
}

/* Over Unix sockets nothing is thrown away: a sender waits for the receiver. */
static int full_queue(void *arg)
{
	struct pair pair;
	struct stuffer stuffer = { .pair = &pair };
	(void)arg;
	open_pair(&pair, 2);
	WEIR_SCOPE(stuffing, WEIR_FOREVER);
	spawn(&stuffing, stuff, &stuffer);
	int sent = wait_until_stuffed(&stuffer);
	ck_assert_int_gt(sent, 0);
	for (int i = 0; i < 3 * sent; i++) {
		int number;
		ck_assert_int_eq(weir_dgram_read(pair.far, &number, sizeof(int), NULL),
				 sizeof(int));
		ck_assert_int_eq(number, i);
	}
	settle();
	WEIR_SCOPE(patience, 5 * WEIR_MS);
	int late = 0;
	while (late >= 0)
		late = (int)weir_dgram_send(pair.near, "x", 1, &pair.far_address);
	ck_assert_int_eq(late, -ETIME);
	weir_scope_close(&patience);
	weir_scope_close(&stuffing);
	ck_assert_int_eq(stuffer.result, -ECANCELED);
	close_pair(&pair);
	return 0;
}

START_TEST(a_sender_waits_for_a_unix_receiver_whose_queue_is_full)
{
	run(full_queue);
}
END_TEST

static int close_full(void *arg)
{
	struct pair pair;
	struct stuffer stuffer = { .pair = &pair };
	(void)arg;
	open_pair(&pair, 3);
	WEIR_SCOPE(stuffing, WEIR_FOREVER);
	spawn(&stuffing, stuff, &stuffer);
	(void)wait_until_stuffed(&stuffer);
	weir_dgram_close(pair.near);
	pair.near = NULL;
	ck_assert_int_eq(weir_scope_wait(&stuffing), 0);
	ck_assert_int_eq(stuffer.result, -ECANCELED);
	close_pair(&pair);
	return 0;
}

START_TEST(closing_ends_a_send_that_waits)
{
	run(close_full);
}
END_TEST

/* ---- Peers ----------------------------------------------------------------------------------- */

static int connected(void *arg)
{
	int i = (int)(intptr_t)arg;
	weir_auto_dgram other = NULL;
	struct pair pair;
	open_pair(&pair, i);
	ck_assert_int_eq(weir_dgram_send(pair.near, "x", 1, NULL),
			 i < 2 ? -EDESTADDRREQ : -ENOTCONN);
	ck_assert_int_eq(weir_dgram_connect(pair.near, weir_dgram_address(pair.far)), 0);
	send_text(pair.near, "to the peer", NULL);
	expect_text(pair.far, "to the peer");
	ck_assert_int_eq(weir_dgram_open(&other, client_address(i)), 0);
	ssize_t n = weir_dgram_send(other, "stranger", 8, &pair.near_address);
	ck_assert_int_eq(n, i < 2 ? 8 : -EPERM);
	send_text(pair.far, "from the peer", &pair.near_address);
	expect_text(pair.near, "from the peer");
	close_pair(&pair);
	return 0;
}

START_TEST(a_socket_with_a_peer_hears_nobody_else)
{
	run_case(connected, _i);
}
END_TEST

static int refused(void *arg)
{
	int i = (int)(intptr_t)arg;
	struct pair pair;
	char address[64], got[8];
	open_pair(&pair, i);
	ck_assert_int_eq(weir_dgram_connect(pair.near, weir_dgram_address(pair.far)), 0);
	snprintf(address, sizeof(address), "%s", weir_dgram_address(pair.far));
	weir_dgram_close(pair.far);
	for (int round = 0; round < 2; round++) {
		send_text(pair.near, "anybody?", NULL);
		ck_assert_int_eq(weir_dgram_read(pair.near, got, sizeof(got), NULL), -ECONNREFUSED);
	}
	ck_assert_int_eq(weir_dgram_open(&pair.far, address), 0);
	send_text(pair.near, "again", NULL);
	expect_text(pair.far, "again");
	send_text(pair.far, "yes", &pair.near_address);
	expect_text(pair.near, "yes");
	close_pair(&pair);
	return 0;
}

START_TEST(a_refusal_by_the_network_is_told_once_and_the_socket_lives_on)
{
	run_case(refused, _i);
}
END_TEST

static int nobody(void *arg)
{
	static const char *const gone[] = { "unix:@weir-nobody", "unix:/tmp/weir-nobody" };
	weir_auto_dgram near = NULL;
	struct weir_address to;
	(void)arg;
	ck_assert_int_eq(weir_dgram_open(&near, "unix:"), 0);
	for (int i = 0; i < 2; i++) {
		int expected = i ? -ENOENT : -ECONNREFUSED;
		parse(&to, gone[i]);
		ck_assert_int_eq(weir_dgram_send(near, "x", 1, &to), expected);
		ck_assert_int_eq(weir_dgram_connect(near, gone[i]), expected);
	}
	return 0;
}

START_TEST(a_unix_socket_nobody_has_refuses_at_once)
{
	run(nobody);
}
END_TEST

/* ---- Addresses ------------------------------------------------------------------------------- */

static int bad_addresses(void *arg)
{
	static const char *const bad[] = {
		"",	 "127.0.0.1", "localhost:80",	"127.0.0.1:65536",
		"[::1]", "unix:@",    "udp:127.0.0.1:0"
	};
	weir_dgram *dgram = NULL, *second = NULL;
	struct weir_address address = { .len = 7 }, v6;
	char none[4];
	(void)arg;
	for (size_t i = 0; i < COUNT(bad); i++) {
		ck_assert_int_eq(weir_dgram_open(&dgram, bad[i]), -EINVAL);
		ck_assert_int_eq(weir_address_parse(&address, bad[i]), -EINVAL);
	}
	ck_assert_uint_eq(address.len, 7);
	ck_assert_int_eq(weir_dgram_open(&dgram, NULL), -EINVAL);
	ck_assert_int_eq(weir_dgram_open(&dgram, "127.0.0.1:0", .bytes_max = 65536), -EINVAL);
	ck_assert_int_eq(weir_dgram_open(&dgram, "unix:", .shared = true), -EOPNOTSUPP);
	ck_assert_ptr_null(dgram);
	ck_assert_int_eq(weir_dgram_open(&dgram, "127.0.0.1:0"), 0);
	ck_assert_int_eq(weir_dgram_open(&second, weir_dgram_address(dgram)), -EADDRINUSE);
	ck_assert_int_eq(weir_dgram_open(&second, weir_dgram_address(dgram), .shared = true),
			 -EADDRINUSE);
	parse(&v6, "[::1]:9");
	ck_assert_int_eq(weir_dgram_send(dgram, "x", 1, &v6), -EAFNOSUPPORT);
	ck_assert_int_eq(weir_dgram_connect(dgram, "[::1]:9"), -EAFNOSUPPORT);
	ck_assert_int_eq(weir_dgram_connect(dgram, "nonsense"), -EINVAL);
	address.len = 0;
	ck_assert_int_eq(weir_dgram_send(dgram, "x", 1, &address), -EINVAL);
	ck_assert_int_eq(weir_address_format(&address, none, sizeof(none)), -ENOTSUP);
	address.len = 200;
	ck_assert_int_eq(weir_dgram_send(dgram, "x", 1, &address), -EINVAL);
	ck_assert_int_eq(weir_address_format(&address, none, sizeof(none)), -ENOTSUP);
	ck_assert_int_eq(weir_address_format(&v6, none, sizeof(none)), -ENOSPC);
	weir_dgram_close(dgram);
	weir_dgram_close(NULL);
	return 0;
}

START_TEST(what_is_no_address_is_refused_before_anything_happens)
{
	run(bad_addresses);
}
END_TEST

static int shared(void *arg)
{
	weir_auto_dgram one = NULL;
	weir_auto_dgram two = NULL;
	weir_auto_dgram alone = NULL;
	(void)arg;
	ck_assert_int_eq(weir_dgram_open(&one, "127.0.0.1:0", .shared = true), 0);
	ck_assert_int_eq(weir_dgram_open(&two, weir_dgram_address(one), .shared = true), 0);
	ck_assert_str_eq(weir_dgram_address(one), weir_dgram_address(two));
	ck_assert_int_eq(weir_dgram_open(&alone, weir_dgram_address(one)), -EADDRINUSE);
	return 0;
}

START_TEST(an_address_is_shared_by_those_who_all_say_so)
{
	run(shared);
}
END_TEST

static int foreign(void *arg)
{
	struct weir_address to;
	char byte;
	parse(&to, "127.0.0.1:9");
	ck_assert_int_eq(weir_dgram_send(arg, "x", 1, &to), -EXDEV);
	ck_assert_int_eq(weir_dgram_read(arg, &byte, 1, NULL), -EXDEV);
	ck_assert_int_eq(weir_dgram_connect(arg, "127.0.0.1:9"), -EXDEV);
	return 0;
}

static int from_elsewhere(void *arg)
{
	weir_auto_dgram dgram = NULL;
	(void)arg;
	ck_assert_int_eq(weir_dgram_open(&dgram, "127.0.0.1:0"), 0);
	WEIR_SCOPE(other, WEIR_FOREVER);
	ck_assert_int_eq(weir_spawn(&other, foreign, dgram, .worker = WEIR_ON_WORKER(1)), 0);
	return weir_scope_wait(&other);
}

START_TEST(a_task_of_another_worker_is_refused)
{
	run_on(2, from_elsewhere, NULL);
}
END_TEST

/* ---- The system's own ------------------------------------------------------------------------ */

static int stale(void *arg)
{
	weir_dgram *dgram = NULL, *second = NULL;
	char text[100];
	(void)arg;
	snprintf(text, sizeof(text), "%s", address_of(3));
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(weir_dgram_open(&dgram, text), 0);
		ck_assert_int_eq(weir_dgram_open(&second, text), -EADDRINUSE);
		struct sockaddr_un un = { .sun_family = AF_UNIX };
		snprintf(un.sun_path, sizeof(un.sun_path), "%s", text + strlen("unix:"));
		weir_dgram_close(dgram);
		/* as a process that was killed leaves it */
		int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
		ck_assert_int_eq(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
		close(fd);
	}
	ck_assert_int_eq(unlink(text + strlen("unix:")), 0);
	return 0;
}

START_TEST(a_stale_file_is_replaced_and_a_live_one_is_not)
{
	run(stale);
}
END_TEST

static int nameless(void *arg)
{
	weir_auto_dgram far = NULL;
	struct weir_address from;
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	char text[128], got[8];
	(void)arg;
	ck_assert_int_eq(weir_dgram_open(&far, address_of(3)), 0);
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", weir_dgram_address(far) + strlen("unix:"));
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	ck_assert_int_eq(sendto(fd, "who", 3, 0, (struct sockaddr *)&un, sizeof(un)), 3);
	ck_assert_int_eq(weir_dgram_read(far, got, sizeof(got), &from), 3);
	ck_assert_int_eq(weir_address_format(&from, text, sizeof(text)), 0);
	ck_assert_str_eq(text, "unix:");
	ck_assert_int_lt(weir_dgram_send(far, "you", 3, &from), 0);
	close(fd);
	return 0;
}

START_TEST(a_sender_without_a_name_has_none)
{
	run(nameless);
}
END_TEST

static int long_unix(void *arg)
{
	struct pair pair;
	weir_auto_buf buf = WEIR_BUF_INIT;
	char *data = pattern(100000);
	(void)arg;
	open_pair(&pair, 2);
	ck_assert_int_eq(weir_dgram_send(pair.near, data, 100000, &pair.far_address), 100000);
	ck_assert_int_eq(weir_dgram_recv(pair.far, &buf, NULL), -EMSGSIZE);
	ck_assert_uint_eq(buf.len, 65535);
	ck_assert(memcmp(buf.data, data, 65535) == 0);
	close_pair(&pair);
	free(data);
	return 0;
}

START_TEST(a_unix_datagram_longer_than_udp_s_is_cut)
{
	run(long_unix);
}
END_TEST

static int no_descriptors(void *arg)
{
	struct rlimit limit, none;
	weir_dgram *dgram = NULL;
	(void)arg;
	ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = limit;
	none.rlim_cur = 0;
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	for (size_t i = 0; i < COUNT(addresses); i++)
		ck_assert_int_eq(weir_dgram_open(&dgram, address_of((int)i)), -EMFILE);
	ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	ck_assert_ptr_null(dgram);
	ck_assert_int_eq(weir_dgram_open(&dgram, addresses[0]), 0);
	weir_dgram_close(dgram);
	return 0;
}

START_TEST(without_descriptors_opening_fails_and_nothing_is_left)
{
	run(no_descriptors);
}
END_TEST

static int by_name(void *arg)
{
	struct pair pair;
	char text[64];
	(void)arg;
	open_pair(&pair, 0);
	snprintf(text, sizeof(text), "localhost%s", strrchr(weir_dgram_address(pair.far), ':'));
	ck_assert_int_eq(weir_dgram_connect(pair.near, text), 0);
	send_text(pair.near, "by name", NULL);
	expect_text(pair.far, "by name");
	ck_assert_int_lt(weir_dgram_connect(pair.near, "host.invalid:80"), 0);
	close_pair(&pair);
	return 0;
}

START_TEST(a_peer_may_be_named)
{
	run(by_name);
}
END_TEST

static int options(void *arg)
{
	struct pair pair;
	int bytes = 0;
	socklen_t len = sizeof(bytes);
	(void)arg;
	open_pair(&pair, 0);
	int fd = weir_dgram_fd(pair.far);
	ck_assert_int_eq(getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, &len), 0);
	ck_assert_int_gt(bytes, 0);
	close_pair(&pair);
	return 0;
}

START_TEST(its_descriptor_takes_options)
{
	run(options);
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

/* ---- The suite ------------------------------------------------------------------------------- */

/* Memcheck takes half a second for each test: it has those that touch every path of the bytes. */
static TCase *add_other_case(Suite *suite, const char *name)
{
	TCase *tcase = add_case(suite, name);
	tcase_set_tags(tcase, "datagram");
	return tcase;
}

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
	TCase *ending = add_other_case(suite, "ending");
	tcase_add_loop_test(ending, a_cancelled_or_late_receive_leaves_its_datagram_to_the_next, 0,
			    all);
	tcase_add_loop_test(ending, a_datagram_that_comes_with_the_cancellation_is_not_lost, 0,
			    all);
	tcase_add_loop_test(ending, closing_ends_the_receive_of_another_task, 0, all);
	tcase_add_loop_test(ending, closing_drops_what_nobody_has_read, 0, all);
	tcase_add_test(ending, a_sender_waits_for_a_unix_receiver_whose_queue_is_full);
	tcase_add_test(ending, closing_ends_a_send_that_waits);
	TCase *naming = add_other_case(suite, "naming");
	tcase_add_loop_test(naming, a_socket_with_a_peer_hears_nobody_else, 0, all);
	tcase_add_loop_test(naming, a_refusal_by_the_network_is_told_once_and_the_socket_lives_on,
			    0, inet);
	tcase_add_test(naming, a_unix_socket_nobody_has_refuses_at_once);
	tcase_add_test(naming, what_is_no_address_is_refused_before_anything_happens);
	tcase_add_test(naming, an_address_is_shared_by_those_who_all_say_so);
	tcase_add_test(naming, a_task_of_another_worker_is_refused);
	TCase *looking = add_other_case(suite, "looking");
	tcase_add_test(looking, who_waits_is_listed_and_what_went_is_counted);
	TCase *real = add_case(suite, "real");
	tcase_set_tags(real, "real"); /* files, limits, options and names of the system's */
	tcase_add_test(real, a_stale_file_is_replaced_and_a_live_one_is_not);
	tcase_add_test(real, a_sender_without_a_name_has_none);
	tcase_add_test(real, a_unix_datagram_longer_than_udp_s_is_cut);
	tcase_add_test(real, without_descriptors_opening_fails_and_nothing_is_left);
	tcase_add_test(real, a_peer_may_be_named);
	tcase_add_test(real, its_descriptor_takes_options);
	TCase *memory = add_case(suite, "memory");
	tcase_set_tags(memory, "real"); /* allocations are counted, and a seed changes them */
	tcase_add_test(memory, a_refused_allocation_costs_no_more_than_the_exchange);
	tcase_add_loop_test(memory, a_receive_without_memory_loses_nothing, 0, all);
	return suite;
}
