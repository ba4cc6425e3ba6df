/* SPDX-License-Identifier: MIT */
/*
 * barrier.c: waiting until so many have come (barrier), or until all have finished (group).
 */
#include "runtime/wait.h"

#include <string.h>

struct barrier {
	struct weir__lock lock;
	uint32_t parties;
	uint32_t arrived;
	uint32_t round;
	struct weir__waitq queue;
};
_Static_assert(sizeof(struct barrier) <= sizeof(struct weir_barrier), "fits the public struct");

static const struct weir__about about_barrier = { "barrier", NULL };
static const struct weir__about about_group = { "group", NULL };

static struct barrier *barrier_of(struct weir_barrier *barrier)
{
	return (struct barrier *)(void *)barrier;
}

void weir_barrier_init(struct weir_barrier *barrier, unsigned parties)
{
	memset(barrier, 0, sizeof *barrier);
	barrier_of(barrier)->parties = parties;
}

void weir_barrier_done(struct weir_barrier *barrier)
{
	weir__waitq_done(&barrier_of(barrier)->lock, &barrier_of(barrier)->queue);
}

enum { NOT_COME = 1 }; /* the result of who waits, until the round is over or the barrier done */

/*
 * Who leaves while its round goes on has not come. Whose cancellation came between, when the last
 * of the round did, was counted, and says so.
 */
static void leave_barrier(struct weir__waiter *waiter, struct weir__wakes *wakes)
{
	struct barrier *barrier = waiter->object;

	(void)wakes;
	if (waiter->count == barrier->round)
		barrier->arrived--;
	else
		waiter->result = 0; /* it may not have been met there */
}

int weir_barrier_wait(struct weir_barrier *public_barrier)
{
	struct weir__worker *self = weir__worker_self();
	struct barrier *barrier = barrier_of(public_barrier);
	struct weir__release release;
	struct weir__waiter waiter;
	int err = weir__may_wait(self);

	if (err < 0)
		return err;
	weir__lock(&barrier->lock);
	if (barrier->arrived + 1 < barrier->parties) {
		barrier->arrived++;
		weir__waiter_init(&waiter, self->current);
		waiter.left = leave_barrier;
		waiter.object = barrier;
		waiter.count = barrier->round;
		waiter.result = NOT_COME;
		weir__waitq_add(&barrier->lock, &barrier->queue, &waiter);
		weir__unlock(&barrier->lock);
		err = weir__wait(self, &waiter, &about_barrier);
		return waiter.result == 0 ? 0 : err;
	}
	barrier->arrived = 0;
	barrier->round++;
	weir__release_begin(self, &barrier->queue, 0, &release);
	weir__unlock(&barrier->lock);
	weir__release_end(self, &barrier->lock, &release);
	weir__budget_spend(self);
	return 1;
}

/* ---- Groups ------------------------------------------------------------- */

struct group {
	struct weir__lock lock;
	bool is_closed;
	size_t members;
	struct weir__waitq queue; /* empty while there is no member */
};
_Static_assert(sizeof(struct group) <= sizeof(struct weir_group), "fits the public struct");

static struct group *group_of(struct weir_group *group)
{
	return (struct group *)(void *)group;
}

void weir_group_init(struct weir_group *group)
{
	memset(group, 0, sizeof *group);
}

void weir_group_done(struct weir_group *group)
{
	weir__waitq_done(&group_of(group)->lock, &group_of(group)->queue);
}

int weir_group_add(struct weir_group *public_group, size_t members)
{
	struct group *group = group_of(public_group);
	int err = 0;

	weir__lock(&group->lock);
	if (group->is_closed)
		err = -EPIPE;
	else if (__builtin_add_overflow(group->members, members, &members))
		err = -EOVERFLOW;
	else
		group->members = members;
	weir__unlock(&group->lock);
	return err;
}

void weir_group_finish(struct weir_group *public_group)
{
	struct weir__worker *self = weir__worker_self();
	struct group *group = group_of(public_group);
	struct weir__release release;

	weir__lock(&group->lock);
	WEIR_ASSERT(group->members > 0); /* more have finished than were added */
	bool is_last = --group->members == 0;
	if (is_last)
		weir__release_begin(self, &group->queue, 0, &release);
	weir__unlock(&group->lock);
	if (is_last)
		weir__release_end(self, &group->lock, &release);
}

void weir_group_close(struct weir_group *public_group)
{
	struct group *group = group_of(public_group);

	weir__lock(&group->lock);
	group->is_closed = true;
	weir__unlock(&group->lock);
}

static bool enter_group(struct weir__worker *self, struct weir_case *wanted,
			struct weir__waiter *waiter)
{
	struct group *group = wanted->object_;

	(void)self;
	weir__lock(&group->lock);
	bool is_empty = group->members == 0;
	if (is_empty)
		(void)weir__claim_self(waiter);
	else
		weir__waitq_add(&group->lock, &group->queue, waiter);
	weir__unlock(&group->lock);
	return is_empty;
}

static bool poll_group(struct weir__worker *self, struct weir_case *wanted)
{
	struct group *group = wanted->object_;

	(void)self;
	weir__lock(&group->lock);
	bool is_empty = group->members == 0;
	weir__unlock(&group->lock);
	wanted->result = 0;
	return is_empty;
}

static const struct weir__waitable group_source = { .about = &about_group,
						    .poll = poll_group,
						    .enter = enter_group };

int weir_group_wait(struct weir_group *group)
{
	return weir__wait_for(&group_source, group, NULL, 0);
}

struct weir_case weir_case_group(struct weir_group *group)
{
	return (struct weir_case){ .source_ = &group_source, .object_ = group };
}
