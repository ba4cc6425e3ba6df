/* SPDX-License-Identifier: MIT */
/*
 * semaphore.c: a number of units, taken and given back.
 *
 * The units lie in one word with a bit that says that somebody waits. Without the bit, taking and
 * giving are one compare-and-swap each. With it the word changes only under the lock, and what is
 * given goes to the head of the queue, which may be saving up for many.
 */
#include "runtime/wait.h"

#include <string.h>

enum { AWAITED = 1, UNIT = 2 };
#define UNITS_MAX (SIZE_MAX / 4)

struct sem {
	_Atomic size_t state; /* changes only under the lock while AWAITED is set */
	struct weir__lock lock;
	struct weir__waitq queue;
};
_Static_assert(sizeof(struct sem) <= sizeof(struct weir_sem), "fits the public struct");

static const struct weir__about about_semaphore = { "semaphore", NULL };

static struct sem *of(struct weir_sem *sem)
{
	return (struct sem *)(void *)sem;
}

void weir_sem_init(struct weir_sem *sem, size_t units)
{
	memset(sem, 0, sizeof *sem);
	atomic_init(&of(sem)->state, (units < UNITS_MAX ? units : UNITS_MAX) * UNIT);
}

void weir_sem_done(struct weir_sem *sem)
{
	weir__waitq_done(&of(sem)->lock, &of(sem)->queue);
}

size_t weir_sem_units(const struct weir_sem *sem)
{
	const struct sem *inner = (const struct sem *)(const void *)sem;

	return atomic_load_explicit(&inner->state, memory_order_relaxed) / UNIT;
}

static bool try_take(struct sem *sem, size_t units)
{
	size_t state = atomic_load_explicit(&sem->state, memory_order_relaxed);

	while (!(state & AWAITED) && state / UNIT >= units) {
		if (atomic_compare_exchange_weak_explicit(&sem->state, &state, state - units * UNIT,
							  memory_order_acquire,
							  memory_order_relaxed)) {
			weir__lock_settle(&sem->lock);
			return true;
		}
	}
	return false;
}

/* Serves the head of the queue while the units last. Under the lock, with AWAITED set. */
static void serve(struct weir__worker *self, struct sem *sem, struct weir__wakes *wakes)
{
	size_t state = atomic_load_explicit(&sem->state, memory_order_relaxed);
	struct weir__waiter *waiter;

	while ((waiter = weir__waitq_head(&sem->queue)) != NULL && state / UNIT >= waiter->count) {
		if (weir__claim(self, waiter)) {
			state -= waiter->count * UNIT;
			weir__waiter_take(waiter, 0);
			weir__wakes_add(wakes, waiter);
		} else if (!weir__waiter_drop(waiter, 0)) {
			break; /* comes here itself when it has left */
		}
	}
	if (!waiter)
		state &= ~(size_t)AWAITED;
	/* release: for who takes next without the lock */
	atomic_store_explicit(&sem->state, state, memory_order_release);
}

static void left(struct weir__waiter *waiter, struct weir__wakes *wakes)
{
	serve(weir__worker_self(), waiter->object, wakes);
}

static bool enter_case(struct weir__worker *self, struct weir_case *wanted,
		       struct weir__waiter *waiter)
{
	struct sem *sem = wanted->object_;
	size_t units = (size_t)wanted->count_;

	(void)self;
	weir__lock(&sem->lock);
	size_t state = atomic_fetch_or_explicit(&sem->state, AWAITED, memory_order_acquire);
	if (weir__waitq_is_empty(&sem->queue) && state / UNIT >= units) {
		bool is_ours = weir__claim_self(waiter);
		if (is_ours)
			state -= units * UNIT;
		atomic_store_explicit(&sem->state, state & ~(size_t)AWAITED, memory_order_release);
		weir__unlock(&sem->lock);
		return true;
	}
	waiter->left = left;
	waiter->object = sem;
	waiter->count = units;
	weir__waitq_add(&sem->lock, &sem->queue, waiter);
	weir__unlock(&sem->lock);
	return false;
}

int weir_sem_wait(struct weir_sem *sem)
{
	return weir_sem_wait_for(sem, 1);
}

int weir_sem_try_wait(struct weir_sem *sem, size_t units)
{
	return try_take(of(sem), units) ? 0 : -EAGAIN;
}

static int post_slow(struct sem *sem, size_t units)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__wakes wakes;

	weir__wakes_init(&wakes);
	weir__lock(&sem->lock);
	size_t state = atomic_fetch_or_explicit(&sem->state, AWAITED, memory_order_acq_rel);
	bool has_room = state / UNIT + units <= UNITS_MAX;
	if (has_room)
		atomic_fetch_add_explicit(&sem->state, units * UNIT, memory_order_release);
	serve(self, sem, &wakes);
	weir__unlock(&sem->lock);
	weir__wakes_send(self, &wakes);
	return has_room ? 0 : -EOVERFLOW;
}

int weir_sem_post_many(struct weir_sem *public_sem, size_t units)
{
	struct sem *sem = of(public_sem);
	size_t state = atomic_load_explicit(&sem->state, memory_order_relaxed);

	if (units > UNITS_MAX)
		return -EOVERFLOW;
	while (!(state & AWAITED)) {
		if (state / UNIT + units > UNITS_MAX)
			return -EOVERFLOW;
		if (atomic_compare_exchange_weak_explicit(&sem->state, &state, state + units * UNIT,
							  memory_order_release,
							  memory_order_relaxed))
			return 0;
	}
	return post_slow(sem, units);
}

int weir_sem_post(struct weir_sem *sem)
{
	return weir_sem_post_many(sem, 1);
}

/* ---- Waiting, alone or in a select ---------------------------------------- */

static bool poll_case(struct weir__worker *self, struct weir_case *wanted)
{
	(void)self;
	wanted->result = 0;
	return try_take(wanted->object_, (size_t)wanted->count_);
}

static const struct weir__waitable source = { .about = &about_semaphore,
					      .poll = poll_case,
					      .enter = enter_case };

int weir_sem_wait_for(struct weir_sem *sem, size_t units)
{
	struct weir__worker *self = weir__worker_self();
	int err = weir__may_wait(self);

	if (err < 0)
		return err;
	if (!try_take(of(sem), units))
		return weir__wait_for(&source, sem, NULL, (int64_t)units);
	weir__budget_spend(self);
	return 0;
}

struct weir_case weir_case_sem(struct weir_sem *sem, size_t units)
{
	return (struct weir_case){ .source_ = &source, .object_ = sem, .count_ = (int64_t)units };
}
