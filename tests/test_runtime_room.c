/* SPDX-License-Identifier: MIT */
/*
 * The room of channels: it follows what is in them, costs nothing in steady use, and where there is
 * no memory for it the sender is told and nothing is lost.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "tests/runtime_test.h"

enum { ITEM_BYTES_MAX = 4096 };

static weir_chan *chan;

/* An item of a size: its number at both ends, as far as it has room. */
static void make_item(unsigned char *item, size_t bytes, uint32_t number)
{
	memset(item, 0xa5, bytes);
	memcpy(item, &number, bytes < sizeof number ? bytes : sizeof number);
	if (bytes >= 2 * sizeof number)
		memcpy(item + bytes - sizeof number, &number, sizeof number);
}

static bool is_item(const unsigned char *item, size_t bytes, uint32_t number)
{
	unsigned char wanted[ITEM_BYTES_MAX];

	make_item(wanted, bytes, number);
	return memcmp(item, wanted, bytes) == 0;
}

/* Bytes in blocks that are out. */
static size_t in_use(void)
{
	static struct weir_pool_stats pools[1024];
	size_t n = weir_pool_stats_get(pools, 1024), sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += pools[i].in_use * pools[i].object_bytes;
	return sum;
}

static uint64_t allocations(void)
{
	struct weir_mem_stats stats;

	weir_mem_stats_get(&stats);
	return stats.allocs;
}

/* Sends and receives items in turn; true: the numbers go on where they were. */
struct stream {
	weir_chan *chan;
	size_t bytes;
	uint32_t sent, received;
};

static int try_send_next(struct stream *stream)
{
	unsigned char item[ITEM_BYTES_MAX];
	make_item(item, stream->bytes, stream->sent);
	int err = weir_chan_try_send(stream->chan, item);
	stream->sent += err == 0;
	return err;
}

static int try_recv_next(struct stream *stream)
{
	unsigned char item[ITEM_BYTES_MAX];
	int err = weir_chan_try_recv(stream->chan, item);
	if (err == 0)
		expect(is_item(item, stream->bytes, stream->received++));
	return err;
}

static void send_all(struct stream *stream, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		expect(try_send_next(stream) == 0);
}

static void receive_all(struct stream *stream)
{
	while (stream->received < stream->sent)
		expect(try_recv_next(stream) == 0);
	expect(try_recv_next(stream) == -EAGAIN);
}

/* ---- How much ---------------------------------------------------------------------------------
 */

START_TEST(a_new_channel_costs_the_same_whatever_its_capacity)
{
	static const size_t capacities[] = { 1000, 100000, UINT32_MAX };
	size_t before = in_use();
	uint64_t allocs = allocations();
	weir_auto_chan own = weir_chan_new(_i ? 512 : 8, capacities[_i % 3]);

	ck_assert_ptr_nonnull(own);
	ck_assert_uint_eq(allocations() - allocs, 1);
	ck_assert_uint_le(in_use() - before, 256);
	ck_assert_uint_eq(weir_chan_len(own), 0);
}
END_TEST

/* Twice what is in it, and a little, is never exceeded. */
START_TEST(memory_follows_what_is_in_it)
{
	static const size_t bytes[] = { 1, 8, 24, 500, 4096 };
	enum { MOST = 3000, LITTLE = 50000 };
	weir_auto_chan own = weir_chan_new(bytes[_i], 100000);
	struct stream stream = { own, bytes[_i], 0, 0 };
	size_t before = in_use();

	for (int round = 0; round < 3; round++) {
		while (weir_chan_len(own) < MOST) {
			send_all(&stream, 100);
			size_t stored = weir_chan_len(own) * bytes[_i];
			expect(in_use() - before >= stored);
			expect(in_use() - before <= stored * 5 / 4 + LITTLE);
		}
		while (weir_chan_len(own) > 0) {
			for (int i = 0; i < 100; i++)
				expect(try_recv_next(&stream) == 0);
			expect(in_use() - before <=
			       5 * weir_chan_len(own) * bytes[_i] / 2 + LITTLE);
		}
	}
	ck_assert_uint_le(in_use() - before, LITTLE);
}
END_TEST

/* A block holds one at least, also where its size leaves no room for its head. */
START_TEST(items_as_large_as_a_block_have_room)
{
	static unsigned char items[3][17000], got[17000];

	for (size_t bytes = 16300; bytes <= 16400; bytes++) {
		weir_auto_chan own = weir_chan_new(bytes, 5);
		size_t before = in_use();
		for (int i = 0; i < 3; i++) {
			memset(items[i], (int)bytes + i, bytes);
			expect(weir_chan_try_send(own, items[i]) == 0);
			expect(in_use() - before >= (size_t)(i + 1) * bytes);
		}
		for (int i = 0; i < 3; i++) {
			expect(weir_chan_try_recv(own, got) == 0);
			expect(memcmp(got, items[i], bytes) == 0);
		}
	}
}
END_TEST

START_TEST(what_is_in_it_goes_with_it)
{
	size_t before = in_use();
	weir_chan *own = weir_chan_new(100, 10000);
	struct stream stream = { own, 100, 0, 0 };

	send_all(&stream, 5000);
	while (stream.received < 1234)
		expect(try_recv_next(&stream) == 0);
	weir_chan_free(own);
	ck_assert_uint_eq(in_use(), before);
}
END_TEST

/* Some in it all the time, and batches on top: once it has grown, nothing is allocated. */
START_TEST(steady_use_allocates_nothing)
{
	static const unsigned levels[] = { 0, 1, 7, 100, 1000 };
	unsigned level = levels[_i];
	weir_auto_chan own = weir_chan_new(8, 5000);
	struct stream stream = { own, 8, 0, 0 };
	uint64_t before = 0;

	send_all(&stream, level);
	for (unsigned round = 0; round < 400; round++) {
		if (round == 200)
			before = allocations();
		unsigned batch = 1 + round * 37 % (level < 200 ? 200 : level);
		send_all(&stream, batch);
		for (unsigned i = 0; i < batch; i++)
			expect(try_recv_next(&stream) == 0);
	}
	ck_assert_uint_eq(allocations(), before);
}
END_TEST

/* Large blocks, one more item than fits in one: the spare block is more than is worth keeping. */
START_TEST(the_last_spare_block_is_kept)
{
	static unsigned char item[2000]; /* eight to a block */
	weir_auto_chan own = weir_chan_new(sizeof item, 100);
	uint64_t before = 0;

	for (int round = 0; round < 10; round++) {
		if (round == 2)
			before = allocations();
		for (int i = 0; i < 9; i++)
			ck_assert_int_eq(weir_chan_try_send(own, item), 0);
		for (int i = 0; i < 9; i++)
			ck_assert_int_eq(weir_chan_try_recv(own, item), 0);
	}
	ck_assert_uint_eq(allocations(), before);
}
END_TEST

/* Against a count, for shapes around the sizes of blocks: first in, first out, and never too many.
 */
START_TEST(chance_sends_and_receives_in_order)
{
	static const size_t bytes[] = { 0, 1, 8, 100, 512, 2048 };
	uint64_t seed = test_seed();

	for (int shape = 0; shape < 60; shape++) {
		size_t capacity = 1 + random_next(&seed) % (shape % 2 ? 40 : 3000);
		weir_auto_chan own = weir_chan_new(bytes[shape % 6], capacity);
		struct stream stream = { own, bytes[shape % 6], 0, 0 };
		for (unsigned op = 0; op < 3000; op++) {
			uint32_t count = stream.sent - stream.received;
			/* a tide: mostly in, mostly out */
			bool in = random_next(&seed) % 8 < (op / 500 % 2 ? 2 : 6);
			if (in)
				expect(try_send_next(&stream) == (count < capacity ? 0 : -EAGAIN));
			else
				expect(try_recv_next(&stream) == (count > 0 ? 0 : -EAGAIN));
			expect(weir_chan_len(own) == stream.sent - stream.received);
		}
		receive_all(&stream);
	}
}
END_TEST

/* ---- No memory --------------------------------------------------------------------------------
 */

/* The nth block is refused: -ENOMEM, nothing changes, and with memory it goes on. */
START_TEST(each_refused_growth_is_said_and_loses_nothing)
{
	static const size_t bytes[] = { 8, 512, 4096 };

	for (uint64_t nth = 1; nth <= 12; nth++) {
		weir_auto_chan own = weir_chan_new(bytes[_i], 4000);
		struct stream stream = { own, bytes[_i], 0, 0 };
		int err;
		weir_mem_fail_after(nth);
		while ((err = try_send_next(&stream)) == 0)
			;
		expect(err == -ENOMEM);
		expect(try_send_next(&stream) == -ENOMEM);
		weir_mem_fail_after(0);
		expect(weir_chan_len(own) == stream.sent);
		expect((stream.sent > 0) == (nth > 1));
		send_all(&stream, 500);
		receive_all(&stream);
	}
}
END_TEST

START_TEST(a_small_channel_needs_no_memory_later)
{
	weir_auto_chan own = weir_chan_new(8, 128);
	struct stream stream = { own, 8, 0, 0 };

	weir_mem_fail_after(1);
	for (int i = 0; i < 5; i++) {
		send_all(&stream, 128);
		expect(try_send_next(&stream) == -EAGAIN);
		receive_all(&stream);
	}
	weir_mem_fail_after(0);
}
END_TEST

static int send_in_every_way(void *arg)
{
	enum { MANY = 300 };
	weir_auto_chan own = weir_chan_new(8, 4000);
	uint64_t items[MANY] = { 0 }, item = 0;
	struct weir_case wanted = weir_case_send(own, &item);

	(void)arg;
	weir_mem_fail_after(1);
	int sent = weir_chan_send(own, &item);
	ssize_t batch = weir_chan_send_many(own, items, MANY);
	int taken = weir_select(&wanted, 1);
	weir_mem_fail_after(0);
	ck_assert_int_eq(sent, -ENOMEM);
	ck_assert_int_eq(batch, -ENOMEM);
	ck_assert_int_eq(taken, 0);
	ck_assert_int_eq(wanted.result, -ENOMEM);
	ck_assert_uint_eq(weir_chan_len(own), 0);

	weir_mem_fail_after(2); /* the second block */
	batch = weir_chan_send_many(own, items, MANY);
	weir_mem_fail_after(0);
	ck_assert_int_gt(batch, 0);
	ck_assert_int_lt(batch, MANY);
	ck_assert_uint_eq(weir_chan_len(own), (size_t)batch);
	return 0;
}

START_TEST(every_call_that_sends_says_so)
{
	run_on(1, send_in_every_way, NULL);
}
END_TEST

static int take_one(void *arg)
{
	return weir_chan_recv(chan, arg);
}

static int hand_over(void *arg)
{
	weir_auto_chan own = weir_chan_new(8, 4000);
	uint64_t item = 5, got = 0;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	chan = own;
	TRY(weir_spawn(&scope, take_one, &got));
	TRY(weir_yield());
	weir_mem_fail_after(1);
	int sent = weir_chan_send(own, &item);
	weir_mem_fail_after(0);
	ck_assert_int_eq(sent, 0);
	TRY(weir_scope_wait(&scope));
	ck_assert_uint_eq(got, 5);
	return 0;
}

START_TEST(what_is_waited_for_needs_no_room)
{
	run_on(1, hand_over, NULL);
}
END_TEST

/* ---- Waiting senders: their place is reserved --------------------------------------------------
 */

struct shape {
	size_t bytes, capacity;
	unsigned ahead, waiting; /* items that went through before; senders that find it full */
};

static uint32_t next_waiting;

static int send_waiting(void *arg)
{
	const struct shape *shape = arg;
	unsigned char item[ITEM_BYTES_MAX];

	make_item(item, shape->bytes, next_waiting++);
	return weir_chan_send(chan, item);
}

static int select_waiting(void *arg)
{
	const struct shape *shape = arg;
	unsigned char item[ITEM_BYTES_MAX];
	struct weir_case cases[] = { weir_case_timer(WEIR_FOREVER), weir_case_send(chan, item) };

	make_item(item, shape->bytes, next_waiting++);
	int taken = weir_select(cases, 2);
	return taken == 1 ? cases[1].result : -EINVAL;
}

/* Not one block can be had while they are let in. */
static int let_them_in(struct shape *shape)
{
	weir_auto_chan own = weir_chan_new(shape->bytes, shape->capacity);
	struct stream stream = { own, shape->bytes, 0, 0 };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	chan = own;
	for (unsigned i = 0; i < shape->ahead; i++) {
		send_all(&stream, 1);
		expect(try_recv_next(&stream) == 0);
	}
	send_all(&stream, (unsigned)shape->capacity);
	next_waiting = stream.sent;
	for (unsigned i = 0; i < shape->waiting; i++) {
		TRY(weir_spawn(&scope, i % 2 ? select_waiting : send_waiting, shape));
		TRY(weir_yield());
	}
	expect(try_send_next(&stream) == -EAGAIN);
	stream.sent += shape->waiting;
	weir_mem_fail_after(1);
	while (stream.received < stream.sent)
		expect(try_recv_next(&stream) == 0);
	weir_mem_fail_after(0);
	return weir_scope_wait(&scope);
}

static int let_all_in(void *arg)
{
	static const size_t bytes[] = { 8, 512, 4096 };
	size_t size = bytes[(uintptr_t)arg], block = size == 4096 ? 3 : size == 512 ? 7 : 126;
	size_t step = size > 8 ? 1 : ROUNDS(100) < 100 ? 125 : 61;

	for (size_t capacity = 1; capacity <= 4 * block; capacity += step)
		for (unsigned ahead = 0; ahead < block; ahead += (unsigned)step) {
			struct shape shape = { size, capacity, ahead, (unsigned)(2 * block + 1) };
			TRY(let_them_in(&shape));
		}
	return 0;
}

START_TEST(a_receiver_lets_waiting_senders_in_without_memory)
{
	run_on(1, let_all_in, (void *)(uintptr_t)_i);
}
END_TEST

/* Where all of it fits into one block, the place that is given up is the reserve. */
static int go_round(void *arg)
{
	weir_auto_chan own = weir_chan_new(512, 7);
	struct stream stream = { own, 512, 0, 0 };
	unsigned char item[512] = { 0 };

	(void)arg;
	send_all(&stream, 7);
	weir_mem_fail_after(1);
	WEIR_SCOPE(scope, WEIR_MS);
	int err = weir_chan_send(own, item);
	weir_scope_close(&scope);
	for (int i = 0; i < 20; i++) {
		expect(try_recv_next(&stream) == 0);
		expect(try_send_next(&stream) == 0);
	}
	weir_mem_fail_after(0);
	ck_assert_int_eq(err, -ETIME);
	receive_all(&stream);
	return 0;
}

START_TEST(a_channel_of_one_block_needs_no_other)
{
	run_on(1, go_round, NULL);
}
END_TEST

/* Who cannot have the reserve is told, and does not wait. */
static int lack_the_reserve(void *arg)
{
	weir_auto_chan own = weir_chan_new(512, 100);
	struct stream stream = { own, 512, 0, 0 };
	unsigned char item[512];
	struct weir_case wanted = weir_case_send(own, item);

	(void)arg;
	send_all(&stream, 100);
	make_item(item, sizeof item, 100);
	weir_mem_fail_after(1);
	int err = weir_chan_send(own, item);
	int taken = weir_select(&wanted, 1);
	weir_mem_fail_after(0);
	ck_assert_int_eq(err, -ENOMEM);
	ck_assert_int_eq(taken, 0);
	ck_assert_int_eq(wanted.result, -ENOMEM);
	{
		WEIR_SCOPE(scope, WEIR_MS);
		ck_assert_int_eq(weir_chan_send(own, item), -ETIME);
	}
	receive_all(&stream);
	return 0;
}

START_TEST(who_cannot_have_the_reserve_does_not_wait)
{
	run_on(1, lack_the_reserve, NULL);
}
END_TEST

/* ---- Many at once ------------------------------------------------------------------------------
 */

enum { PRODUCERS = 4, CONSUMERS = 3, EACH_MAX = 4000 };

/* Letters of each producer. */
static unsigned each(void)
{
	return ROUNDS(EACH_MAX) < EACH_MAX ? EACH_MAX / 4 : EACH_MAX;
}

struct letter {
	uint32_t from, number;
	char text[120];
};

static _Atomic unsigned produced, consumed, refused;
static _Atomic uint8_t seen[PRODUCERS][EACH_MAX];

static int put_letter(struct letter *letter, uint64_t *seed)
{
	int err;

	switch (random_next(seed) % 3) {
	case 0:
		while ((err = weir_chan_try_send(chan, letter)) == -EAGAIN)
			TRY(weir_yield());
		return err;
	case 1: {
		struct weir_case wanted = weir_case_send(chan, letter);
		err = weir_select(&wanted, 1);
		return err < 0 ? err : wanted.result;
	}
	default:
		return weir_chan_send(chan, letter);
	}
}

/* In bursts, so that the channel fills and empties. */
static int produce(void *arg)
{
	struct letter letter = { .from = (uint32_t)(uintptr_t)arg };
	uint64_t seed = test_seed() + letter.from;

	for (letter.number = 0; letter.number < each(); letter.number++) {
		int err;
		memset(letter.text, (int)(letter.number & 0x7f), sizeof letter.text);
		while ((err = put_letter(&letter, &seed)) == -ENOMEM)
			refused++;
		TRY(err);
		if (random_next(&seed) % 300 == 0)
			TRY(weir_sleep((int64_t)(random_next(&seed) % 200000)));
	}
	if (++produced == PRODUCERS)
		weir_chan_close(chan);
	return 0;
}

static void check_letter(const struct letter *letter, uint32_t *next)
{
	expect(letter->from < PRODUCERS && letter->number < EACH_MAX);
	for (size_t i = 0; i < sizeof letter->text; i++)
		expect(letter->text[i] == (char)(letter->number & 0x7f));
	expect(seen[letter->from][letter->number]++ == 0);
	expect(letter->number >= next[letter->from]); /* of each sender in its order */
	next[letter->from] = letter->number + 1;
	consumed++;
}

static int consume(void *arg)
{
	uint64_t seed = (uintptr_t)arg * 977 + 1;
	uint32_t next[PRODUCERS] = { 0 };
	struct letter letters[50];
	ssize_t n;

	while ((n = weir_chan_recv_many(chan, letters, 1 + random_next(&seed) % 50)) > 0) {
		for (ssize_t i = 0; i < n; i++)
			check_letter(&letters[i], next);
		if (random_next(&seed) % 40 == 0)
			TRY(weir_sleep((int64_t)(random_next(&seed) % 300000)));
	}
	return n == -EPIPE ? 0 : (int)n;
}

static int correspond(void *arg)
{
	weir_auto_chan own = weir_chan_new(sizeof(struct letter), (uintptr_t)arg);
	WEIR_SCOPE(scope, WEIR_FOREVER);

	chan = own;
	for (uintptr_t i = 0; i < PRODUCERS; i++)
		TRY(weir_spawn(&scope, produce, (void *)i, .worker = WEIR_ON_WORKER(i % 2)));
	for (uintptr_t i = 0; i < CONSUMERS; i++)
		TRY(weir_spawn(&scope, consume, (void *)i, .worker = WEIR_ON_WORKER((i + 1) % 2)));
	return weir_scope_wait(&scope);
}

START_TEST(order_holds_while_it_grows_and_shrinks_on_two_workers)
{
	static const uintptr_t capacities[] = { 9, 100, 3000 };

	run_on(2, correspond, (void *)capacities[_i]);
	ck_assert_uint_eq(consumed, PRODUCERS * each());
	ck_assert_uint_eq(refused, 0);
}
END_TEST

/* Threads without a worker fill it while a task empties it. */
static void *send_from_outside(void *arg)
{
	struct letter letter = { .from = (uint32_t)(uintptr_t)arg };

	while (letter.number < each()) {
		memset(letter.text, (int)(letter.number & 0x7f), sizeof letter.text);
		if (weir_chan_try_send(chan, &letter) == 0)
			letter.number++;
		else
			spin();
	}
	if (++produced == PRODUCERS)
		weir_chan_close(chan);
	return NULL;
}

START_TEST(other_threads_make_it_grow)
{
	weir_auto_chan own = weir_chan_new(sizeof(struct letter), 1000);
	pthread_t threads[PRODUCERS];

	chan = own;
	for (uintptr_t i = 0; i < PRODUCERS; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, send_from_outside, (void *)i),
				 0);
	run_on(1, consume, NULL);
	for (int i = 0; i < PRODUCERS; i++)
		pthread_join(threads[i], NULL);
	ck_assert_uint_eq(consumed, PRODUCERS * each());
}
END_TEST

Suite *runtime_room_suite(void)
{
	Suite *suite = suite_create("runtime_room");
	TCase *rules = tcase_create("rules");
	TCase *figures = tcase_create("figures");
	TCase *stress = tcase_create("stress");
	TCase *threads = tcase_create("threads");

	tcase_set_tags(rules, "fast");
	tcase_set_timeout(rules, 20);
	tcase_add_loop_test(rules, a_new_channel_costs_the_same_whatever_its_capacity, 0, 6);
	tcase_add_test(rules, items_as_large_as_a_block_have_room);
	tcase_add_test(rules, what_is_in_it_goes_with_it);
	tcase_add_test(rules, chance_sends_and_receives_in_order);
	tcase_add_loop_test(rules, each_refused_growth_is_said_and_loses_nothing, 0, 3);
	tcase_add_test(rules, a_small_channel_needs_no_memory_later);
	tcase_add_test(rules, every_call_that_sends_says_so);
	tcase_add_test(rules, what_is_waited_for_needs_no_room);
	tcase_add_loop_test(rules, a_receiver_lets_waiting_senders_in_without_memory, 0, 3);
	tcase_add_test(rules, a_channel_of_one_block_needs_no_other);
	tcase_add_test(rules, who_cannot_have_the_reserve_does_not_wait);
	suite_add_tcase(suite, rules);

	tcase_set_timeout(figures, 20);
	tcase_add_loop_test(figures, memory_follows_what_is_in_it, 0, 5);
	tcase_add_loop_test(figures, steady_use_allocates_nothing, 0, 5);
	tcase_add_test(figures, the_last_spare_block_is_kept);
	suite_add_tcase(suite, figures);

	tcase_set_timeout(stress, 60);
	tcase_add_loop_test(stress, order_holds_while_it_grows_and_shrinks_on_two_workers, 0, 3);
	suite_add_tcase(suite, stress);

	/* threads of the program's own: the simulator does not know that they will send */
	tcase_set_tags(threads, "real");
	tcase_set_timeout(threads, 60);
	tcase_add_test(threads, other_threads_make_it_grow);
	suite_add_tcase(suite, threads);
	return suite;
}
