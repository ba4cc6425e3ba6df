/* SPDX-License-Identifier: MIT */
/*
 * rwlock.c: many readers or one writer.
 *
 * One queue for both, first come first served: a reader that finds anybody waiting queues behind,
 * so neither side starves the other. Readers that stand in a row are let in together. While nobody
 * waits, every call is one compare-and-swap; AWAITED in the state sends all to the lock.
 */
#include "runtime/wait.h"

#include <string.h>

enum { WRITTEN = 1, AWAITED = 2, READER = 4 };

struct rwlock {
	_Atomic uint32_t state; /* changes only under the lock while AWAITED is set */
	struct weir__lock lock;
	struct weir__waitq queue;
};
_Static_assert(sizeof(struct rwlock) <= sizeof(struct weir_rwlock), "fits the public struct");

static const struct weir__about about_rwlock = { "rwlock", NULL };

static struct rwlock *of(struct weir_rwlock *lock)
{
	return (struct rwlock *)(void *)lock;
}

void weir_rwlock_init(struct weir_rwlock *lock)
{
	memset(lock, 0, sizeof *lock);
}

void weir_rwlock_done(struct weir_rwlock *lock)
{
	weir__waitq_done(&of(lock)->lock, &of(lock)->queue);
}

/* `add` is READER or WRITTEN. */
static bool admits(uint32_t state, uint32_t add)
{
	return add == READER ? !(state & WRITTEN) : state < READER && !(state & WRITTEN);
}

static bool try_enter(struct rwlock *lock, uint32_t add)
{
	uint32_t state = atomic_load_explicit(&lock->state, memory_order_relaxed);

	while (!(state & AWAITED) && admits(state, add)) {
		if (atomic_compare_exchange_weak_explicit(&lock->state, &state, state + add,
							  memory_order_acquire,
							  memory_order_relaxed)) {
			weir__lock_settle(&lock->lock);
			return true;
		}
	}
	return false;
}

/* Lets in from the head of the queue whoever fits. Under the lock, with AWAITED set. */
static void admit(struct weir__worker *self, struct rwlock *lock, struct weir__wakes *wakes)
{
	uint32_t state = atomic_load_explicit(&lock->state, memory_order_relaxed);
	struct weir__waiter *waiter;

	while ((waiter = weir__waitq_head(&lock->queue)) != NULL) {
		uint32_t add = (uint32_t)waiter->count;
		if (!admits(state, add))
			break;
		if (weir__claim(self, waiter)) {
			weir__waiter_take(waiter, 0);
			weir__wakes_add(wakes, waiter);
			state += add;
		} else if (!weir__waiter_drop(waiter, 0)) {
			break; /* comes here itself when it has left */
		}
	}
	if (!waiter)
		state &= ~(uint32_t)AWAITED;
	/* release: what was written is seen by who enters next without the lock */
	atomic_store_explicit(&lock->state, state, memory_order_release);
}

static void left(struct weir__waiter *waiter, struct weir__wakes *wakes)
{
	admit(weir__worker_self(), waiter->object, wakes);
}

static int enter_slow(struct weir__worker *self, struct rwlock *lock, uint32_t add)
{
	struct weir__waiter waiter;
	int err = weir__may_wait(self);

	if (err < 0)
		return err;
	weir__lock(&lock->lock);
	uint32_t state = atomic_fetch_or_explicit(&lock->state, AWAITED, memory_order_acquire);
	if (weir__waitq_is_empty(&lock->queue) && admits(state, add)) {
		/* release: who enters next without the lock has to see what we see */
		atomic_store_explicit(&lock->state, (state & ~(uint32_t)AWAITED) + add,
				      memory_order_release);
		weir__unlock(&lock->lock);
		return 0;
	}
	weir__waiter_init(&waiter, self->current);
	waiter.left = left;
	waiter.object = lock;
	waiter.count = add;
	weir__waitq_add(&lock->lock, &lock->queue, &waiter);
	weir__unlock(&lock->lock);
	return weir__wait(self, &waiter, &about_rwlock);
}

static int enter(struct rwlock *lock, uint32_t add)
{
	return try_enter(lock, add) ? 0 : enter_slow(weir__worker_self(), lock, add);
}

int weir_rwlock_read(struct weir_rwlock *lock)
{
	return enter(of(lock), READER);
}

int weir_rwlock_write(struct weir_rwlock *lock)
{
	return enter(of(lock), WRITTEN);
}

int weir_rwlock_try_read(struct weir_rwlock *lock)
{
	return try_enter(of(lock), READER) ? 0 : -EBUSY;
}

int weir_rwlock_try_write(struct weir_rwlock *lock)
{
	return try_enter(of(lock), WRITTEN) ? 0 : -EBUSY;
}

static void leave_slow(struct rwlock *lock, uint32_t sub)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__wakes wakes;

	weir__wakes_init(&wakes);
	weir__lock(&lock->lock);
	/* AWAITED may have gone since, and then this competes with those who come without the lock
	 */
	uint32_t state = atomic_fetch_sub_explicit(&lock->state, sub, memory_order_acq_rel);
	if (state & AWAITED)
		admit(self, lock, &wakes);
	weir__unlock(&lock->lock);
	weir__wakes_send(self, &wakes);
}

void weir_rwlock_unlock(struct weir_rwlock *public_lock)
{
	struct rwlock *lock = of(public_lock);
	uint32_t state = atomic_load_explicit(&lock->state, memory_order_relaxed);
	uint32_t sub = state & WRITTEN ? WRITTEN : READER;

	WEIR_ASSERT(state & WRITTEN || state >= READER); /* else an unlock without a lock */
	while (!(state & AWAITED))
		if (atomic_compare_exchange_weak_explicit(&lock->state, &state, state - sub,
							  memory_order_release,
							  memory_order_relaxed))
			return;
	leave_slow(lock, sub);
}
