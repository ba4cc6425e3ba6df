/* SPDX-License-Identifier: MIT */
/*
 * join.c: the result of one task, for whoever asks for it.
 *
 * A task that is joined runs inside join_main(), which reports; so the other tasks pay nothing. One
 * that could not get a stack never runs, and task.c reports in its place.
 */
#include "runtime/join.h"

#include <string.h>

#include "runtime/extra.h"

enum { UNUSED, RUNNING, ENDED };

struct join {
	_Atomic uint8_t state; /* written under the lock */
	struct weir__lock lock;
	int result; /* once ENDED */
	weir_fn fn;
	void *arg;
	struct weir__waitq queue;
};
_Static_assert(sizeof(struct join) <= sizeof(struct weir_join), "fits the public struct");

static const struct weir__about about_join = { "join", NULL };

static struct join *of(struct weir_join *join)
{
	return (struct join *)(void *)join;
}

int weir__join_spawn(struct weir__scope *scope, struct weir__spawn *spawn,
		     struct weir_join *public_join)
{
	struct join *join = of(public_join);

	memset(public_join, 0, sizeof *public_join);
	join->fn = spawn->fn;
	join->arg = spawn->arg;
	atomic_init(&join->state, RUNNING);
	spawn->fn = weir__join_main;
	spawn->arg = public_join;
	int err = weir__spawn(scope, spawn);
	if (err < 0)
		atomic_init(&join->state, UNUSED);
	return err;
}

/* Under the lock, since the join may be gone when the task that waits runs. */
static void serve(struct weir__waiter *waiter)
{
	waiter->count = (size_t)((struct join *)waiter->object)->result;
}

void weir__join_end(struct weir_join *public_join, int result)
{
	struct weir__worker *self = weir__worker_self();
	struct join *join = of(public_join);
	struct weir__release release;

	weir__lock(&join->lock);
	join->result = result;
	atomic_store_explicit(&join->state, ENDED, memory_order_release);
	weir__release_with(self, &join->queue, 0, serve, &release);
	weir__unlock(&join->lock);
	weir__release_end(self, &join->lock, &release);
}

int weir__join_main(void *arg)
{
	const struct join *join = arg;
	int result = join->fn(join->arg);

	weir__extra_end(weir__worker_self());
	weir__join_end(arg, result);
	return 0;
}

weir_fn weir__join_fn(const struct weir_join *join)
{
	return ((const struct join *)(const void *)join)->fn;
}

static bool has_ended(struct join *join)
{
	if (atomic_load_explicit(&join->state, memory_order_acquire) != ENDED)
		return false;
	weir__lock_settle(&join->lock);
	return true;
}

/* True: it has ended, and the claim is taken; else the waiter is in the queue. */
static bool enter(struct join *join, struct weir__waiter *waiter)
{
	weir__lock(&join->lock);
	bool ended = atomic_load_explicit(&join->state, memory_order_relaxed) == ENDED;
	waiter->object = join;
	if (!ended)
		weir__waitq_add(&join->lock, &join->queue, waiter);
	else if (weir__claim_self(waiter))
		serve(waiter);
	weir__unlock(&join->lock);
	return ended;
}

int weir_join_wait(struct weir_join *public_join, int *ret)
{
	struct weir__worker *self = weir__worker_self();
	struct join *join = of(public_join);
	struct weir__waiter waiter;
	int err = weir__may_wait(self);

	if (err < 0)
		return err;
	if (atomic_load_explicit(&join->state, memory_order_relaxed) == UNUSED)
		return -EINVAL;
	weir__waiter_init(&waiter, self->current);
	if (!enter(join, &waiter))
		err = weir__wait(self, &waiter, &about_join);
	else
		weir__budget_spend(self);
	if (err == 0)
		*ret = (int)waiter.count;
	return err;
}

bool weir_join_has_ended(const struct weir_join *join)
{
	return atomic_load_explicit(&((const struct join *)(const void *)join)->state,
				    memory_order_acquire) == ENDED;
}

/* ---- Select ------------------------------------------------------------- */

static bool poll_case(struct weir__worker *self, struct weir_case *wanted)
{
	struct join *join = wanted->object_;

	(void)self;
	bool ended = has_ended(join);
	wanted->result = ended ? join->result : 0;
	return ended;
}

static bool enter_case(struct weir__worker *self, struct weir_case *wanted,
		       struct weir__waiter *waiter)
{
	(void)self;
	if (!enter(wanted->object_, waiter))
		return false;
	wanted->result = (int)waiter->count;
	return true;
}

static void granted(struct weir_case *wanted, struct weir__waiter *waiter)
{
	wanted->result = (int)waiter->count;
}

static const struct weir__waitable source = { .poll = poll_case,
					      .enter = enter_case,
					      .granted = granted };

struct weir_case weir_case_join(struct weir_join *join)
{
	return (struct weir_case){ .source_ = &source, .object_ = join };
}
