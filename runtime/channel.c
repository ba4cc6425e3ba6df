/* SPDX-License-Identifier: MIT */
/*
 * channel.c: bounded channels between tasks of any workers.
 *
 * Items are handed over directly when the other side waits; they are stored (room.h) only while
 * nobody waits for one. wait.h keeps a cancelled waiter from swallowing an item. Between workers a
 * wake-up costs more than many items: while it is under way the other side goes on filling or
 * emptying the channel, so a busy one wakes once in a channelful.
 */
#include "runtime/room.h"

#include <inttypes.h>
#include <stdio.h>

/* ---- Both directions, with the lock held; the waiter to wake afterwards in *ret_wake -------- */

static inline bool can_put(const weir_chan *chan)
{
	return chan->count < chan->capacity || chan->is_closed;
}

/* -ENOMEM: no block has a place for it. */
static inline __attribute__((always_inline)) int
put(struct weir__worker *self, weir_chan *chan, const void *item, struct weir__waiter **ret_wake)
{
	if (!can_put(chan))
		return -EAGAIN;
	if (chan->is_closed)
		return -EPIPE;
	struct weir__waiter *receiver = weir__waitq_grant(self, &chan->receivers, 0);
	if (!receiver)
		return weir__room_put(chan, item) ? 0 : -ENOMEM;
	weir__room_copy(chan, receiver->item, item);
	*ret_wake = receiver;
	return 0;
}

/* After a put that failed: makes the room that it lacks, and for who will wait the reserve. */
static int put_with_room(struct weir__worker *self, weir_chan *chan, const void *item, int err,
			 bool will_wait, struct weir__waiter **ret_wake)
{
	while (err == -ENOMEM || (err == -EAGAIN && will_wait && !weir__room_is_there(chan))) {
		if (weir__room_make(chan) < 0)
			return -ENOMEM;
		err = put(self, chan, item, ret_wake);
	}
	return err;
}

static inline bool can_get(const weir_chan *chan)
{
	return chan->count > 0 || chan->is_closed;
}

/* The blocks to free after the unlock are added to *surplus. */
static inline __attribute__((always_inline)) int get(struct weir__worker *self, weir_chan *chan,
						     void *ret, struct weir__waiter **ret_wake,
						     struct weir__room_block **surplus)
{
	if (chan->count == 0)
		return chan->is_closed ? -EPIPE : -EAGAIN;
	weir__room_get(chan, ret, surplus);
	struct weir__waiter *sender = weir__waitq_grant(self, &chan->senders, 0);
	if (sender)
		(void)weir__room_put(chan, sender->item); /* in the reserve, if need be */
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
	if (__builtin_expect(err == -ENOMEM, 0))
		err = put_with_room(self, chan, item, err, false, &waiter);
	weir__unlock(&chan->lock);
	wake(self, waiter);
	return err;
}

int weir_chan_try_recv(weir_chan *chan, void *ret)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__waiter *waiter = NULL;
	struct weir__room_block *surplus = NULL;

	weir__lock(&chan->lock);
	int err = get(self, chan, ret, &waiter, &surplus);
	bool drained = is_drained(chan);
	weir__unlock(&chan->lock);
	wake(self, waiter);
	if (surplus)
		weir__room_free_blocks(surplus);
	note_empty(self, chan, drained);
	return err;
}

static void describe(const struct weir__waiter *waiter, char *ret, size_t cap)
{
	const weir_chan *chan = (const weir_chan *)(const void *)waiter->lock;

	snprintf(ret, cap, "%" PRIu32 " of %" PRIu32 " in it", chan->count, chan->capacity);
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

/* Called with the lock held, after a put that failed. */
static __attribute__((noinline)) int send_slowly(struct weir__worker *self, weir_chan *chan,
						 const void *item, int err)
{
	struct weir__waiter *waiter = NULL;

	err = put_with_room(self, chan, item, err, true, &waiter);
	if (err == -EAGAIN)
		return wait_in(self, chan, &chan->senders, (void *)item, &about_send);
	weir__unlock(&chan->lock);
	wake(self, waiter);
	weir__budget_spend(self);
	return err;
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
	if (err == -EAGAIN && weir__room_is_there(chan))
		return wait_in(self, chan, &chan->senders, (void *)item, &about_send);
	if (err < 0)
		return send_slowly(self, chan, item, err);
	weir__unlock(&chan->lock);
	wake(self, waiter);
	weir__budget_spend(self);
	return 0;
}

int weir_chan_recv(weir_chan *chan, void *ret)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__waiter *waiter = NULL;
	struct weir__room_block *surplus = NULL;
	int err = weir__may_wait(self);

	if (err < 0)
		return err;
	weir__lock(&chan->lock);
	err = get(self, chan, ret, &waiter, &surplus);
	if (err == -EAGAIN)
		return wait_in(self, chan, &chan->receivers, ret, &about_recv);
	bool drained = is_drained(chan);
	weir__unlock(&chan->lock);
	wake(self, waiter);
	if (surplus)
		weir__room_free_blocks(surplus);
	note_empty(self, chan, drained);
	weir__budget_spend(self);
	return err;
}

/* ---- Many items --------------------------------------------------------- */

/* Under one lock as many as go, at most so many. */
enum { MOVED_AT_ONCE = 256 };

/*
 * Who lets the last waiter on may free the channel before that one runs, which does not look at it
 * any more; but a batch does. So it holds the channel from when it has not moved all at once, and
 * the last that lets go frees what was freed in the meantime.
 */
static void let_go(weir_chan *chan)
{
	weir__lock(&chan->lock);
	bool is_last = --chan->users == 0 && chan->is_freed;
	weir__unlock(&chan->lock);
	if (is_last)
		weir__room_free(chan);
}

static size_t put_some(struct weir__worker *self, weir_chan *chan, const char *items, size_t count,
		       int *ret_err, bool *is_held)
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
	if (done < count && !*is_held) {
		*is_held = true;
		chan->users++;
	}
	weir__unlock(&chan->lock);
	weir__wakes_send(self, &wakes);
	return done;
}

/* Holds the channel when there was nothing. */
static size_t get_some(struct weir__worker *self, weir_chan *chan, char *ret, size_t count,
		       int *ret_err, bool *is_held)
{
	struct weir__room_block *surplus = NULL;
	struct weir__wakes wakes;
	size_t done = 0;

	weir__wakes_init(&wakes);
	weir__lock(&chan->lock);
	for (*ret_err = 0; done < count && done < MOVED_AT_ONCE; done++) {
		struct weir__waiter *waiter = NULL;
		*ret_err = get(self, chan, ret + done * chan->item_bytes, &waiter, &surplus);
		if (*ret_err < 0)
			break;
		if (waiter)
			weir__wakes_add(&wakes, waiter);
	}
	bool drained = is_drained(chan);
	if (done == 0 && !*is_held) {
		*is_held = true;
		chan->users++;
	}
	weir__unlock(&chan->lock);
	weir__wakes_send(self, &wakes);
	if (surplus)
		weir__room_free_blocks(surplus);
	note_empty(self, chan, drained);
	return done;
}

ssize_t weir_chan_send_many(weir_chan *chan, const void *items, size_t count)
{
	struct weir__worker *self = weir__worker_self();
	const char *from = items;
	size_t done = 0;
	bool is_held = false;
	int err = weir__may_wait(self);

	while (err == 0 && done < count) {
		const char *next = from + done * chan->item_bytes;
		size_t moved = put_some(self, chan, next, count - done, &err, &is_held);
		done += moved;
		if (err == -EAGAIN || err == -ENOMEM) { /* it waits, and makes room */
			err = weir_chan_send(chan, from + done * chan->item_bytes);
			done += err == 0;
		} else if (err == 0) {
			weir__budget_spend(self);
			err = weir__may_wait(self);
		}
	}
	if (is_held)
		let_go(chan);
	return done > 0 ? (ssize_t)done : err;
}

ssize_t weir_chan_recv_many(weir_chan *chan, void *ret, size_t count)
{
	struct weir__worker *self = weir__worker_self();
	bool is_held = false;
	int err = weir__may_wait(self);

	if (err < 0 || count == 0)
		return err;
	size_t done = get_some(self, chan, ret, count, &err, &is_held);
	if (done > 0) {
		weir__budget_spend(self);
		return (ssize_t)done;
	}
	err = weir_chan_recv(chan, ret);
	if (err == 0) {
		/* more may have come while the wake-up was under way */
		char *next = (char *)ret + chan->item_bytes;
		int unused;
		done = 1 + get_some(self, chan, next, count - 1, &unused, &is_held);
	}
	let_go(chan);
	return err < 0 ? err : (ssize_t)done;
}

/* ---- Life --------------------------------------------------------------- */

weir_chan *weir_chan_new(size_t item_bytes, size_t capacity)
{
	size_t bytes;

	if (capacity > UINT32_MAX || __builtin_mul_overflow(item_bytes, capacity, &bytes) ||
	    bytes > PTRDIFF_MAX)
		return NULL;
	return weir__room_new(item_bytes, capacity > 0 ? (uint32_t)capacity : 1);
}

void weir_chan_free(weir_chan *chan)
{
	if (!chan)
		return;
	weir__lock(&chan->lock);
	chan->is_closed = true; /* for batches that go on */
	chan->is_freed = true;
	chan->users++;
	weir__unlock(&chan->lock);
	weir__waitq_done(&chan->lock, &chan->receivers);
	weir__waitq_done(&chan->lock, &chan->senders);
	weir__waitq_done(&chan->lock, &chan->drainers);
	let_go(chan);
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

/* Takes the claim only once there is a place. */
static bool enter_send(struct weir__worker *self, struct weir_case *wanted,
		       struct weir__waiter *waiter)
{
	weir_chan *chan = wanted->object_;
	struct weir__waiter *woken = NULL;
	int err = 0;

	waiter->item = wanted->item_;
	weir__lock(&chan->lock);
	while (!weir__room_is_there(chan) && !chan->is_closed && err == 0)
		err = weir__room_make(chan);
	bool ends = err < 0 || can_put(chan);
	if (!ends)
		weir__waitq_add(&chan->lock, &chan->senders, waiter);
	else if (weir__claim_self(waiter))
		wanted->result = err < 0 ? err : put(self, chan, wanted->item_, &woken);
	weir__unlock(&chan->lock);
	wake(self, woken);
	return ends;
}

static bool enter_recv(struct weir__worker *self, struct weir_case *wanted,
		       struct weir__waiter *waiter)
{
	weir_chan *chan = wanted->object_;
	struct weir__waiter *woken = NULL;
	struct weir__room_block *surplus = NULL;
	bool drained = false;

	waiter->item = wanted->item_;
	weir__lock(&chan->lock);
	bool can = can_get(chan);
	if (!can) {
		weir__waitq_add(&chan->lock, &chan->receivers, waiter);
	} else if (weir__claim_self(waiter)) {
		wanted->result = get(self, chan, wanted->item_, &woken, &surplus);
		drained = is_drained(chan);
	}
	weir__unlock(&chan->lock);
	wake(self, woken);
	if (surplus)
		weir__room_free_blocks(surplus);
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
