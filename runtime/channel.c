/* SPDX-License-Identifier: MIT */
/*
 * channel.c: bounded channels between tasks of any workers.
 *
 * Items are handed over directly when the other side waits; the ring holds items only while nobody
 * waits for one. wait.h keeps a cancelled waiter from swallowing an item. Between workers a wake-up
 * costs more than many items: while it is under way the other side goes on filling or emptying the
 * ring, so a busy channel wakes once in a ringful.
 */
#include "runtime/wait.h"

#include <stdio.h>
#include <string.h>

/* Two cache lines: what every call changes, and what none does. */
struct weir_chan {
	_Alignas(64) struct weir__lock lock; /* first */
	bool is_closed;
	size_t first;
	size_t count;
	struct weir__waitq receivers; /* not empty only while count is 0 */
	struct weir__waitq senders;   /* not empty only while count is capacity */
	_Alignas(64) size_t item_bytes;
	size_t capacity;
	struct weir__waitq drainers; /* not empty only when closed */
	_Alignas(64) char items[];
};

static char *slot(weir_chan *chan, size_t index)
{
	size_t at = chan->first + index;

	return chan->items + (at < chan->capacity ? at : at - chan->capacity) * chan->item_bytes;
}

/* A call for eight bytes would cost as much as the rest of the work. */
static inline void copy(const weir_chan *chan, void *to, const void *from)
{
	if (chan->item_bytes == sizeof(uint64_t))
		memcpy(to, from, sizeof(uint64_t));
	else
		memcpy(to, from, chan->item_bytes);
}

/* ---- Both directions, with the lock held; the waiter to wake afterwards in *ret_wake -------- */

static inline bool can_put(const weir_chan *chan)
{
	return chan->count < chan->capacity || chan->is_closed;
}

static inline int put(struct weir__worker *self, weir_chan *chan, const void *item,
		      struct weir__waiter **ret_wake)
{
	if (!can_put(chan))
		return -EAGAIN;
	if (chan->is_closed)
		return -EPIPE;
	struct weir__waiter *receiver = weir__waitq_grant(self, &chan->receivers, 0);
	copy(chan, receiver ? receiver->item : slot(chan, chan->count++), item);
	*ret_wake = receiver;
	return 0;
}

static inline bool can_get(const weir_chan *chan)
{
	return chan->count > 0 || chan->is_closed;
}

static inline int get(struct weir__worker *self, weir_chan *chan, void *ret,
		      struct weir__waiter **ret_wake)
{
	if (chan->count == 0)
		return chan->is_closed ? -EPIPE : -EAGAIN;
	copy(chan, ret, slot(chan, 0));
	if (++chan->first == chan->capacity)
		chan->first = 0;
	chan->count--;
	struct weir__waiter *sender = weir__waitq_grant(self, &chan->senders, 0);
	if (sender)
		copy(chan, slot(chan, chan->count++), sender->item);
	*ret_wake = sender;
	return 0;
}

/* ---- One item ----------------------------------------------------------- */

static inline void wake(struct weir__worker *self, struct weir__waiter *waiter)
{
	if (waiter)
		weir__wake_from(self, waiter->task);
}

/* After a get: the last item of a closed channel ends the draining. */
static inline void note_empty(struct weir__worker *self, weir_chan *chan, bool is_drained)
{
	if (__builtin_expect(is_drained, 0))
		weir__release_all(self, &chan->lock, &chan->drainers, 0);
}

static inline bool is_drained(const weir_chan *chan)
{
	return chan->is_closed && chan->count == 0 && !weir__waitq_is_empty(&chan->drainers);
}

int weir_chan_try_send(weir_chan *chan, const void *item)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__waiter *waiter = NULL;

	weir__lock(&chan->lock);
	int err = put(self, chan, item, &waiter);
	weir__unlock(&chan->lock);
	wake(self, waiter);
	return err;
}

int weir_chan_try_recv(weir_chan *chan, void *ret)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__waiter *waiter = NULL;

	weir__lock(&chan->lock);
	int err = get(self, chan, ret, &waiter);
	bool drained = is_drained(chan);
	weir__unlock(&chan->lock);
	wake(self, waiter);
	note_empty(self, chan, drained);
	return err;
}

static void describe(const struct weir__waiter *waiter, char *ret, size_t cap)
{
	const weir_chan *chan = (const weir_chan *)(const void *)waiter->lock;

	snprintf(ret, cap, "%zu of %zu in it", chan->count, chan->capacity);
}

static void describe_send(const struct weir__waiter *waiter, char *ret, size_t cap)
{
	int n = snprintf(ret, cap, "to send, ");

	describe(waiter, ret + n, cap - (size_t)n);
}

static void describe_recv(const struct weir__waiter *waiter, char *ret, size_t cap)
{
	int n = snprintf(ret, cap, "to receive, ");

	describe(waiter, ret + n, cap - (size_t)n);
}

static const struct weir__about about_send = { "channel", describe_send };
static const struct weir__about about_recv = { "channel", describe_recv };
static const struct weir__about about_drain = { "channel drain", describe };

/* Called with the lock held, returns without it. */
static int wait_in(struct weir__worker *self, weir_chan *chan, struct weir__waitq *queue,
		   void *item, const struct weir__about *about)
{
	struct weir__waiter waiter;

	weir__waiter_init(&waiter, self->current);
	waiter.item = item;
	weir__waitq_add(&chan->lock, queue, &waiter);
	weir__unlock(&chan->lock);
	return weir__wait(self, &waiter, about);
}

int weir_chan_send(weir_chan *chan, const void *item)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__waiter *waiter = NULL;
	int err = weir__may_wait(self);

	if (err < 0)
		return err;
	weir__lock(&chan->lock);
	err = put(self, chan, item, &waiter);
	if (err == -EAGAIN)
		return wait_in(self, chan, &chan->senders, (void *)item, &about_send);
	weir__unlock(&chan->lock);
	wake(self, waiter);
	weir__budget_spend(self);
	return err;
}

int weir_chan_recv(weir_chan *chan, void *ret)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__waiter *waiter = NULL;
	int err = weir__may_wait(self);

	if (err < 0)
		return err;
	weir__lock(&chan->lock);
	err = get(self, chan, ret, &waiter);
	if (err == -EAGAIN)
		return wait_in(self, chan, &chan->receivers, ret, &about_recv);
	bool drained = is_drained(chan);
	weir__unlock(&chan->lock);
	wake(self, waiter);
	note_empty(self, chan, drained);
	weir__budget_spend(self);
	return err;
}

/* ---- Many items --------------------------------------------------------- */

/* Under one lock as many as go, at most GRANTED_AT_ONCE. */
enum { MOVED_AT_ONCE = 256 };

static size_t put_some(struct weir__worker *self, weir_chan *chan, const char *items, size_t count,
		       int *ret_err)
{
	struct weir__wakes wakes;
	size_t done = 0;

	weir__wakes_init(&wakes);
	weir__lock(&chan->lock);
	for (*ret_err = 0; done < count && done < MOVED_AT_ONCE; done++) {
		struct weir__waiter *waiter = NULL;
		*ret_err = put(self, chan, items + done * chan->item_bytes, &waiter);
		if (*ret_err < 0)
			break;
		if (waiter)
			weir__wakes_add(&wakes, waiter);
	}
	weir__unlock(&chan->lock);
	weir__wakes_send(self, &wakes);
	return done;
}

static size_t get_some(struct weir__worker *self, weir_chan *chan, char *ret, size_t count,
		       int *ret_err)
{
	struct weir__wakes wakes;
	size_t done = 0;

	weir__wakes_init(&wakes);
	weir__lock(&chan->lock);
	for (*ret_err = 0; done < count && done < MOVED_AT_ONCE; done++) {
		struct weir__waiter *waiter = NULL;
		*ret_err = get(self, chan, ret + done * chan->item_bytes, &waiter);
		if (*ret_err < 0)
			break;
		if (waiter)
			weir__wakes_add(&wakes, waiter);
	}
	bool drained = is_drained(chan);
	weir__unlock(&chan->lock);
	weir__wakes_send(self, &wakes);
	note_empty(self, chan, drained);
	return done;
}

ssize_t weir_chan_send_many(weir_chan *chan, const void *items, size_t count)
{
	struct weir__worker *self = weir__worker_self();
	const char *from = items;
	size_t done = 0;
	int err = weir__may_wait(self);

	while (err == 0 && done < count) {
		const char *next = from + done * chan->item_bytes;
		size_t moved = put_some(self, chan, next, count - done, &err);
		done += moved;
		if (err == -EAGAIN) {
			err = weir_chan_send(chan, from + done * chan->item_bytes);
			done += err == 0;
		} else if (err == 0) {
			weir__budget_spend(self);
			err = weir__may_wait(self);
		}
	}
	return done > 0 ? (ssize_t)done : err;
}

ssize_t weir_chan_recv_many(weir_chan *chan, void *ret, size_t count)
{
	struct weir__worker *self = weir__worker_self();
	int err = weir__may_wait(self);

	if (err < 0 || count == 0)
		return err;
	size_t done = get_some(self, chan, ret, count, &err);
	if (done > 0) {
		weir__budget_spend(self);
		return (ssize_t)done;
	}
	err = weir_chan_recv(chan, ret);
	if (err < 0)
		return err;
	/* more may have come while the wake-up was under way */
	return 1 + (ssize_t)get_some(self, chan, (char *)ret + chan->item_bytes, count - 1, &err);
}

/* ---- Life --------------------------------------------------------------- */

weir_chan *weir_chan_new(size_t item_bytes, size_t capacity)
{
	size_t bytes;

	if (capacity == 0)
		capacity = 1;
	if (__builtin_mul_overflow(item_bytes, capacity, &bytes) ||
	    __builtin_add_overflow(bytes, sizeof(weir_chan), &bytes))
		return NULL;
	weir_chan *chan = weir_alloc_aligned(_Alignof(weir_chan), bytes);
	if (!chan)
		return NULL;
	memset(chan, 0, sizeof *chan);
	chan->item_bytes = item_bytes;
	chan->capacity = capacity;
	return chan;
}

void weir_chan_free(weir_chan *chan)
{
	if (!chan)
		return;
	weir__waitq_done(&chan->lock, &chan->receivers);
	weir__waitq_done(&chan->lock, &chan->senders);
	weir__waitq_done(&chan->lock, &chan->drainers);
	weir_free(chan);
}

void weir_chan_close(weir_chan *chan)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__release receivers, senders;

	weir__lock(&chan->lock);
	chan->is_closed = true;
	weir__release_begin(self, &chan->receivers, -EPIPE, &receivers);
	weir__release_begin(self, &chan->senders, -EPIPE, &senders);
	weir__unlock(&chan->lock);
	weir__release_end(self, &chan->lock, &receivers);
	weir__release_end(self, &chan->lock, &senders);
}

int weir_chan_drain(weir_chan *chan)
{
	struct weir__worker *self = weir__worker_self();
	int err = weir__may_wait(self);

	if (err < 0)
		return err;
	weir_chan_close(chan);
	weir__lock(&chan->lock);
	if (chan->count > 0)
		return wait_in(self, chan, &chan->drainers, NULL, &about_drain);
	weir__unlock(&chan->lock);
	return 0;
}

size_t weir_chan_len(weir_chan *chan)
{
	weir__lock(&chan->lock);
	size_t count = chan->count;
	weir__unlock(&chan->lock);
	return count;
}

/* ---- Select ------------------------------------------------------------- */

static bool poll_send(struct weir__worker *self, struct weir_case *wanted)
{
	(void)self;
	wanted->result = weir_chan_try_send(wanted->object_, wanted->item_);
	return wanted->result != -EAGAIN;
}

static bool poll_recv(struct weir__worker *self, struct weir_case *wanted)
{
	(void)self;
	wanted->result = weir_chan_try_recv(wanted->object_, wanted->item_);
	return wanted->result != -EAGAIN;
}

static bool enter_send(struct weir__worker *self, struct weir_case *wanted,
		       struct weir__waiter *waiter)
{
	weir_chan *chan = wanted->object_;
	struct weir__waiter *woken = NULL;

	waiter->item = wanted->item_;
	weir__lock(&chan->lock);
	bool can = can_put(chan);
	if (!can)
		weir__waitq_add(&chan->lock, &chan->senders, waiter);
	else if (weir__claim_self(waiter))
		wanted->result = put(self, chan, wanted->item_, &woken);
	weir__unlock(&chan->lock);
	wake(self, woken);
	return can;
}

static bool enter_recv(struct weir__worker *self, struct weir_case *wanted,
		       struct weir__waiter *waiter)
{
	weir_chan *chan = wanted->object_;
	struct weir__waiter *woken = NULL;
	bool drained = false;

	waiter->item = wanted->item_;
	weir__lock(&chan->lock);
	bool can = can_get(chan);
	if (!can) {
		weir__waitq_add(&chan->lock, &chan->receivers, waiter);
	} else if (weir__claim_self(waiter)) {
		wanted->result = get(self, chan, wanted->item_, &woken);
		drained = is_drained(chan);
	}
	weir__unlock(&chan->lock);
	wake(self, woken);
	note_empty(self, chan, drained);
	return can;
}

static const struct weir__waitable send_source = { .poll = poll_send, .enter = enter_send };
static const struct weir__waitable recv_source = { .poll = poll_recv, .enter = enter_recv };

struct weir_case weir_case_send(weir_chan *chan, const void *item)
{
	return (struct weir_case){ .source_ = &send_source,
				   .object_ = chan,
				   .item_ = (void *)item };
}

struct weir_case weir_case_recv(weir_chan *chan, void *ret)
{
	return (struct weir_case){ .source_ = &recv_source, .object_ = chan, .item_ = ret };
}
