/* SPDX-License-Identifier: MIT */
/*
 * channel.c: bounded channels between tasks of any workers.
 *
 * A waiter lies on its task's stack and is in one of the channel's two queues until somebody takes
 * it out under the lock: the other side (it is then `done`, and a wake-up is under way that must be
 * waited for) or its own interruption. So a cancelled waiter never swallows an item or a wake-up.
 * Items are handed over directly when the other side waits; the ring holds items only while nobody
 * waits for one.
 */
#include <weir/runtime.h>

#include <sched.h>
#include <string.h>

#include "runtime/task.h"
#include "runtime/wait_kind.h"

struct queue;

struct waiter {
	struct waiter *next;
	struct waiter **pprev;
	struct weir__task *task;
	weir_chan *chan;
	struct queue *queue;
	void *item; /* to copy to (receiver) or from (sender) */
	bool done;  /* taken out by the other side; under the lock */
	int result;
};

struct queue {
	struct waiter *head;
	struct waiter **tail;
};

struct weir_chan {
	atomic_flag lock;
	bool is_closed;
	size_t item_bytes;
	size_t capacity;
	size_t first;
	size_t count;
	struct queue receivers; /* not empty only while count is 0 */
	struct queue senders;	/* not empty only while count is capacity */
	_Alignas(16) char items[];
};

/* Held for a few dozen instructions and one memcpy; never across a park. */
static void lock(weir_chan *chan)
{
	for (unsigned spins = 0;
	     atomic_flag_test_and_set_explicit(&chan->lock, memory_order_acquire);)
		if (++spins % 64 == 0)
			sched_yield();
}

static void unlock(weir_chan *chan)
{
	atomic_flag_clear_explicit(&chan->lock, memory_order_release);
}

static void enqueue(struct queue *queue, struct waiter *waiter)
{
	waiter->next = NULL;
	waiter->pprev = queue->tail;
	*queue->tail = waiter;
	queue->tail = &waiter->next;
}

static void take_out(struct queue *queue, struct waiter *waiter)
{
	*waiter->pprev = waiter->next;
	if (waiter->next)
		waiter->next->pprev = waiter->pprev;
	else
		queue->tail = waiter->pprev;
}

static char *slot(weir_chan *chan, size_t index)
{
	size_t at = chan->first + index;

	return chan->items + (at < chan->capacity ? at : at - chan->capacity) * chan->item_bytes;
}

/*
 * Takes the first waiter out; its task, to be woken after unlock. The waiter is not ours after
 * that.
 */
static struct weir__task *grant(struct queue *queue, int result)
{
	struct waiter *waiter = queue->head;

	take_out(queue, waiter);
	waiter->done = true;
	waiter->result = result;
	return waiter->task;
}

/* ---- Waiting ------------------------------------------------------------ */

static void abort_wait(struct weir__task *task, int why)
{
	struct waiter *waiter = task->wait;
	weir_chan *chan = waiter->chan;

	lock(chan);
	bool is_mine = !waiter->done;
	if (is_mine)
		take_out(waiter->queue, waiter);
	unlock(chan);
	if (is_mine)
		weir__ready(task->worker, task, why);
}

static void describe_wait(const struct weir__task *task, char *ret, size_t cap)
{
	const struct waiter *waiter = task->wait;
	const weir_chan *chan = waiter->chan;

	snprintf(ret, cap, "%s, %zu of %zu in it",
		 waiter->queue == &chan->senders ? "to send" : "to receive", chan->count,
		 chan->capacity);
}
WEIR__WAIT_KIND(abort_wait, "channel", describe_wait);

/* Called with the lock held, returns without it. */
static int wait_in(struct weir__worker *self, weir_chan *chan, struct queue *queue, void *item)
{
	struct waiter waiter = {
		.task = self->current, .chan = chan, .queue = queue, .item = item
	};

	enqueue(queue, &waiter);
	unlock(chan);
	int err = weir__park(self, abort_wait, &waiter);
	return err < 0 ? err : waiter.result;
}

/* ---- Both directions, with the lock held; the task to wake afterwards in *ret_wake ---- */

static int put(weir_chan *chan, const void *item, struct weir__task **ret_wake)
{
	if (chan->is_closed)
		return -EPIPE;
	if (chan->receivers.head) {
		memcpy(chan->receivers.head->item, item, chan->item_bytes);
		*ret_wake = grant(&chan->receivers, 0);
		return 0;
	}
	if (chan->count == chan->capacity)
		return -EAGAIN;
	memcpy(slot(chan, chan->count++), item, chan->item_bytes);
	return 0;
}

static int get(weir_chan *chan, void *ret, struct weir__task **ret_wake)
{
	if (chan->count == 0)
		return chan->is_closed ? -EPIPE : -EAGAIN;
	memcpy(ret, slot(chan, 0), chan->item_bytes);
	if (++chan->first == chan->capacity)
		chan->first = 0;
	chan->count--;
	if (chan->senders.head) {
		memcpy(slot(chan, chan->count++), chan->senders.head->item, chan->item_bytes);
		*ret_wake = grant(&chan->senders, 0);
	}
	return 0;
}

/* ---- Public ------------------------------------------------------------- */

weir_chan *weir_chan_new(size_t item_bytes, size_t capacity)
{
	size_t bytes;

	if (capacity == 0)
		capacity = 1;
	if (__builtin_mul_overflow(item_bytes, capacity, &bytes) ||
	    __builtin_add_overflow(bytes, sizeof(weir_chan), &bytes))
		return NULL;
	weir_chan *chan = weir_alloc(bytes);
	if (!chan)
		return NULL;
	memset(chan, 0, sizeof *chan);
	atomic_flag_clear(&chan->lock);
	chan->item_bytes = item_bytes;
	chan->capacity = capacity;
	chan->receivers.tail = &chan->receivers.head;
	chan->senders.tail = &chan->senders.head;
	return chan;
}

void weir_chan_free(weir_chan *chan)
{
	WEIR_ASSERT(!chan || (!chan->receivers.head && !chan->senders.head));
	weir_free(chan);
}

int weir_chan_try_send(weir_chan *chan, const void *item)
{
	struct weir__task *wake = NULL;

	lock(chan);
	int err = put(chan, item, &wake);
	unlock(chan);
	if (wake)
		weir__wake(wake);
	return err;
}

int weir_chan_try_recv(weir_chan *chan, void *ret)
{
	struct weir__task *wake = NULL;

	lock(chan);
	int err = get(chan, ret, &wake);
	unlock(chan);
	if (wake)
		weir__wake(wake);
	return err;
}

int weir_chan_send(weir_chan *chan, const void *item)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__task *wake = NULL;

	if (!self || !self->current)
		return -EINVAL;
	int err = weir__interrupted(self, self->current);
	if (err < 0)
		return err;
	lock(chan);
	err = put(chan, item, &wake);
	if (err == -EAGAIN)
		return wait_in(self, chan, &chan->senders, (void *)item);
	unlock(chan);
	if (wake)
		weir__wake(wake);
	weir__budget_spend(self);
	return err;
}

int weir_chan_recv(weir_chan *chan, void *ret)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__task *wake = NULL;

	if (!self || !self->current)
		return -EINVAL;
	int err = weir__interrupted(self, self->current);
	if (err < 0)
		return err;
	lock(chan);
	err = get(chan, ret, &wake);
	if (err == -EAGAIN)
		return wait_in(self, chan, &chan->receivers, ret);
	unlock(chan);
	if (wake)
		weir__wake(wake);
	weir__budget_spend(self);
	return err;
}

void weir_chan_close(weir_chan *chan)
{
	for (;;) {
		struct weir__task *wake = NULL;

		lock(chan);
		chan->is_closed = true;
		if (chan->receivers.head)
			wake = grant(&chan->receivers, -EPIPE);
		else if (chan->senders.head)
			wake = grant(&chan->senders, -EPIPE);
		unlock(chan);
		if (!wake)
			return;
		weir__wake(wake);
	}
}
