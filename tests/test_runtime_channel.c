/* SPDX-License-Identifier: MIT */
/*
 * Channels: first come first served, bounded, closed and drained; and whatever is cancelled, no
 * item is lost, doubled or left with a task that did not get it.
 */
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "tests/runtime_test.h"

static weir_chan *chan;
static int order[64];
static unsigned order_len;

/* ---- One after the other -------------------------------------------------------------------- */

static int fill_and_drain(void *arg)
{
	weir_auto_chan own = weir_chan_new(sizeof(int), 3);
	int item = 0;

	(void)arg;
	for (int round = 0; round < 10; round++) { /* the ring wraps */
		ck_assert_int_eq(weir_chan_try_recv(own, &item), -EAGAIN);
		for (int i = 0; i < 3; i++) {
			int value = round * 10 + i;
			TRY(i ? weir_chan_send(own, &value) : weir_chan_try_send(own, &value));
		}
		ck_assert_int_eq(weir_chan_try_send(own, &item), -EAGAIN);
		for (int i = 0; i < (round % 2 ? 3 : 1); i++) {
			TRY(i ? weir_chan_try_recv(own, &item) : weir_chan_recv(own, &item));
			ck_assert_int_eq(item, round * 10 + i);
		}
		while (weir_chan_try_recv(own, &item) == 0)
			;
		ck_assert_int_eq(item, round * 10 + 2);
	}
	return 0;
}

START_TEST(items_come_out_as_they_went_in)
{
	run_on(1, fill_and_drain, NULL);
}
END_TEST

static int send_arg(void *arg)
{
	int value = (int)(intptr_t)arg;

	return weir_chan_send(chan, &value);
}

static int recv_and_note(void *arg)
{
	int value;

	TRY(weir_chan_recv(chan, &value));
	order[order_len++] = (int)(intptr_t)arg * 100 + value;
	return 0;
}

/* Five wait on one side; then the other side comes. */
static int wait_in_line(void *arg)
{
	bool senders_first = arg != NULL;
	weir_auto_chan own = weir_chan_new(sizeof(int), 1);
	WEIR_SCOPE(scope, WEIR_FOREVER);

	chan = own;
	for (int side = 0; side < 2; side++) {
		for (intptr_t i = 0; i < 5; i++)
			TRY(weir_spawn(&scope,
				       (side == 0) == senders_first ? send_arg : recv_and_note,
				       (void *)i));
		for (int i = 0; i < 3; i++)
			TRY(weir_yield());
	}
	return weir_scope_wait(&scope);
}

START_TEST(who_waits_longest_is_served_first)
{
	run_on(1, wait_in_line, _i ? order : NULL);
	ck_assert_uint_eq(order_len, 5);
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(order[i], i * 101);
}
END_TEST

static int try_with_waiters(void *arg)
{
	weir_auto_chan own = weir_chan_new(sizeof(int), 1);
	int item = 9;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	chan = own;
	TRY(weir_spawn(&scope, recv_and_note, (void *)7));
	TRY(weir_yield());
	TRY(weir_chan_try_send(own, &item)); /* to the waiter, past the ring */
	ck_assert_int_eq(weir_chan_try_recv(own, &item), -EAGAIN);
	TRY(weir_scope_wait(&scope));
	ck_assert_int_eq(order[0], 709);
	TRY(weir_spawn(&scope, send_arg, (void *)1));
	TRY(weir_spawn(&scope, send_arg, (void *)2));
	TRY(weir_yield());
	TRY(weir_chan_try_recv(own, &item));
	ck_assert_int_eq(item, 1);
	TRY(weir_chan_try_recv(own, &item)); /* the waiting sender's has moved up already */
	ck_assert_int_eq(item, 2);
	return weir_scope_wait(&scope);
}

START_TEST(the_calls_that_do_not_park_serve_those_that_do)
{
	run_on(1, try_with_waiters, NULL);
}
END_TEST

/* ---- Closing -------------------------------------------------------------------------------- */

static _Atomic unsigned turned_away;
static unsigned workers;

static int expect_epipe(void *arg)
{
	int item = 0;

	ck_assert_int_eq(arg ? weir_chan_send(chan, &item) : weir_chan_recv(chan, &item), -EPIPE);
	turned_away++;
	return 0;
}

static int close_with_waiters(void *arg)
{
	weir_auto_chan own = weir_chan_new(sizeof(int), 2);
	int item = 5;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	chan = own;
	if (arg) {
		TRY(weir_chan_send(own, &item));
		item = 6;
		TRY(weir_chan_send(own, &item));
	}
	for (unsigned i = 0; i < 6; i++)
		TRY(weir_spawn(&scope, expect_epipe, arg, .worker = WEIR_ON_WORKER(i % workers)));
	TRY(weir_sleep(2 * WEIR_MS));
	weir_chan_close(own);
	weir_chan_close(own);
	TRY(weir_scope_wait(&scope));
	ck_assert_uint_eq(turned_away, 6);
	ck_assert_int_eq(weir_chan_send(own, &item), -EPIPE);
	ck_assert_int_eq(weir_chan_try_send(own, &item), -EPIPE);
	if (arg) { /* what was in it can still be taken */
		TRY(weir_chan_recv(own, &item));
		ck_assert_int_eq(item, 5);
		TRY(weir_chan_try_recv(own, &item));
		ck_assert_int_eq(item, 6);
	}
	ck_assert_int_eq(weir_chan_recv(own, &item), -EPIPE);
	ck_assert_int_eq(weir_chan_try_recv(own, &item), -EPIPE);
	return 0;
}

START_TEST(closing_ends_all_waits_and_lets_drain)
{
	workers = 1 + (unsigned)_i / 2;
	run_on(workers, close_with_waiters, _i % 2 ? order : NULL);
}
END_TEST

/* ---- Interruption --------------------------------------------------------------------------- */

static int run_out_of_time(void *arg)
{
	weir_auto_chan own = weir_chan_new(sizeof(int), 1);
	int item = 1;

	(void)arg;
	for (int i = 0; i < 10; i++) {
		WEIR_SCOPE(scope, 500 * WEIR_US);
		ck_assert_int_eq(weir_chan_recv(own, &item), -ETIME);
		ck_assert_int_eq(item, 1); /* untouched */
	}
	TRY(weir_chan_send(own, &item));
	for (int i = 0; i < 10; i++) {
		int more = 2;
		WEIR_SCOPE(scope, 500 * WEIR_US);
		ck_assert_int_eq(weir_chan_send(own, &more), -ETIME);
	}
	TRY(weir_chan_recv(own, &item));
	ck_assert_int_eq(item, 1);
	ck_assert_int_eq(weir_chan_try_recv(own, &item), -EAGAIN); /* none of the ten went in */
	return 0;
}

START_TEST(a_deadline_leaves_the_channel_as_it_was)
{
	run_on(1, run_out_of_time, NULL);
}
END_TEST

/* Every number is sent once by somebody; who is cancelled says so, and then it must not arrive. */
enum { SENDERS = 6, RECEIVERS = 6, NUMBERS_MAX = 200000 };

static _Atomic uint8_t sent[NUMBERS_MAX], received[NUMBERS_MAX];
static _Atomic unsigned next_number;

struct party {
	uint64_t seed;
	bool sends;
};

static int take_part(void *arg)
{
	struct party *party = arg;
	int64_t patience = (int64_t)(random_next(&party->seed) % 30000);
	WEIR_SCOPE(scope, patience < 15000 ? patience : WEIR_FOREVER);

	for (int err = 0; err == 0;) {
		unsigned number = NUMBERS_MAX;
		if (party->sends) {
			number = next_number++;
			if (number >= NUMBERS_MAX)
				return 0;
			err = weir_chan_send(chan, &number);
			if (err == 0)
				sent[number]++;
		} else {
			err = weir_chan_recv(chan, &number);
			if (err == 0)
				received[number]++;
		}
		if (err == 0 && random_next(&party->seed) % 32 == 0)
			err = weir_yield();
	}
	return 0;
}

static int party_round(uint64_t *seed)
{
	struct party parties[SENDERS + RECEIVERS];
	WEIR_SCOPE(scope, WEIR_FOREVER);

	for (int i = 0; i < SENDERS + RECEIVERS; i++) {
		parties[i] = (struct party){ random_next(seed), i < SENDERS };
		TRY(weir_spawn(&scope, take_part, &parties[i],
			       .worker = WEIR_ON_WORKER((unsigned)random_next(seed) % 2)));
	}
	return weir_sleep((int64_t)(random_next(seed) % 400000)); /* then all are cancelled */
}

static int hold_parties(void *arg)
{
	uint64_t *seed = arg;
	unsigned number;
	weir_auto_chan own = weir_chan_new(sizeof(unsigned), 1 + random_next(seed) % 5);

	chan = own;
	for (unsigned round = 0; is_stressed(round, 2000); round++)
		TRY(party_round(seed));
	while (weir_chan_try_recv(own, &number) == 0)
		received[number]++;
	return 0;
}

START_TEST(a_cancelled_waiter_swallows_no_item)
{
	uint64_t seed = test_seed();
	unsigned total = 0;

	run_on(2, hold_parties, &seed);
	for (unsigned i = 0; i < NUMBERS_MAX; i++) {
		expect(sent[i] == received[i]);
		total += sent[i];
	}
	ck_assert_uint_gt(total, 0);
}
END_TEST

/* ---- Freed by who has let the last one on -----------------------------------------------------
 */

static ssize_t moved;

static int receive_and_note(void *arg)
{
	int items[4] = { 0 };

	(void)arg;
	moved = weir_chan_recv_many(chan, items, 4);
	expect(items[0] == 7);
	return 0;
}

static int send_and_note(void *arg)
{
	static const int items[4] = { 1, 2, 3, 4 };

	(void)arg;
	moved = weir_chan_send_many(chan, items, 4);
	return 0;
}

/* The memory of a channel that is gone is used for something else at once. */
static void free_and_reuse(void)
{
	enum { BLOCKS = 64 };
	void *blocks[BLOCKS];

	weir_chan_free(chan);
	for (int i = 0; i < BLOCKS; i++) {
		blocks[i] = weir_alloc_aligned(64, 160);
		memset(blocks[i], 0xff, 160);
	}
	for (int i = 0; i < BLOCKS; i++)
		weir_free(blocks[i]);
}

static int free_after_serving(void *arg)
{
	bool sends = arg != NULL;
	int item = 7;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	chan = weir_chan_new(sizeof(int), 1);
	TRY(weir_spawn(&scope, sends ? send_and_note : receive_and_note, NULL));
	TRY(weir_yield());
	TRY(sends ? weir_chan_try_recv(chan, &item) : weir_chan_try_send(chan, &item));
	free_and_reuse();
	TRY(weir_scope_wait(&scope));
	ck_assert_int_eq(moved, sends ? 2 : 1);
	return 0;
}

START_TEST(a_batch_that_was_served_may_find_the_channel_gone)
{
	run_on(1, free_after_serving, _i ? order : NULL);
}
END_TEST

/* It is on its way back from the wait, on another worker, when the channel goes. */
static int free_meanwhile(void *arg)
{
	uint64_t *seed = arg;

	for (unsigned round = 0; is_stressed(round, 5000); round++) {
		bool sends = round % 2;
		int item = 7;
		WEIR_SCOPE(scope, WEIR_FOREVER);
		chan = weir_chan_new(sizeof(int), 1);
		TRY(weir_spawn(&scope, sends ? send_and_note : receive_and_note, NULL,
			       .worker = WEIR_ON_WORKER(1)));
		if (!sends)
			TRY(weir_chan_try_send(chan, &item));
		while (weir_chan_len(chan) != (sends ? 1 : 0))
			spin();
		if (sends)
			TRY(weir_chan_try_recv(chan, &item));
		for (unsigned n = (unsigned)random_next(seed) % 500; n > 0; n--)
			(void)weir_worker_index();
		free_and_reuse();
		TRY(weir_scope_wait(&scope));
		expect(moved >= 1 && moved <= (sends ? 3 : 1));
	}
	return 0;
}

START_TEST(a_batch_holds_the_channel_while_it_goes_on)
{
	uint64_t seed = test_seed();

	run_on(2, free_meanwhile, &seed);
}
END_TEST

/* ---- Sizes ---------------------------------------------------------------------------------- */

struct shape {
	size_t bytes, capacity;
};

static int pump(void *arg)
{
	unsigned char item[4096];

	(void)arg;
	for (unsigned i = 0; i < 50; i++) {
		memset(item, (int)i, sizeof item);
		TRY(weir_chan_send(chan, item));
	}
	weir_chan_close(chan);
	return 0;
}

static int pass_through(void *arg)
{
	const struct shape *shape = arg;
	weir_auto_chan own = weir_chan_new(shape->bytes, shape->capacity);
	unsigned char item[4097];
	unsigned count = 0;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	ck_assert_ptr_nonnull(own);
	chan = own;
	TRY(weir_spawn(&scope, pump, NULL, .worker = WEIR_ON_WORKER(1)));
	for (;;) {
		memset(item, 0xee, sizeof item);
		int err = weir_chan_recv(own, item);
		if (err == -EPIPE)
			break;
		TRY(err);
		for (size_t i = 0; i < sizeof item; i++)
			expect(item[i] == (i < shape->bytes ? count : 0xee));
		count++;
	}
	ck_assert_uint_eq(count, 50);
	return weir_scope_wait(&scope);
}

START_TEST(items_of_every_size_pass)
{
	static const size_t bytes[] = { 0, 1, 3, 8, 24, 100, 4096 };
	static const size_t capacities[] = { 1, 2, 7, 64 };
	struct shape shape = { bytes[_i % 7], capacities[_i / 7] };

	run_on(2, pass_through, &shape);
}
END_TEST

START_TEST(a_channel_larger_than_memory_is_refused)
{
	ck_assert_ptr_null(weir_chan_new(SIZE_MAX, 1));
	ck_assert_ptr_null(weir_chan_new(SIZE_MAX / 2 + 1, 2));
	ck_assert_ptr_null(weir_chan_new(1, SIZE_MAX));
	ck_assert_ptr_null(weir_chan_new((size_t)1 << 32, (size_t)1 << 32));
	weir_chan_free(NULL);
}
END_TEST

/* ---- Many at once, and the end -------------------------------------------------------------- */

static int send_batch(void *arg)
{
	int batch[100];

	(void)arg;
	for (int i = 0; i < 100; i++)
		batch[i] = i;
	ck_assert_int_eq(weir_chan_send_many(chan, batch, 100), 100);
	ck_assert_int_eq(weir_chan_send_many(chan, batch, 0), 0);
	return 0;
}

static int receive_batches(void *arg)
{
	weir_auto_chan own = weir_chan_new(sizeof(int), 7);
	int batch[16], next = 0;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	chan = own;
	TRY(weir_spawn(&scope, send_batch, NULL, .worker = WEIR_ON_WORKER(arg ? 1 : 0)));
	while (next < 100) {
		ssize_t n = weir_chan_recv_many(own, batch, 16);
		TRY((int)n);
		ck_assert_int_ge(n, 1);
		for (ssize_t i = 0; i < n; i++)
			ck_assert_int_eq(batch[i], next++);
	}
	ck_assert_uint_eq(weir_chan_len(own), 0);
	return weir_scope_wait(&scope);
}

START_TEST(batches_keep_their_order)
{
	run_on(2, receive_batches, _i ? order : NULL);
}
END_TEST

static int interrupt_batch(void *arg)
{
	weir_auto_chan own = weir_chan_new(sizeof(int), 3);
	int batch[8] = { 0, 1, 2, 3, 4, 5, 6, 7 }, got[8];

	(void)arg;
	{
		WEIR_SCOPE(scope, WEIR_MS);
		ck_assert_int_eq(weir_chan_send_many(own, batch, 8), 3); /* bytes beat timeouts */
	}
	{
		WEIR_SCOPE(scope, WEIR_MS);
		ck_assert_int_eq(weir_chan_send_many(own, batch, 8), -ETIME);
	}
	ck_assert_uint_eq(weir_chan_len(own), 3);
	ck_assert_int_eq(weir_chan_recv_many(own, got, 2), 2);
	weir_chan_close(own);
	ck_assert_int_eq(weir_chan_send_many(own, batch, 8), -EPIPE);
	ck_assert_int_eq(weir_chan_recv_many(own, got, 8), 1);
	ck_assert_int_eq(weir_chan_recv_many(own, got, 8), -EPIPE);
	return 0;
}

START_TEST(a_batch_that_is_cut_short_says_how_far_it_came)
{
	run_on(1, interrupt_batch, NULL);
}
END_TEST

static bool is_drained;

static int drain(void *arg)
{
	TRY(weir_chan_drain(arg));
	is_drained = true;
	return 0;
}

static int drain_with_rest(void *arg)
{
	weir_auto_chan own = weir_chan_new(sizeof(int), 3);
	int item = 1;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(weir_chan_send(own, &item));
	TRY(weir_chan_send(own, &item));
	TRY(weir_spawn(&scope, drain, own));
	TRY(weir_yield());
	ck_assert_int_eq(weir_chan_send(own, &item), -EPIPE);
	TRY(weir_chan_recv(own, &item));
	TRY(weir_yield());
	ck_assert(!is_drained);
	if (arg)
		ck_assert_int_eq(weir_chan_recv_many(own, &item, 1), 1);
	else
		TRY(weir_chan_recv(own, &item));
	TRY(weir_scope_wait(&scope));
	ck_assert(is_drained);
	return weir_chan_drain(own);
}

START_TEST(draining_waits_for_the_last_item)
{
	run_on(1, drain_with_rest, _i ? &is_drained : NULL);
}
END_TEST

/* Closed while tasks of both workers send and receive: what was sent was received or is in it. */
static _Atomic unsigned long sum_sent, sum_received;

static int send_until_closed(void *arg)
{
	unsigned number = (unsigned)(uintptr_t)arg;

	for (;; number += 3) {
		int err = weir_chan_send(chan, &number);
		if (err < 0)
			return err == -EPIPE ? 0 : err;
		sum_sent += number;
	}
}

static int receive_until_closed(void *arg)
{
	unsigned number[4];
	ssize_t n;

	(void)arg;
	while ((n = weir_chan_recv_many(chan, number, 4)) > 0)
		for (ssize_t i = 0; i < n; i++)
			sum_received += number[i];
	return n == -EPIPE ? 0 : (int)n;
}

static int close_in_the_middle(void *arg)
{
	uint64_t *seed = arg;

	for (unsigned round = 0; is_stressed(round, 400); round++) {
		weir_auto_chan own = weir_chan_new(sizeof(unsigned), 1 + random_next(seed) % 4);
		WEIR_SCOPE(scope, WEIR_FOREVER);
		chan = own;
		for (uintptr_t i = 0; i < 6; i++)
			TRY(weir_spawn(&scope, i < 3 ? send_until_closed : receive_until_closed,
				       (void *)(i + 1),
				       .worker = WEIR_ON_WORKER((unsigned)random_next(seed) % 2)));
		TRY(weir_sleep((int64_t)(random_next(seed) % 200000)));
		weir_chan_close(own);
		TRY(weir_scope_wait(&scope));
		expect(sum_sent == sum_received);
	}
	return 0;
}

START_TEST(closing_among_senders_and_receivers_loses_nothing)
{
	uint64_t seed = test_seed();

	run_on(2, close_in_the_middle, &seed);
	ck_assert_uint_gt(sum_sent, 0);
}
END_TEST

/* ---- Misuse --------------------------------------------------------------------------------- */

START_TEST(outside_tasks_only_the_calls_that_do_not_park_work)
{
	weir_auto_chan own = weir_chan_new(sizeof(int), 1);
	int item = 3;

	ck_assert_int_eq(weir_chan_send(own, &item), -EINVAL);
	ck_assert_int_eq(weir_chan_recv(own, &item), -EINVAL);
	ck_assert_int_eq(weir_chan_try_send(own, &item), 0);
	ck_assert_int_eq(weir_chan_try_recv(own, &item), 0);
}
END_TEST

Suite *runtime_channel_suite(void)
{
	Suite *suite = suite_create("runtime_channel");
	TCase *rules = tcase_create("rules");
	TCase *stress = tcase_create("stress");

	tcase_set_tags(rules, "fast");
	tcase_set_timeout(rules, 10);
	tcase_add_test(rules, items_come_out_as_they_went_in);
	tcase_add_loop_test(rules, who_waits_longest_is_served_first, 0, 2);
	tcase_add_test(rules, the_calls_that_do_not_park_serve_those_that_do);
	tcase_add_loop_test(rules, closing_ends_all_waits_and_lets_drain, 0, 4);
	tcase_add_test(rules, a_deadline_leaves_the_channel_as_it_was);
	tcase_add_loop_test(rules, items_of_every_size_pass, 0, 28);
	tcase_add_test(rules, a_channel_larger_than_memory_is_refused);
	tcase_add_loop_test(rules, batches_keep_their_order, 0, 2);
	tcase_add_test(rules, a_batch_that_is_cut_short_says_how_far_it_came);
	tcase_add_loop_test(rules, draining_waits_for_the_last_item, 0, 2);
	tcase_add_loop_test(rules, a_batch_that_was_served_may_find_the_channel_gone, 0, 2);
	tcase_add_test(rules, outside_tasks_only_the_calls_that_do_not_park_work);
	suite_add_tcase(suite, rules);

	tcase_set_timeout(stress, 60);
	tcase_add_test(stress, a_cancelled_waiter_swallows_no_item);
	tcase_add_test(stress, a_batch_holds_the_channel_while_it_goes_on);
	tcase_add_test(stress, closing_among_senders_and_receivers_loses_nothing);
	suite_add_tcase(suite, stress);
	return suite;
}
