/* SPDX-License-Identifier: MIT */
/*
 * Many that wait at once, and many that give up while they do: none is forgotten, and nothing is
 * taken twice.
 */
#include <stdatomic.h>
#include <string.h>

#include "tests/parties.h"

static union {
	struct weir_mutex mutex;
	struct weir_rwlock rwlock;
	struct weir_sem sem;
	struct weir_event event;
} one;
static _Atomic unsigned begun;

/* ---- Many ----------------------------------------------------------------------------------- */

enum { CROWD = 10000 };
static _Atomic unsigned crowd_woken;

static int join_crowd(void *arg)
{
	(void)arg;
	begun++;
	TRY(weir_event_wait(&one.event));
	crowd_woken++;
	return 0;
}

static int wake_crowd(void *arg)
{
	unsigned workers = *(int *)arg ? 2 : 1;
	WEIR_SCOPE(scope, WEIR_FOREVER);

	weir_event_init(&one.event);
	for (unsigned i = 0; i < (unsigned)ROUNDS(CROWD); i++)
		TRY(weir_spawn(&scope, join_crowd, NULL, .worker = WEIR_ON_WORKER(i % workers)));
	while (begun < (unsigned)ROUNDS(CROWD))
		TRY(weir_sleep(WEIR_MS));
	weir_event_set(&one.event);
	if (workers == 1) /* who waits is woken all the same */
		weir_event_reset(&one.event);
	TRY(weir_scope_wait(&scope));
	ck_assert_uint_eq(crowd_woken, (unsigned)ROUNDS(CROWD));
	return 0;
}

START_TEST(ten_thousand_wait_for_one_event)
{
	run_on(2, wake_crowd, &_i);
}
END_TEST

/* ---- Stress --------------------------------------------------------------------------------- */

/*
 * Tasks of two workers take and give back, some give up waiting after microseconds. What the locks
 * protect must hold at every moment, and in the end everything has been given back.
 */
enum { UNITS = 3 };

static uint64_t guarded[2];
static _Atomic int inside_read, inside_written, units_out;

static int use_mutex(uint64_t *seed)
{
	TRY(weir_mutex_lock(&one.mutex));
	expect(guarded[0] == guarded[1]);
	guarded[0]++;
	if (random_next(seed) % 8 == 0)
		(void)weir_yield();
	guarded[1]++;
	weir_mutex_unlock(&one.mutex);
	return 0;
}

static int use_rwlock(uint64_t *seed)
{
	bool writes = random_next(seed) % 4 == 0;

	TRY(writes ? weir_rwlock_write(&one.rwlock) : weir_rwlock_read(&one.rwlock));
	if (writes) {
		expect(inside_written++ == 0);
		expect(inside_read == 0);
	} else {
		inside_read++;
		expect(inside_written == 0);
	}
	if (random_next(seed) % 4 == 0)
		(void)weir_yield();
	if (writes)
		inside_written--;
	else
		inside_read--;
	weir_rwlock_unlock(&one.rwlock);
	return 0;
}

static int use_sem(uint64_t *seed)
{
	int units = 1 + (int)(random_next(seed) % UNITS);

	TRY(weir_sem_wait_for(&one.sem, (size_t)units));
	expect(atomic_fetch_add(&units_out, units) + units <= UNITS);
	if (random_next(seed) % 4 == 0)
		(void)weir_yield();
	units_out -= units;
	expect(weir_sem_post_many(&one.sem, (size_t)units) == 0);
	return 0;
}

static int (*const uses[])(uint64_t *seed) = { use_mutex, use_rwlock, use_sem };
static int (*use)(uint64_t *seed);

static int hold_parties(void *arg)
{
	uint64_t *seed = arg;

	for (unsigned round = 0; is_stressed(round, 1000); round++)
		TRY(party_round(seed, use, 15000));
	return 0;
}

START_TEST(a_cancelled_waiter_swallows_nothing)
{
	uint64_t seed = test_seed();

	memset(&one, 0, sizeof one);
	use = uses[_i];
	if (use == use_sem)
		weir_sem_init(&one.sem, UNITS);
	run_on(2, hold_parties, &seed);
	ck_assert_uint_eq(guarded[0], guarded[1]);
	if (use == use_mutex)
		ck_assert_int_eq(weir_mutex_try_lock(&one.mutex), 0);
	else if (use == use_rwlock)
		ck_assert_int_eq(weir_rwlock_try_write(&one.rwlock), 0);
	else
		ck_assert_uint_eq(weir_sem_units(&one.sem), UNITS);
}
END_TEST

Suite *runtime_wait_many_suite(void)
{
	Suite *suite = suite_create("runtime_wait_many");
	TCase *stress = tcase_create("stress");

	tcase_set_timeout(stress, 60);
	tcase_add_loop_test(stress, ten_thousand_wait_for_one_event, 0, 2);
	tcase_add_loop_test(stress, a_cancelled_waiter_swallows_nothing, 0, 3);
	suite_add_tcase(suite, stress);
	return suite;
}
