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

/* ---- Waiting: count_ is the address of the version ----------------------------- */

static uint64_t *version_of(const struct weir_case *wanted)
{
	return (uint64_t *)(uintptr_t)wanted->count_;
}

static bool poll_case(struct weir__worker *self, struct weir_case *wanted)
{
	weir_watch *watch = wanted->object_;

	(void)self;
	weir__lock(&watch->lock);
	wanted->result = take(watch, version_of(wanted), wanted->item_);
	weir__unlock(&watch->lock);
	return wanted->result != -EAGAIN;
}

static bool enter_case(struct weir__worker *self, struct weir_case *wanted,
		       struct weir__waiter *waiter)
{
	weir_watch *watch = wanted->object_;
	uint64_t *version = version_of(wanted);

	(void)self;
	weir__lock(&watch->lock);
	bool has_changed = watch->version != *version || watch->is_closed;
	if (!has_changed) {
		waiter->object = watch;
		waiter->item = wanted->item_;
		waiter->count = (uintptr_t)version;
		weir__waitq_add(&watch->lock, &watch->queue, waiter);
	} else if (weir__claim_self(waiter)) {
		wanted->result = take(watch, version, wanted->item_);
	}
	weir__unlock(&watch->lock);
	return has_changed;
}

static const struct weir__waitable source = { .about = &about,
					      .poll = poll_case,
					      .enter = enter_case };

int weir_watch_wait(weir_watch *watch, uint64_t *version, void *ret)
{
	return weir__wait_for(&source, watch, ret, (int64_t)(uintptr_t)version);
}

struct weir_case weir_case_watch(weir_watch *watch, uint64_t *version, void *ret)
{
	return (struct weir_case){ .source_ = &source,
				   .object_ = watch,
				   .item_ = ret,
				   .count_ = (int64_t)(uintptr_t)version };
}
