/* SPDX-License-Identifier: MIT */
/*
 * event.c: something has happened: for all who wait (event), or for one (notify).
 */
#include "runtime/wait.h"

#include <string.h>

struct event {
	_Atomic uint8_t is_set; /* written under the lock */
	struct weir__lock lock;
	struct weir__waitq queue; /* empty while it is set, but for who is being woken */
};
_Static_assert(sizeof(struct event) <= sizeof(struct weir_event), "fits the public struct");

static const struct weir__about about_event = { "event", NULL };
static const struct weir__about about_notify = { "notify", NULL };

static struct event *of(struct weir_event *event)
{
	return (struct event *)(void *)event;
}

void weir_event_init(struct weir_event *event)
{
	memset(event, 0, sizeof *event);
}

void weir_event_done(struct weir_event *event)
{
	weir__waitq_done(&of(event)->lock, &of(event)->queue);
}

bool weir_event_is_set(const struct weir_event *event)
{
	const struct event *inner = (const struct event *)(const void *)event;

	/* acquire: pairs with the release in weir_event_set() */
	return atomic_load_explicit(&inner->is_set, memory_order_acquire);
}

/* Who waits now is woken even if it is reset meanwhile; who comes after the reset is not. */
void weir_event_set(struct weir_event *public_event)
{
	struct weir__worker *self = weir__worker_self();
	struct event *event = of(public_event);
	struct weir__release release;

	weir__lock(&event->lock);
	atomic_store_explicit(&event->is_set, 1, memory_order_release);
	weir__release_begin(self, &event->queue, 0, &release);
	weir__unlock(&event->lock);
	weir__release_end(self, &event->lock, &release);
}

void weir_event_reset(struct weir_event *public_event)
{
	struct event *event = of(public_event);

	weir__lock(&event->lock);
	atomic_store_explicit(&event->is_set, 0, memory_order_relaxed);
	weir__unlock(&event->lock);
}

static bool is_set(struct event *event)
{
	if (!atomic_load_explicit(&event->is_set, memory_order_acquire))
		return false;
	weir__lock_settle(&event->lock);
	return true;
}

static bool enter_event(struct weir__worker *self, struct weir_case *wanted,
			struct weir__waiter *waiter)
{
	struct event *event = wanted->object_;

	(void)self;
	weir__lock(&event->lock);
	bool set = atomic_load_explicit(&event->is_set, memory_order_relaxed);
	if (set)
		(void)weir__claim_self(waiter);
	else
		weir__waitq_add(&event->lock, &event->queue, waiter);
	weir__unlock(&event->lock);
	return set;
}

static bool poll_event(struct weir__worker *self, struct weir_case *wanted)
{
	(void)self;
	wanted->result = 0;
	return is_set(wanted->object_);
}

static const struct weir__waitable event_source = { .about = &about_event,
						    .poll = poll_event,
						    .enter = enter_event };

int weir_event_wait(struct weir_event *event)
{
	struct weir__worker *self = weir__worker_self();
	int err = weir__may_wait(self);

	if (err < 0)
		return err;
	if (!is_set(of(event)))
		return weir__wait_for(&event_source, event, NULL, 0);
	weir__budget_spend(self);
	return 0;
}

struct weir_case weir_case_event(struct weir_event *event)
{
	return (struct weir_case){ .source_ = &event_source, .object_ = event };
}

/* ---- Notify ------------------------------------------------------------- */

struct notify {
	struct weir__lock lock;
	bool is_kept;
	struct weir__waitq queue; /* empty while one is kept */
};
_Static_assert(sizeof(struct notify) <= sizeof(struct weir_notify), "fits the public struct");

static struct notify *notify_of(struct weir_notify *notify)
{
	return (struct notify *)(void *)notify;
}

void weir_notify_init(struct weir_notify *notify)
{
	memset(notify, 0, sizeof *notify);
}

void weir_notify_done(struct weir_notify *notify)
{
	weir__waitq_done(&notify_of(notify)->lock, &notify_of(notify)->queue);
}

void weir_notify_one(struct weir_notify *public_notify)
{
	struct weir__worker *self = weir__worker_self();
	struct notify *notify = notify_of(public_notify);

	weir__lock(&notify->lock);
	struct weir__waiter *waiter = weir__waitq_grant(self, &notify->queue, 0);
	if (!waiter)
		notify->is_kept = true;
	weir__unlock(&notify->lock);
	if (waiter)
		weir__wake_from(self, waiter->task);
}

void weir_notify_all(struct weir_notify *public_notify)
{
	struct notify *notify = notify_of(public_notify);

	weir__release_all(weir__worker_self(), &notify->lock, &notify->queue, 0);
}

static bool enter_notify(struct weir__worker *self, struct weir_case *wanted,
			 struct weir__waiter *waiter)
{
	struct notify *notify = wanted->object_;

	(void)self;
	weir__lock(&notify->lock);
	bool is_kept = notify->is_kept;
	if (is_kept)
		notify->is_kept = !weir__claim_self(waiter);
	else
		weir__waitq_add(&notify->lock, &notify->queue, waiter);
	weir__unlock(&notify->lock);
	return is_kept;
}

static bool poll_notify(struct weir__worker *self, struct weir_case *wanted)
{
	struct notify *notify = wanted->object_;

	(void)self;
	weir__lock(&notify->lock);
	bool is_kept = notify->is_kept;
	notify->is_kept = false;
	weir__unlock(&notify->lock);
	wanted->result = 0;
	return is_kept;
}

static const struct weir__waitable notify_source = { .about = &about_notify,
						     .poll = poll_notify,
						     .enter = enter_notify };

int weir_notify_wait(struct weir_notify *notify)
{
	return weir__wait_for(&notify_source, notify, NULL, 0);
}

struct weir_case weir_case_notify(struct weir_notify *notify)
{
	return (struct weir_case){ .source_ = &notify_source, .object_ = notify };
}
