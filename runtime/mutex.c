/* SPDX-License-Identifier: MIT */
/*
 * mutex.c: one task at a time, and waiting for a change under it.
 *
 * The state is 0 free, 1 held, 2 held and somebody may be waiting. Taking and giving back without
 * company are one compare-and-swap each, inlined into the program. Once the state is 2 it changes
 * only under the lock, and the mutex is handed from task to task without ever being free: nobody
 * overtakes who waits.
 */
#include "runtime/wait.h"

#include <string.h>

struct mutex {
	unsigned state;
	struct weir__lock lock;
	struct weir__waitq queue;
};
_Static_assert(sizeof(struct mutex) <= sizeof(struct weir_mutex), "fits the public struct");
_Static_assert(offsetof(struct mutex, state) == offsetof(struct weir_mutex, state_), "the same");

static const struct weir__about about_mutex = { "mutex", NULL };
static const struct weir__about about_condition = { "condition", NULL };

enum { FREE, HELD, AWAITED };

static struct mutex *of(struct weir_mutex *mutex)
{
	return (struct mutex *)(void *)mutex;
}

void weir_mutex_init(struct weir_mutex *mutex)
{
	memset(mutex, 0, sizeof *mutex);
}

void weir_mutex_done(struct weir_mutex *mutex)
{
	weir__waitq_done(&of(mutex)->lock, &of(mutex)->queue);
}

enum { TRY_PAUSES_FIRST = 4, TRY_PAUSES_MAX = 32, TRIES_SKIPPED_MAX = 255 };

/*
 * A mutex that a task of another worker holds is free again before that worker could be asked to
 * hand it over, if it is held for as short a time as most are: 1.6 us are waited for that. One that
 * is held across a park is not, so what does not succeed is tried ever less often. Who waits in the
 * queue already is not overtaken: then the state is AWAITED.
 */
static bool take_soon(struct weir__worker *self, struct weir_mutex *mutex)
{
	struct weir__mutex_tries *tries = &self->mutex_tries;
	unsigned state = HELD;

	if (!self->runtime->linger_ns)
		return false;
	if (tries->skip > 0) {
		tries->skip--;
		return false;
	}
	for (unsigned pauses = TRY_PAUSES_FIRST; state == HELD && pauses <= TRY_PAUSES_MAX;
	     pauses *= 2) {
		for (unsigned n = 0; n < pauses; n++)
			weir__pause();
		state = __atomic_load_n(&of(mutex)->state, __ATOMIC_RELAXED);
	}
	bool is_ours = state == FREE && weir_mutex_try_lock(mutex) == 0;
	tries->skipped = is_ours ? 0 : tries->skipped * 2 + 1;
	if (tries->skipped > TRIES_SKIPPED_MAX)
		tries->skipped = TRIES_SKIPPED_MAX;
	tries->skip = tries->skipped;
	return is_ours;
}

/* Under the lock. True: it was free and is ours. Else whoever unlocks has to come here. */
static bool take_or_announce(struct mutex *mutex)
{
	/* acquire: pairs with the release in weir_mutex_unlock() */
	if (__atomic_exchange_n(&mutex->state, AWAITED, __ATOMIC_ACQUIRE) != FREE)
		return false;
	if (weir__waitq_is_empty(&mutex->queue))
		__atomic_store_n(&mutex->state, HELD, __ATOMIC_RELAXED);
	return true;
}

/* The lock is released on return. */
static bool enter(struct weir__worker *self, struct mutex *mutex, struct weir__waiter *waiter)
{
	weir__lock(&mutex->lock);
	bool is_ours = take_or_announce(mutex);
	if (!is_ours) {
		weir__waiter_init(waiter, self->current);
		weir__waitq_add(&mutex->lock, &mutex->queue, waiter);
	}
	weir__unlock(&mutex->lock);
	return is_ours;
}

int weir__mutex_lock_slow(struct weir_mutex *public_mutex)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__waiter waiter;
	int err = weir__may_wait(self);

	if (err < 0)
		return err;
	if (take_soon(self, public_mutex))
		return 0;
	return enter(self, of(public_mutex), &waiter) ? 0 : weir__wait(self, &waiter, &about_mutex);
}

/* For the return from a condition. */
static void lock_shielded(struct weir__worker *self, struct weir_mutex *mutex)
{
	struct weir__waiter waiter;

	if (weir_mutex_try_lock(mutex) < 0 && !enter(self, of(mutex), &waiter))
		(void)weir__wait_shielded(self, &waiter, "mutex of a condition");
}

/*
 * The last access to a mutex without waiters is the one that frees it: whoever takes it then may
 * free the memory.
 */
void weir__mutex_unlock_slow(struct weir_mutex *public_mutex)
{
	struct weir__worker *self = weir__worker_self();
	struct mutex *mutex = of(public_mutex);

	for (;;) {
		unsigned held = HELD;

		weir__lock(&mutex->lock);
		/* fails for an unlock without a lock */
		WEIR_ASSERT(__atomic_load_n(&mutex->state, __ATOMIC_RELAXED) == AWAITED);
		struct weir__waiter *next = weir__waitq_grant(self, &mutex->queue, 0);
		bool has_leavers = !weir__waitq_is_empty(&mutex->queue);
		if (!has_leavers)
			__atomic_store_n(&mutex->state, HELD, __ATOMIC_RELAXED);
		weir__unlock(&mutex->lock);
		if (next) {
			weir__wake_from(self, next->task);
			return;
		}
		if (__atomic_compare_exchange_n(&mutex->state, &held, FREE, false, __ATOMIC_RELEASE,
						__ATOMIC_RELAXED))
			return;
		if (has_leavers)
			weir__relax();
	}
}

/* ---- Conditions --------------------------------------------------------- */

struct cond {
	struct weir__lock lock;
	struct weir__waitq queue;
};
_Static_assert(sizeof(struct cond) <= sizeof(struct weir_cond), "fits the public struct");

static struct cond *cond_of(struct weir_cond *cond)
{
	return (struct cond *)(void *)cond;
}

void weir_cond_init(struct weir_cond *cond)
{
	memset(cond, 0, sizeof *cond);
}

void weir_cond_done(struct weir_cond *cond)
{
	weir__waitq_done(&cond_of(cond)->lock, &cond_of(cond)->queue);
}

/* In the queue before the mutex is given back: no signal falls between. */
int weir_cond_wait(struct weir_cond *public_cond, struct weir_mutex *mutex)
{
	struct weir__worker *self = weir__worker_self();
	struct cond *cond = cond_of(public_cond);
	struct weir__waiter waiter;
	int err = weir__may_wait(self);

	if (err < 0)
		return err;
	weir__waiter_init(&waiter, self->current);
	weir__lock(&cond->lock);
	weir__waitq_add(&cond->lock, &cond->queue, &waiter);
	weir__unlock(&cond->lock);
	weir_mutex_unlock(mutex);
	err = weir__wait(self, &waiter, &about_condition);
	lock_shielded(self, mutex);
	return err;
}

void weir_cond_signal(struct weir_cond *public_cond)
{
	struct weir__worker *self = weir__worker_self();
	struct cond *cond = cond_of(public_cond);

	weir__lock(&cond->lock);
	struct weir__waiter *waiter = weir__waitq_grant(self, &cond->queue, 0);
	weir__unlock(&cond->lock);
	if (waiter)
		weir__wake_from(self, waiter->task);
}

void weir_cond_broadcast(struct weir_cond *public_cond)
{
	struct weir__worker *self = weir__worker_self();
	struct cond *cond = cond_of(public_cond);

	weir__release_all(self, &cond->lock, &cond->queue, 0);
}
