/* SPDX-License-Identifier: MIT */
/*
 * latest.c: one value that changes, for who wants the latest and not every one (weir_watch).
 */
#include "runtime/wait.h"

#include <string.h>

struct weir_watch {
	struct weir__lock lock;
	bool is_closed;
	size_t item_bytes;
	uint64_t version;	  /* from 1 */
	struct weir__waitq queue; /* of those who have seen this version */
	_Alignas(16) char item[];
};

static const struct weir__about about = { "watch", NULL };

weir_watch *weir_watch_new(size_t item_bytes, const void *item)
{
	size_t bytes;

	if (__builtin_add_overflow(item_bytes, sizeof(weir_watch), &bytes))
		return NULL;
	weir_watch *watch = weir_alloc(bytes);
	if (!watch)
		return NULL;
	memset(watch, 0, sizeof *watch);
	watch->item_bytes = item_bytes;
	watch->version = 1;
	memcpy(watch->item, item, item_bytes);
	return watch;
}

void weir_watch_free(weir_watch *watch)
{
	if (!watch)
		return;
	weir__waitq_done(&watch->lock, &watch->queue);
	weir_free(watch);
}

/* Under the lock. -EAGAIN: *version is the latest. */
static int take(const weir_watch *watch, uint64_t *version, void *ret)
{
	if (watch->version == *version)
		return watch->is_closed ? -EPIPE : -EAGAIN;
	memcpy(ret, watch->item, watch->item_bytes);
	*version = watch->version;
	return 0;
}

/* For who waits: under the lock, since the watch may be gone when its task runs. */
static void serve(struct weir__waiter *waiter)
{
	waiter->result = take(waiter->object, (uint64_t *)(uintptr_t)waiter->count, waiter->item);
}

void weir_watch_set(weir_watch *watch, const void *item)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__release release;

	weir__lock(&watch->lock);
	memcpy(watch->item, item, watch->item_bytes);
	watch->version++;
	weir__release_with(self, &watch->queue, 0, serve, &release);
	weir__unlock(&watch->lock);
	weir__release_end(self, &watch->lock, &release);
}

void weir_watch_close(weir_watch *watch)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__release release;

	weir__lock(&watch->lock);
	watch->is_closed = true;
	weir__release_begin(self, &watch->queue, -EPIPE, &release);
	weir__unlock(&watch->lock);
	weir__release_end(self, &watch->lock, &release);
}

uint64_t weir_watch_get(weir_watch *watch, void *ret)
{
	weir__lock(&watch->lock);
	uint64_t version = watch->version;
	memcpy(ret, watch->item, watch->item_bytes);
	weir__unlock(&watch->lock);
	return version;
}

static int try_take(weir_watch *watch, uint64_t *version, void *ret)
{
	weir__lock(&watch->lock);
	int err = take(watch, version, ret);
	weir__unlock(&watch->lock);
	return err;
}

/* -EAGAIN: the waiter is in the queue. A claim that is taken: 0, and nothing is taken. */
static int enter(weir_watch *watch, struct weir__waiter *waiter, uint64_t *version, void *ret)
{
	int err = -EAGAIN;

	weir__lock(&watch->lock);
	if (watch->version == *version && !watch->is_closed) {
		waiter->object = watch;
		waiter->item = ret;
		waiter->count = (uintptr_t)version;
		weir__waitq_add(&watch->lock, &watch->queue, waiter);
	} else {
		err = weir__claim_self(waiter) ? take(watch, version, ret) : 0;
	}
	weir__unlock(&watch->lock);
	return err;
}

int weir_watch_wait(weir_watch *watch, uint64_t *version, void *ret)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__waiter waiter;
	int err = weir__may_wait(self);

	if (err < 0)
		return err;
	weir__waiter_init(&waiter, self->current);
	err = enter(watch, &waiter, version, ret);
	if (err == -EAGAIN)
		return weir__wait(self, &waiter, &about);
	weir__budget_spend(self);
	return err;
}

/* ---- Select: count_ is the address of the version --------------------------- */

static uint64_t *version_of(const struct weir_case *wanted)
{
	return (uint64_t *)(uintptr_t)wanted->count_;
}

static bool poll_case(struct weir__worker *self, struct weir_case *wanted)
{
	(void)self;
	wanted->result = try_take(wanted->object_, version_of(wanted), wanted->item_);
	return wanted->result != -EAGAIN;
}

static bool enter_case(struct weir__worker *self, struct weir_case *wanted,
		       struct weir__waiter *waiter)
{
	(void)self;
	wanted->result = enter(wanted->object_, waiter, version_of(wanted), wanted->item_);
	return wanted->result != -EAGAIN;
}

static const struct weir__waitable source = { .poll = poll_case, .enter = enter_case };

struct weir_case weir_case_watch(weir_watch *watch, uint64_t *version, void *ret)
{
	return (struct weir_case){ .source_ = &source,
				   .object_ = watch,
				   .item_ = ret,
				   .count_ = (int64_t)(uintptr_t)version };
}
