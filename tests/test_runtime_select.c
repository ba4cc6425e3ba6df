/* SPDX-License-Identifier: MIT */
/*
 * weir_select() takes exactly one of its cases, in turn where several are ready, and the others
 * lose nothing; joins give a task's result.
 */
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <limits.h>

#include "tests/descriptors.h"
#include "tests/parties.h"

enum { CHANS = 4 };
static weir_chan *chans[CHANS];

static int open_chans(size_t capacity)
{
	for (int i = 0; i < CHANS; i++) {
		chans[i] = weir_chan_new(sizeof(unsigned), capacity);
		if (!chans[i])
			return -ENOMEM;
	}
	return 0;
}

static void close_chans(void)
{
	for (int i = 0; i < CHANS; i++)
		weir_chan_free(chans[i]);
}

/* ---- One of many ---------------------------------------------------------------------------- */

static int choose_in_turn(void *arg)
{
	unsigned taken[CHANS] = { 0 }, item = 5;

	(void)arg;
	TRY(open_chans(100));
	for (int i = 0; i < CHANS; i++)
		for (int n = 0; n < 100; n++)
			TRY(weir_chan_try_send(chans[i], &item));
	for (int n = 0; n < 200; n++) {
		struct weir_case cases[CHANS];
		for (int i = 0; i < CHANS; i++)
			cases[i] = weir_case_recv(chans[i], &item);
		int which = n % 2 ? weir_select(cases, CHANS) : weir_select_try(cases, CHANS);
		ck_assert_int_ge(which, 0);
		ck_assert_int_eq(cases[which].result, 0);
		taken[which]++;
	}
	for (int i = 0; i < CHANS; i++) {
		ck_assert_uint_ge(taken[i], 40);
		ck_assert_uint_eq(weir_chan_len(chans[i]), 100 - taken[i]);
	}
	close_chans();
	return 0;
}

START_TEST(the_ready_ones_are_taken_in_turn)
{
	run_on(1, choose_in_turn, NULL);
}
END_TEST

/* Every other call of the worker's is another select's: it must not get the same half of the turns.
 */
static int choose_between_others(void *arg)
{
	unsigned taken[CHANS] = { 0 }, item = 5;

	(void)arg;
	TRY(open_chans(1));
	for (int n = 0; n < 400; n++) {
		struct weir_case cases[CHANS], other = { 0 };
		for (int i = 0; i < CHANS; i++)
			cases[i] = weir_case_send(chans[i], &item);
		ck_assert_int_eq(weir_select_try(&other, 1), -EAGAIN);
		int which = weir_select(cases, CHANS);
		ck_assert_int_ge(which, 0);
		taken[which]++;
		TRY(weir_chan_try_recv(chans[which], &item));
	}
	for (int i = 0; i < CHANS; i++)
		ck_assert_uint_ge(taken[i], 80);
	close_chans();
	return 0;
}

START_TEST(turns_are_taken_whoever_else_selects)
{
	run_on(1, choose_between_others, NULL);
}
END_TEST

static int give_second(void *arg)
{
	unsigned item = 77;

	(void)arg;
	return weir_chan_send(chans[1], &item);
}

/* The first case to come about after the parking, among more cases than fit the stack. */
static int wait_for_second(void *arg)
{
	unsigned count = *(unsigned *)arg, got[WEIR_CASES_MAX] = { 0 };
	struct weir_case cases[WEIR_CASES_MAX];
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(open_chans(1));
	for (unsigned i = 0; i < count; i++)
		cases[i] = weir_case_recv(chans[i == 1 ? 1 : 0], &got[i]);
	for (unsigned worker = 0; worker < 2; worker++) {
		TRY(weir_spawn(&scope, give_second, NULL, .worker = WEIR_ON_WORKER(worker)));
		ck_assert_int_eq(weir_select(cases, count), 1);
		ck_assert_int_eq(cases[1].result, 0);
		ck_assert_uint_eq(got[1], 77);
		ck_assert_uint_eq(got[0], 0);
		got[1] = 0;
	}
	TRY(weir_scope_wait(&scope));
	ck_assert_int_eq(weir_select_try(cases, count), -EAGAIN);
	weir_chan_close(chans[1]);
	ck_assert_int_eq(weir_select(cases, count), 1);
	ck_assert_int_eq(cases[1].result, -EPIPE);
	/* nobody is left in the first one's queue: the item stays in the channel */
	TRY(weir_chan_try_send(chans[0], &got[0]));
	ck_assert_uint_eq(weir_chan_len(chans[0]), 1);
	close_chans();
	return 0;
}

START_TEST(the_first_to_come_about_is_taken)
{
	static unsigned counts[] = { 2, 8, 9, WEIR_CASES_MAX };

	run_on(2, wait_for_second, &counts[_i]);
}
END_TEST

static int select_nothing(void *arg)
{
	struct weir_case cases[WEIR_CASES_MAX + 1] = { { 0 } };

	(void)arg;
	ck_assert_int_eq(weir_select(cases, 0), -EINVAL);
	ck_assert_int_eq(weir_select(cases, WEIR_CASES_MAX + 1), -EINVAL);
	ck_assert_int_eq(weir_select_try(cases, 0), -EINVAL);
	ck_assert_int_eq(weir_select_try(cases, WEIR_CASES_MAX + 1), -EINVAL);
	ck_assert_int_eq(weir_select_try(cases, WEIR_CASES_MAX), -EAGAIN);
	WEIR_SCOPE(scope, WEIR_MS);
	ck_assert_int_eq(weir_select(cases, WEIR_CASES_MAX), -ETIME);
	weir_scope_close(&scope);
	return 0;
}

START_TEST(no_case_or_none_that_can_come_about)
{
	struct weir_case none = weir_case_timer(0);

	ck_assert_int_eq(weir_select(&none, 1), -EINVAL);
	run_on(1, select_nothing, NULL);
}
END_TEST

/* Both directions of one channel: there is always room or an item, never a deal with oneself. */
static int talk_to_oneself(void *arg)
{
	unsigned sent = 3, got = 0, sends = 0;

	(void)arg;
	TRY(open_chans(1));
	for (int n = 0; n < 100; n++) {
		struct weir_case cases[] = { weir_case_send(chans[0], &sent),
					     weir_case_recv(chans[0], &got) };
		int which = weir_select(cases, 2);
		ck_assert_int_ge(which, 0);
		ck_assert_int_eq(cases[which].result, 0);
		ck_assert_int_eq(which, n % 2);
		sends += which == 0;
	}
	ck_assert_uint_eq(sends, 50);
	close_chans();
	return 0;
}

START_TEST(both_directions_of_one_channel)
{
	run_on(1, talk_to_oneself, NULL);
}
END_TEST

/* ---- Time ----------------------------------------------------------------------------------- */

static int run_out(void *arg)
{
	unsigned item = 9;
	int64_t start = weir_now();

	(void)arg;
	TRY(open_chans(1));
	struct weir_case cases[] = { weir_case_timer(WEIR_FOREVER), weir_case_timer(3 * WEIR_MS),
				     weir_case_recv(chans[0], &item), weir_case_timer(WEIR_SEC) };
	ck_assert_int_eq(weir_select(cases, 4), 1);
	ck_assert_int_eq(cases[1].result, 0);
	ck_assert_int_ge(weir_now() - start, 3 * WEIR_MS);
	ck_assert_uint_eq(item, 9);
	cases[1] = weir_case_timer(0);
	ck_assert_int_eq(weir_select(cases, 4), 1);
	ck_assert_int_eq(weir_select_try(cases, 4), 1);
	cases[1] = weir_case_timer(WEIR_SEC);
	{
		WEIR_SCOPE(scope, WEIR_MS); /* the scope's deadline is not the case's */
		ck_assert_int_eq(weir_select(cases, 4), -ETIME);
	}
	TRY(weir_chan_send(chans[0], &item));
	ck_assert_uint_eq(weir_chan_len(chans[0]), 1);
	close_chans();
	return 0;
}

START_TEST(a_timer_is_a_case_among_others)
{
	run_on(1, run_out, NULL);
}
END_TEST

/* ---- Joins ---------------------------------------------------------------------------------- */

static int return_arg(void *arg)
{
	TRY(weir_yield());
	return (int)(intptr_t)arg;
}

static int wait_cancelled(void *arg)
{
	(void)arg;
	return weir_sleep(60 * WEIR_SEC);
}

static int join_all(void *arg)
{
	unsigned workers = *(unsigned *)arg;
	struct weir_join joins[3], unused = { 0 };
	int result = 99;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	ck_assert_int_eq(weir_join_wait(&unused, &result), -EINVAL);
	for (int i = 0; i < 2; i++)
		TRY(weir_spawn(&scope, return_arg, (void *)(intptr_t)(i ? -EIO : 42),
			       .join = &joins[i], .worker = WEIR_ON_WORKER(workers - 1)));
	TRY(weir_spawn(&scope, wait_cancelled, NULL, .join = &joins[2]));
	for (int times = 0; times < 2; times++) {
		TRY(weir_join_wait(&joins[0], &result));
		ck_assert_int_eq(result, 42);
		TRY(weir_join_wait(&joins[1], &result));
		ck_assert_int_eq(result, -EIO); /* and the others live on */
		ck_assert(weir_join_has_ended(&joins[1]));
	}
	ck_assert(!weir_join_has_ended(&joins[2]));
	{
		WEIR_SCOPE(soon, WEIR_MS);
		ck_assert_int_eq(weir_join_wait(&joins[2], &result), -ETIME);
	}
	struct weir_case cases[] = { weir_case_join(&joins[2]), weir_case_join(&joins[0]) };
	ck_assert_int_eq(weir_select(cases, 2), 1);
	ck_assert_int_eq(cases[1].result, 42);
	weir_scope_cancel(&scope);
	ck_assert_int_eq(weir_scope_wait(&scope), -ECANCELED);
	weir_scope_close(&scope);
	TRY(weir_join_wait(&joins[2], &result));
	ck_assert_int_eq(result, -ECANCELED);
	return 0;
}

START_TEST(the_result_goes_to_who_joins)
{
	static unsigned workers[] = { 1, 2 };

	run_on(workers[_i], join_all, &workers[_i]);
}
END_TEST

/* The first of a race is taken, by a select that parks. */
static int race(void *arg)
{
	struct weir_join joins[2];
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, wait_cancelled, NULL, .join = &joins[0]));
	TRY(weir_spawn(&scope, return_arg, (void *)7, .join = &joins[1]));
	struct weir_case cases[] = { weir_case_join(&joins[0]), weir_case_join(&joins[1]) };
	ck_assert_int_eq(weir_select(cases, 2), 1);
	ck_assert_int_eq(cases[1].result, 7);
	return 0;
}

START_TEST(the_first_of_two_tasks)
{
	run_on(1, race, NULL);
}
END_TEST

static int spawn_in_cancelled(void *arg)
{
	struct weir_join join;
	int result = 5;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	weir_scope_cancel(&scope);
	ck_assert_int_eq(weir_spawn(&scope, return_arg, NULL, .join = &join), -ECANCELED);
	weir_scope_close(&scope);
	ck_assert_int_eq(weir_join_wait(&join, &result), -EINVAL);
	return 0;
}

START_TEST(a_spawn_that_failed_has_nothing_to_join)
{
	run_on(1, spawn_in_cancelled, NULL);
}
END_TEST

/* Its stack cannot be had: it never runs, and its end is told all the same. */
static int join_unborn(void *arg)
{
	struct weir_case cases[WEIR_CASES_MAX] = { { 0 } };
	struct weir_join join;
	int result = 0;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_spawn(&scope, return_arg, NULL, .join = &join, .stack = WEIR_STACK_32K));
	weir_mem_fail_after(1);
	int full = weir_select(cases, WEIR_CASES_MAX); /* more waiters than lie on the stack */
	int err = weir_join_wait(&join, &result);
	weir_mem_fail_after(0);
	ck_assert_int_eq(full, -ENOMEM);
	ck_assert_int_eq(err, 0);
	ck_assert_int_eq(result, -ENOMEM);
	return weir_scope_wait(&scope); /* which has nothing to report */
}

START_TEST(a_task_without_a_stack_is_joined_too)
{
	run_on(1, join_unborn, NULL);
}
END_TEST

/* ---- Descriptors ---------------------------------------------------------------------------- */

static int write_later(void *arg)
{
	TRY(weir_sleep(2 * WEIR_MS));
	return write(*(int *)arg, "x", 1) == 1 ? 0 : -EIO;
}

static int wait_for_pipe(void *arg)
{
	int ends[2], file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	unsigned item = 1;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(open_chans(1));
	ck_assert_int_eq(pipe(ends), 0);
	ck_assert_int_eq(weir_fd_wait(ends[1], POLLOUT), POLLOUT);
	ck_assert_int_eq(weir_fd_wait(file, POLLIN), POLLIN);
	ck_assert_int_eq(weir_fd_wait(-1, POLLIN), -EBADF);
	ck_assert_int_eq(weir_fd_wait(100000, POLLIN), -EBADF);
	struct weir_case none = weir_case_fd(-1, POLLIN);
	ck_assert_int_eq(weir_select_try(&none, 1), 0);
	ck_assert_int_eq(none.result, -EBADF);
	for (int n = 0; n < 3; n++) { /* forgotten, again and again */
		WEIR_SCOPE(soon, WEIR_MS);
		ck_assert_int_eq(weir_fd_wait(ends[0], POLLIN), -ETIME);
	}
	TRY(weir_spawn(&scope, write_later, &ends[1]));
	struct weir_case cases[] = { weir_case_recv(chans[0], &item), weir_case_fd(ends[0], POLLIN),
				     weir_case_fd(ends[0], POLLIN) };
	int which = weir_select(cases, 3);
	ck_assert_int_ge(which, 1);
	ck_assert_int_eq(cases[which].result, POLLIN);
	/* a descriptor that loses is as ready as before */
	TRY(weir_chan_send(chans[0], &item));
	ck_assert_int_eq(weir_fd_wait(ends[0], POLLIN), POLLIN);
	TRY(weir_scope_wait(&scope));
	ck_assert_int_eq(close(ends[1]), 0);
	char byte;
	ck_assert_int_eq(read(ends[0], &byte, 1), 1);
	ck_assert_int_eq(weir_fd_wait(ends[0], POLLIN), POLLHUP);
	ck_assert_int_eq(close(ends[0]), 0);
	close(file);
	close_chans();
	return 0;
}

START_TEST(a_descriptor_is_a_case_among_others)
{
	run_on(1, wait_for_pipe, NULL);
}
END_TEST

/* Ready in one turn: one of them is taken, and the other has been told in vain. */
static int write_both(void *arg)
{
	const int *writers = arg;

	TRY(weir_sleep(100 * WEIR_US));
	expect(write(writers[0], "x", 1) == 1);
	expect(write(writers[1], "x", 1) == 1);
	return 0;
}

static int wait_for_both(void *arg)
{
	int first[2], second[2], before = count_descriptors();
	char byte;

	(void)arg;
	ck_assert_int_eq(pipe(first), 0);
	ck_assert_int_eq(pipe(second), 0);
	int writers[] = { first[1], second[1] };
	for (int n = 0; n < 20; n++) {
		WEIR_SCOPE(scope, WEIR_FOREVER);
		TRY(weir_spawn(&scope, write_both, writers));
		struct weir_case cases[] = { weir_case_fd(first[0], POLLIN),
					     weir_case_fd(second[0], POLLIN) };
		int which = weir_select(cases, 2);
		ck_assert_int_ge(which, 0);
		ck_assert_int_eq(cases[which].result, POLLIN);
		TRY(weir_scope_wait(&scope));
		expect(read(first[0], &byte, 1) == 1);
		expect(read(second[0], &byte, 1) == 1);
	}
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(close(first[i]), 0);
		ck_assert_int_eq(close(second[i]), 0);
	}
	TRY(weir_sleep(WEIR_MS)); /* what was forgotten is let go of */
	ck_assert_int_eq(count_descriptors(), before);
	return 0;
}

START_TEST(of_two_descriptors_that_get_ready_together_one_is_taken)
{
	run_on(1, wait_for_both, NULL);
}
END_TEST

/* The channel wins; the descriptor may be closed at once, and nothing of it is left open. */
static int close_after(void *arg)
{
	unsigned item = 1;
	int ends[2];

	(void)arg;
	TRY(open_chans(1));
	for (int n = 0; n < 20; n++) {
		ck_assert_int_eq(pipe(ends), 0);
		WEIR_SCOPE(scope, WEIR_FOREVER);
		TRY(weir_spawn(&scope, give_second, NULL));
		struct weir_case cases[] = { weir_case_fd(ends[0], POLLIN),
					     weir_case_recv(chans[1], &item) };
		ck_assert_int_eq(weir_select(cases, 2), 1);
		close(ends[0]);
		close(ends[1]);
	}
	TRY(weir_sleep(WEIR_MS));
	int lowest = open("/dev/null", O_RDONLY | O_CLOEXEC);
	ck_assert_int_eq(lowest, ends[0] < ends[1] ? ends[0] : ends[1]);
	close(lowest);
	close_chans();
	return 0;
}

START_TEST(a_descriptor_that_lost_may_be_closed)
{
	run_on(1, close_after, NULL);
}
END_TEST

/* ---- Stress --------------------------------------------------------------------------------- */

/*
 * Tasks of two workers send and receive by selects over all channels at once, a semaphore among
 * them; some run out of time. Every number is sent once; who reports that it was must be right.
 */
enum { NUMBERS_MAX = 200000, UNITS = 2 };

static _Atomic uint8_t sent[NUMBERS_MAX], received[NUMBERS_MAX];
static _Atomic unsigned next_number;
static struct weir_sem sem;

static int choose(uint64_t *seed)
{
	unsigned number = next_number++, got[CHANS];
	struct weir_case cases[CHANS + 3];
	unsigned sends = (unsigned)random_next(seed);

	if (number >= NUMBERS_MAX)
		return -EPIPE;
	for (int i = 0; i < CHANS; i++)
		cases[i] = sends >> i & 1 ? weir_case_send(chans[i], &number)
					  : weir_case_recv(chans[i], &got[i]);
	cases[CHANS] = weir_case_sem(&sem, 1 + random_next(seed) % UNITS);
	cases[CHANS + 1] = weir_case_timer((int64_t)(random_next(seed) % 20000) + 1);
	int which = weir_select(cases, CHANS + 2);
	if (which < 0)
		return which;
	expect(cases[which].result == 0);
	if (which == CHANS)
		expect(weir_sem_post_many(&sem, (size_t)cases[CHANS].count_) == 0);
	else if (which < CHANS && sends >> which & 1)
		sent[number]++;
	else if (which < CHANS)
		received[got[which]]++;
	return 0;
}

static int hold_parties(void *arg)
{
	uint64_t *seed = arg;
	unsigned number;

	TRY(open_chans(1 + random_next(seed) % 3));
	weir_sem_init(&sem, UNITS);
	for (unsigned round = 0; is_stressed(round, 1000); round++)
		TRY(party_round(seed, choose, 30000));
	for (int i = 0; i < CHANS; i++)
		while (weir_chan_try_recv(chans[i], &number) == 0)
			received[number]++;
	close_chans();
	return 0;
}

START_TEST(a_case_that_loses_loses_nothing)
{
	uint64_t seed = test_seed();
	unsigned total = 0;

	run_on(2, hold_parties, &seed);
	for (unsigned i = 0; i < NUMBERS_MAX; i++) {
		expect(sent[i] == received[i]);
		total += sent[i];
	}
	ck_assert_uint_gt(total, 0);
	ck_assert_uint_eq(weir_sem_units(&sem), UNITS);
}
END_TEST

/*
 * The other worker grants one case while this one still enters the rest, of which another has
 * become ready meanwhile: idle cases between them hold the gap open.
 */
enum { IDLE = 20, EXCHANGES = 5000 };

/* Never parks, so that it is not late. */
static int deal(void *arg)
{
	uint64_t *seed = arg;
	unsigned got = 0;

	for (unsigned i = 0; is_stressed(i, EXCHANGES); i++) {
		for (unsigned n = (unsigned)random_next(seed) % 2000; n > 0; n--)
			(void)weir_worker_index();
		while (weir_chan_try_send(chans[0], &i) == -EAGAIN)
			TRY(weir_yield());
		expect(weir_sem_post(&sem) == 0);
		while (weir_chan_try_recv(chans[1], &got) == -EAGAIN)
			TRY(weir_yield());
		expect(got == i);
	}
	weir_chan_close(chans[0]);
	return 0;
}

static int enter_slowly(void *arg)
{
	unsigned counts[3] = { 0 }, item = 0, rounds = UINT_MAX;
	struct weir_event never = { 0 };
	WEIR_SCOPE(scope, WEIR_FOREVER);

	TRY(open_chans(1));
	weir_sem_init(&sem, 0);
	TRY(weir_spawn(&scope, deal, arg, .worker = WEIR_ON_WORKER(1)));
	while (counts[0] < rounds || counts[1] < rounds || counts[2] < rounds) {
		struct weir_case cases[3 * IDLE];
		for (int i = 0; i < 3 * IDLE; i++)
			cases[i] = weir_case_event(&never);
		if (rounds == UINT_MAX) /* not told yet how many there are */
			cases[0] = weir_case_recv(chans[0], &item);
		cases[IDLE] = weir_case_sem(&sem, 1);
		cases[2 * IDLE] = counts[2] < rounds ? weir_case_send(chans[1], &counts[2])
						     : (struct weir_case){ 0 };
		int which = weir_select(cases, 3 * IDLE);
		TRY(which);
		if (which == 0 && cases[0].result == -EPIPE) {
			rounds = counts[0];
			continue;
		}
		expect(which % IDLE == 0 && cases[which].result == 0);
		expect(which || item == counts[0]);
		counts[which / IDLE]++;
	}
	ck_assert_uint_eq(weir_sem_units(&sem), 0);
	TRY(weir_scope_wait(&scope));
	close_chans();
	return 0;
}

START_TEST(a_grant_while_entering_is_the_only_one)
{
	uint64_t seed = test_seed();

	run_on(2, enter_slowly, &seed);
}
END_TEST

/* The same with a notification: one that comes for a select which has its case already is kept. */
enum { BELL = 30 };

static struct weir_notify bell;
static _Atomic unsigned heard;

static int deal_and_ring(void *arg)
{
	uint64_t *seed = arg;

	for (unsigned i = 0; is_stressed(i, EXCHANGES); i++) {
		int64_t patience = weir_now() + 30 * WEIR_SEC;
		for (unsigned n = (unsigned)random_next(seed) % 2000; n > 0; n--)
			(void)weir_worker_index();
		while (weir_chan_try_send(chans[0], &i) == -EAGAIN)
			TRY(weir_yield());
		weir_notify_one(&bell);
		while (heard <= i) {
			if (weir_now() > patience)
				return -EPROTO; /* it is lost: this ends the other's wait */
			TRY(weir_yield());
		}
	}
	weir_chan_close(chans[0]);
	return 0;
}

static int take_and_listen(void *arg)
{
	unsigned taken = 0, item = 0;
	struct weir_event never = { 0 };
	bool is_over = false;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	heard = 0;
	weir_notify_init(&bell);
	TRY(open_chans(1));
	TRY(weir_spawn(&scope, deal_and_ring, arg, .worker = WEIR_ON_WORKER(1)));
	while (!is_over) {
		struct weir_case cases[2 * BELL];
		for (int i = 0; i < 2 * BELL; i++)
			cases[i] = weir_case_event(&never);
		cases[0] = weir_case_recv(chans[0], &item);
		cases[BELL] = weir_case_notify(&bell);
		int which = weir_select(cases, 2 * BELL);
		TRY(which);
		if (which == BELL)
			heard++;
		else if (cases[0].result == -EPIPE)
			is_over = true;
		else
			expect(which == 0 && item == taken++);
	}
	expect(heard == taken);
	TRY(weir_scope_wait(&scope));
	close_chans();
	return 0;
}

START_TEST(a_notification_for_who_has_been_granted_is_kept)
{
	uint64_t seed = test_seed();

	run_on(2, take_and_listen, &seed);
}
END_TEST

Suite *runtime_select_suite(void)
{
	Suite *suite = suite_create("runtime_select");
	TCase *rules = tcase_create("rules");
	TCase *descriptors = tcase_create("descriptors");
	TCase *stress = tcase_create("stress");

	tcase_set_tags(rules, "fast");
	tcase_set_timeout(rules, 10);
	tcase_add_test(rules, the_ready_ones_are_taken_in_turn);
	tcase_add_test(rules, turns_are_taken_whoever_else_selects);
	tcase_add_loop_test(rules, the_first_to_come_about_is_taken, 0, 4);
	tcase_add_test(rules, no_case_or_none_that_can_come_about);
	tcase_add_test(rules, both_directions_of_one_channel);
	tcase_add_test(rules, a_timer_is_a_case_among_others);
	tcase_add_loop_test(rules, the_result_goes_to_who_joins, 0, 2);
	tcase_add_test(rules, the_first_of_two_tasks);
	tcase_add_test(rules, a_spawn_that_failed_has_nothing_to_join);
	tcase_add_test(rules, a_task_without_a_stack_is_joined_too);
	suite_add_tcase(suite, rules);

	tcase_set_tags(descriptors, "fast real"); /* the system's */
	tcase_set_timeout(descriptors, 10);
	tcase_add_test(descriptors, a_descriptor_is_a_case_among_others);
	tcase_add_test(descriptors, of_two_descriptors_that_get_ready_together_one_is_taken);
	tcase_add_test(descriptors, a_descriptor_that_lost_may_be_closed);
	suite_add_tcase(suite, descriptors);

	tcase_set_timeout(stress, 60);
	tcase_add_test(stress, a_case_that_loses_loses_nothing);
	tcase_add_test(stress, a_grant_while_entering_is_the_only_one);
	tcase_add_test(stress, a_notification_for_who_has_been_granted_is_kept);
	suite_add_tcase(suite, stress);
	return suite;
}
