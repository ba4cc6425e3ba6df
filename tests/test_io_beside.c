/* SPDX-License-Identifier: MIT */
/*
 * test_io_beside.c: several tasks use one connection in the same direction. One of them has it, the
 * others hear -EBUSY; and who was woken just now and comes after another sees what that one has
 * done meanwhile.
 */
#include <errno.h>

#include "tests/net_test.h"

/* More than a socket takes that nobody reads. */
enum { LEASE_BYTES = 4 << 20, PATIENCE_S = 10 };

static struct ends ends;

static inline void expect_char(char got, char want)
{
	if (got != want)
		ck_abort_msg("%c among %c", got, want);
}

/* ---- Sending --------------------------------------------------------------------------------- */

struct sender {
	struct weir_scope *scope;    /* while it sends */
	const struct sender *victim; /* cancelled when the lease is taken */
	char fill;
	ssize_t result;
};

static ssize_t send_lease(char fill)
{
	weir_auto_buf buf = WEIR_BUF_INIT;

	ck_assert_int_eq(weir_buf_get(&buf, LEASE_BYTES), 0);
	memset(buf.data, fill, LEASE_BYTES);
	buf.len = LEASE_BYTES;
	return weir_send(ends.near, &buf);
}

static int send_once(void *arg)
{
	struct sender *sender = arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	sender->scope = &scope;
	sender->result = send_lease(sender->fill);
	sender->scope = NULL;
	return 0;
}

static int write_once(void *arg)
{
	struct sender *sender = arg;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	sender->scope = &scope;
	sender->result = weir_write(ends.near, &sender->fill, 1);
	sender->scope = NULL;
	return 0;
}

/* Is ready all the while, so it comes before who is woken: nearly always. */
static int send_when_free(void *arg)
{
	struct sender *sender = arg;

	do
		sender->result = send_lease(sender->fill);
	while (sender->result == -EBUSY && weir_yield() == 0);
	if (sender->victim && sender->victim->scope)
		weir_scope_cancel(sender->victim->scope);
	return 0;
}

/* So many bytes, all like the first, which is returned. */
static char read_all(size_t len)
{
	static char got[LEASE_BYTES];

	ck_assert_int_eq(weir_read_full(ends.far, got, len), 0);
	for (size_t i = 1; i < len; i++)
		expect_char(got[i], got[0]);
	return got[0];
}

/* The first lease is under way, one task waits for its end, another tries and tries. */
static int send_beside(void *arg)
{
	struct sender waiting = { .fill = 'w' }, trying = { .fill = 't' };
	WEIR_SCOPE(patience, PATIENCE_S * WEIR_SEC);

	(void)arg;
	open_ends(&ends, "127.0.0.1:0");
	WEIR_SCOPE(senders, WEIR_FOREVER);
	ck_assert_int_eq(send_lease('a'), LEASE_BYTES);
	spawn(&senders, send_once, &waiting);
	ck_assert_int_eq(weir_yield(), 0);
	spawn(&senders, send_when_free, &trying);
	ck_assert_int_eq(read_all(LEASE_BYTES), 'a');
	char second = read_all(LEASE_BYTES), third = read_all(LEASE_BYTES);
	ck_assert(second == 't' ? third == 'w' : second == 'w' && third == 't');
	ck_assert_int_eq(weir_scope_wait(&senders), 0);
	ck_assert_int_eq(trying.result, LEASE_BYTES);
	ck_assert_int_eq(waiting.result, LEASE_BYTES);
	close_ends(&ends);
	return 0;
}

START_TEST(who_was_woken_to_send_sees_that_another_was_faster)
{
	run(send_beside);
}
END_TEST

/* The one that waits is cancelled when the faster one has sent, and nobody reads all of that. */
static int cancel_the_slower(void *arg)
{
	struct sender waiting = { .fill = 'w' }, trying = { .fill = 't', .victim = &waiting };
	WEIR_SCOPE(patience, PATIENCE_S * WEIR_SEC);

	open_ends(&ends, "127.0.0.1:0");
	WEIR_SCOPE(senders, WEIR_FOREVER);
	ck_assert_int_eq(send_lease('a'), LEASE_BYTES);
	spawn(&senders, *(weir_fn *)arg, &waiting);
	ck_assert_int_eq(weir_yield(), 0);
	spawn(&senders, send_when_free, &trying);
	ck_assert_int_eq(read_all(LEASE_BYTES), 'a');
	if (read_all(1) == 't') {
		ck_assert_int_eq(weir_scope_wait(&senders), 0);
		ck_assert_int_eq(waiting.result, -ECANCELED);
	}
	weir_scope_close(&senders);
	close_ends(&ends);
	return 0;
}

static const weir_fn waits[] = { send_once, write_once };

START_TEST(who_was_woken_to_send_and_is_cancelled_waits_no_more)
{
	run_on(1, cancel_the_slower, (void *)&waits[_i]);
}
END_TEST

/* ---- Receiving ------------------------------------------------------------------------------- */

enum { WORD = 5 };

struct receiver {
	int result;
	char got[WORD + 1];
};

static int read_word(void *arg)
{
	struct receiver *receiver = arg;

	receiver->result = weir_read_full(ends.far, receiver->got, WORD);
	return 0;
}

static int read_line(void *arg)
{
	struct receiver *receiver = arg;

	receiver->result = (int)weir_read_until(ends.far, '\n', receiver->got, WORD);
	receiver->result -= receiver->result > 0 ? WORD : 0;
	return 0;
}

/* Is ready all the while, and its lease of before makes the call look closer. */
static int receive_when_free(void *arg)
{
	struct receiver *receiver = arg;
	weir_auto_buf buf = WEIR_BUF_INIT;
	ssize_t n = -EBUSY;

	while (n == -EBUSY) {
		ck_assert_int_eq(weir_yield(), 0);
		ck_assert_int_eq(weir_buf_get(&buf, 1), 0);
		n = weir_recv(ends.far, &buf);
	}
	ck_assert_int_eq(n, WORD);
	memcpy(receiver->got, buf.data, WORD);
	return 0;
}

static int receive_beside(void *arg)
{
	struct receiver waiting = { .result = 1 }, trying = { .result = 1 };
	WEIR_SCOPE(patience, PATIENCE_S * WEIR_SEC);

	open_ends(&ends, "127.0.0.1:0");
	WEIR_SCOPE(readers, WEIR_FOREVER);
	spawn(&readers, *(weir_fn *)arg, &waiting);
	ck_assert_int_eq(weir_yield(), 0);
	spawn(&readers, receive_when_free, &trying);
	put(ends.near, "one.\n");
	settle();
	put(ends.near, "two.\n");
	ck_assert_int_eq(weir_scope_wait(&readers), 0);
	ck_assert_int_eq(waiting.result, 0);
	ck_assert_str_ne(waiting.got, trying.got);
	close_ends(&ends);
	return 0;
}

static const weir_fn reads[] = { read_word, read_line };

/* For ASan too: the woken reader looked at what the other had taken. */
START_TEST(who_was_woken_to_read_sees_that_another_was_faster)
{
	run_on(1, receive_beside, (void *)&reads[_i]);
}
END_TEST

Suite *io_beside_suite(void);
Suite *io_beside_suite(void)
{
	Suite *suite = suite_create("io_beside");
	TCase *beside = add_case(suite, "beside");
	TCase *robbed = add_case(suite, "robbed");

	tcase_set_tags(beside, "beside real"); /* megabytes: not for memcheck, nor simulated */
	tcase_add_test(beside, who_was_woken_to_send_sees_that_another_was_faster);
	tcase_add_loop_test(beside, who_was_woken_to_send_and_is_cancelled_waits_no_more, 0,
			    COUNT(waits));
	tcase_set_tags(robbed, "beside real"); /* a word comes whole, which no seed promises */
	tcase_add_loop_test(robbed, who_was_woken_to_read_sees_that_another_was_faster, 0,
			    COUNT(reads));
	return suite;
}
