/* SPDX-License-Identifier: MIT */
/*
 * once.c: something that is done by the first who comes, while the others wait.
 */
#include "runtime/wait.h"

enum { NEW, RUNNING, OVER };
enum { IS_OVER, YOUR_TURN }; /* what a waiter is granted */

struct once {
	_Atomic uint8_t state; /* written under the lock */
	struct weir__lock lock;
	struct weir__waitq queue;
};
_Static_assert(sizeof(struct once) <= sizeof(struct weir_once), "fits the public struct");

static const struct weir__about about = { "once", NULL };

static struct once *of(struct weir_once *once)
{
	return (struct once *)(void *)once;
}

/* IS_OVER, YOUR_TURN, or the error of waiting for one of them. */
static int await_turn(struct weir__worker *self, struct once *once)
{
	struct weir__waiter waiter;

	weir__lock(&once->lock);
	uint8_t state = atomic_load_explicit(&once->state, memory_order_relaxed);
	if (state == RUNNING) {
		weir__waiter_init(&waiter, self->current);
		weir__waitq_add(&once->lock, &once->queue, &waiter);
	} else if (state == NEW) {
		atomic_store_explicit(&once->state, RUNNING, memory_order_relaxed);
	}
	weir__unlock(&once->lock);
	if (state == RUNNING)
		return weir__wait(self, &waiter, &about);
	return state == NEW ? YOUR_TURN : IS_OVER;
}

static void succeed(struct weir__worker *self, struct once *once)
{
	struct weir__release release;

	weir__lock(&once->lock);
	/* release: what fn has done is seen by who finds OVER */
	atomic_store_explicit(&once->state, OVER, memory_order_release);
	weir__release_begin(self, &once->queue, IS_OVER, &release);
	weir__unlock(&once->lock);
	weir__release_end(self, &once->lock, &release);
}

static void pass_on(struct weir__worker *self, struct once *once)
{
	weir__lock(&once->lock);
	struct weir__waiter *next = weir__waitq_grant(self, &once->queue, YOUR_TURN);
	if (!next)
		atomic_store_explicit(&once->state, NEW, memory_order_relaxed);
	weir__unlock(&once->lock);
	if (next)
		weir__wake_from(self, next->task);
}

int weir_once(struct weir_once *public_once, weir_fn fn, void *arg)
{
	struct weir__worker *self = weir__worker_self();
	struct once *once = of(public_once);

	if (atomic_load_explicit(&once->state, memory_order_acquire) == OVER) {
		weir__lock_settle(&once->lock);
		return 0;
	}
	int turn = fn ? weir__may_wait(self) : -EINVAL;
	if (turn < 0)
		return turn;
	turn = await_turn(self, once);
	if (turn != YOUR_TURN)
		return turn;
	int err = fn(arg);
	if (err < 0)
		pass_on(self, once);
	else
		succeed(self, once);
	return err < 0 ? err : 0;
}
