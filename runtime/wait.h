/* SPDX-License-Identifier: MIT */
/*
 * wait.h: the one list in which tasks wait for each other: locks, events, channels, select.
 *
 * A waiter lies on its task's stack and is linked into the queue of what it waits for, under that
 * object's lock. Two words decide what becomes of it.
 *
 * The claim says who ends the wait: whoever turns it from OPEN makes the task ready, once. It is
 * taken by the one who grants (an item, a unit, the lock), or by the task's own interruption; a
 * select has one claim for all its waiters. So a wait that was cancelled has taken nothing, and a
 * grant that came first counts even when the task is cancelled before it runs.
 *
 * The place says who takes the waiter out of the queue: the object, or the waiter itself. Once the
 * object has done so its memory is not touched again from this side: it may be gone when the task
 * wakes.
 *
 * Locks are held for some dozens of instructions and never across a park; the tasks are woken after
 * the unlock.
 */
#ifndef WEIR_WAIT_H
#define WEIR_WAIT_H

#include "runtime/task.h"

/* ---- The lock of an object ---------------------------------------------- */

/* All zero: free. */
struct weir__lock {
	_Atomic uint8_t is_taken;
	uint8_t releases; /* under way and not done when they let go of it; under the lock */
};

void weir__lock_slow(struct weir__lock *lock);

static inline void weir__lock(struct weir__lock *lock)
{
	if (__builtin_expect(
		    atomic_exchange_explicit(&lock->is_taken, 1, memory_order_acquire) != 0, 0))
		weir__lock_slow(lock);
}

static inline void weir__unlock(struct weir__lock *lock)
{
	atomic_store_explicit(&lock->is_taken, 0, memory_order_release);
}

/*
 * For who has found what it wanted without the lock and may free the object now: waits for who made
 * it so to be through with the lock.
 */
static inline void weir__lock_settle(struct weir__lock *lock)
{
	if (__builtin_expect(atomic_load_explicit(&lock->is_taken, memory_order_acquire) != 0, 0)) {
		weir__lock_slow(lock);
		weir__unlock(lock);
	}
}

/* ---- Queues ------------------------------------------------------------- */

struct weir__link {
	struct weir__link *next, *prev;
};

/* A ring through `ring`, oldest first; all zero: empty. Under the object's lock. */
struct weir__waitq {
	struct weir__link ring;
};

enum { WEIR__CLAIM_OPEN, WEIR__CLAIM_ENDED = 1, WEIR__CLAIM_CASE = 2 /* + number of the case */ };
enum { WEIR__PLACE_OUT, WEIR__PLACE_IN, WEIR__PLACE_LEAVING };

struct weir__waiter;

/* Chained through link.next, to be woken after the unlock. */
struct weir__wakes {
	struct weir__link *first;
	struct weir__link **tail;
};

/*
 * A waiter has left the queue without being served: what it kept others from may now be granted.
 * Under the lock.
 */
typedef void (*weir__left_fn)(struct weir__waiter *waiter, struct weir__wakes *wakes);

/* What a waiter waits in, for who looks at tasks: on the terms of wait_kind.h. */
struct weir__about {
	const char *label;
	void (*describe)(const struct weir__waiter *waiter, char *ret, size_t cap); /* or NULL */
};

/* What a grant from another worker reads and writes is one cache line, the first. */
struct weir__waiter {
	_Alignas(64) struct weir__link link; /* first */
	struct weir__task *task;
	_Atomic uint32_t *claim; /* own_claim, or the select's */
	void *item;		 /* to copy to or from; what it wants, by kind of object */
	_Atomic uint32_t own_claim;
	uint32_t claims; /* what a grant writes there */
	int result;
	_Atomic uint8_t place;
	size_t count;
	struct weir__lock *lock;
	weir__left_fn left;
	void *object; /* the left function's */
	const struct weir__about *about;
};
_Static_assert(offsetof(struct weir__waiter, count) + sizeof(size_t) == 64, "a line");

static inline bool weir__waitq_is_empty(const struct weir__waitq *queue)
{
	return !queue->ring.next || queue->ring.next == &queue->ring;
}

/* The oldest, NULL when there is none; it may turn out to be claimed. */
static inline struct weir__waiter *weir__waitq_head(const struct weir__waitq *queue)
{
	return weir__waitq_is_empty(queue) ? NULL : (struct weir__waiter *)queue->ring.next;
}

static inline void weir__link_del(struct weir__link *link)
{
	link->next->prev = link->prev;
	link->prev->next = link->next;
}

/* Makes the waiter of a task that waits for this alone. item and count are the caller's. */
static inline void weir__waiter_init(struct weir__waiter *waiter, struct weir__task *task)
{
	waiter->task = task;
	waiter->claim = &waiter->own_claim;
	atomic_init(&waiter->own_claim, WEIR__CLAIM_OPEN);
	waiter->claims = WEIR__CLAIM_ENDED;
	waiter->left = NULL;
	waiter->item = NULL;
	atomic_init(&waiter->place, WEIR__PLACE_OUT);
}

/* Under `lock`, which is the queue's. */
static inline void weir__waitq_add(struct weir__lock *lock, struct weir__waitq *queue,
				   struct weir__waiter *waiter)
{
	struct weir__link *ring = &queue->ring;

	waiter->lock = lock;
	if (!ring->next)
		ring->next = ring->prev = ring;
	waiter->link.next = ring;
	waiter->link.prev = ring->prev;
	ring->prev->next = &waiter->link;
	ring->prev = &waiter->link;
	atomic_store_explicit(&waiter->place, WEIR__PLACE_IN, memory_order_relaxed);
}

/*
 * Takes the claim for a grant. Against a waiter of its own worker that waits for nothing else
 * nobody competes: its interruption comes on this very thread, and would have been through with it.
 */
static inline bool weir__claim(struct weir__worker *self, struct weir__waiter *waiter)
{
	uint32_t open = WEIR__CLAIM_OPEN;

	if (waiter->claim == &waiter->own_claim && waiter->task->worker == self) {
		atomic_store_explicit(&waiter->own_claim, WEIR__CLAIM_ENDED, memory_order_relaxed);
		return true;
	}
	/* relaxed: what is granted travels by the lock and the wake-up */
	return atomic_compare_exchange_strong_explicit(waiter->claim, &open, waiter->claims,
						       memory_order_relaxed, memory_order_relaxed);
}

/*
 * The running task takes the claim of its own waiter, because what it wants is there. False:
 * another case of its select has been granted.
 */
static inline bool weir__claim_self(struct weir__waiter *waiter)
{
	uint32_t open = WEIR__CLAIM_OPEN;

	return waiter->claim == &waiter->own_claim ||
	       atomic_compare_exchange_strong_explicit(waiter->claim, &open, waiter->claims,
						       memory_order_relaxed, memory_order_relaxed);
}

/* The object takes out a waiter it has claimed. */
static inline void weir__waiter_take(struct weir__waiter *waiter, int result)
{
	weir__link_del(&waiter->link);
	atomic_store_explicit(&waiter->place, WEIR__PLACE_OUT, memory_order_relaxed);
	waiter->result = result;
}

/*
 * The object takes out a waiter that somebody else has claimed; its result is `result` for who asks
 * what it has missed. False: it is about to leave by itself and still needs the lock; then it stays
 * in the queue.
 */
bool weir__waiter_drop(struct weir__waiter *waiter, int result);

/*
 * Claims and takes out the oldest waiter that can be had; NULL: there is none. Its result is
 * `result`; it is the caller's until it wakes it.
 */
static inline struct weir__waiter *weir__waitq_grant(struct weir__worker *self,
						     struct weir__waitq *queue, int result)
{
	struct weir__link *next;

	for (struct weir__link *link = queue->ring.next; link && link != &queue->ring;
	     link = next) {
		struct weir__waiter *waiter = (struct weir__waiter *)link;
		next = link->next;
		if (__builtin_expect(weir__claim(self, waiter), 1)) {
			weir__waiter_take(waiter, result);
			return waiter;
		}
		(void)weir__waiter_drop(waiter, result);
	}
	return NULL;
}

/* ---- Waking, after the unlock ------------------------------------------- */

static inline void weir__wakes_init(struct weir__wakes *wakes)
{
	wakes->first = NULL;
	wakes->tail = &wakes->first;
}

static inline void weir__wakes_add(struct weir__wakes *wakes, struct weir__waiter *waiter)
{
	waiter->link.next = NULL;
	*wakes->tail = &waiter->link;
	wakes->tail = &waiter->link.next;
}

static inline void weir__wake_from(struct weir__worker *self, struct weir__task *task)
{
	if (__builtin_expect(task->worker == self, 1))
		weir__ready(self, task, 0);
	else
		weir__wake(task);
}

void weir__wakes_send(struct weir__worker *self, struct weir__wakes *wakes);

/*
 * Letting all go who wait now, in two steps: under the lock the first of them are granted and the
 * rest, if they are many, moved to a queue on the caller's stack; after the unlock they are woken.
 *
 * With few waiters, or 255 releases under way, the object is not touched after the unlock. With
 * many it has to outlive some more locks. Who ends its life waits for that (weir__waitq_done());
 * and where nobody does, because the last who has waited may free it, the last that was granted is
 * woken after the last unlock.
 */
typedef void (*weir__serve_fn)(struct weir__waiter *waiter);

struct weir__release {
	weir__serve_fn serve; /* hands over under the lock, may change the result; or NULL */
	struct weir__wakes wakes;
	struct weir__waitq rest;
	bool has_rest;
	int result;
};

void weir__release_with(struct weir__worker *self, struct weir__waitq *queue, int result,
			weir__serve_fn serve, struct weir__release *release);
static inline void weir__release_begin(struct weir__worker *self, struct weir__waitq *queue,
				       int result, struct weir__release *release)
{
	weir__release_with(self, queue, result, NULL, release);
}
void weir__release_end(struct weir__worker *self, struct weir__lock *lock,
		       struct weir__release *release);

/* Both, with the lock taken for it. */
void weir__release_all(struct weir__worker *self, struct weir__lock *lock,
		       struct weir__waitq *queue, int result);

/* ---- Waiting ------------------------------------------------------------ */

/*
 * Parks the running task, whose waiter has been added to a queue, with the lock released. `about`
 * is static. Returns the result of the grant, or -ECANCELED or -ETIME: then nothing was granted.
 */
int weir__wait(struct weir__worker *self, struct weir__waiter *waiter,
	       const struct weir__about *about);

/* The same, but only a grant ends it. */
int weir__wait_shielded(struct weir__worker *self, struct weir__waiter *waiter, const char *what);

/* A waiter whose claim is taken leaves the queue, if it is still in one. Takes the lock. */
void weir__waiter_leave(struct weir__worker *self, struct weir__waiter *waiter);

/*
 * The end of an object's life: everybody who waits gets -EPIPE. When it returns, no one who waited
 * touches the object any more.
 */
void weir__waitq_done(struct weir__lock *lock, struct weir__waitq *queue);

/* ---- What a select can wait for ------------------------------------------ */

struct weir__waitable {
	const struct weir__about *about; /* for weir__wait_for(); NULL: it is not called for this */
	/* Takes what is wanted if it is there, and sets the case's result. False: not now. */
	bool (*poll)(struct weir__worker *self, struct weir_case *wanted);
	/*
	 * The same with weir__claim_self(), under the object's lock; false: not now, and the waiter
	 * is in the object's queue. True with a claim that is another's: nothing was taken.
	 */
	bool (*enter)(struct weir__worker *self, struct weir_case *wanted,
		      struct weir__waiter *waiter);
	/* After a grant: fetches what was granted. May be NULL. */
	void (*granted)(struct weir_case *wanted, struct weir__waiter *waiter);
	/* Takes an entered waiter that was not granted out again. NULL: weir__waiter_leave(). */
	void (*leave)(struct weir__worker *self, struct weir_case *wanted,
		      struct weir__waiter *waiter);
};

/* What every waiting call asks first: 0, -EINVAL outside tasks, -ECANCELED, -ETIME. */
static inline int weir__may_wait(struct weir__worker *self)
{
	if (__builtin_expect(!self || !self->current, 0))
		return -EINVAL;
	return weir__interrupted(self, self->current);
}

/*
 * A waiting call for one case alone, for sources that have no `granted`: returns what was taken or
 * granted, or why the wait ended without. Inlined, so that a call knows its source: a function took
 * 24 instructions more, a seventh of a broadcast item.
 */
static inline __attribute__((always_inline)) int
weir__wait_for(const struct weir__waitable *source, void *object, void *item, int64_t count)
{
	struct weir__worker *self = weir__worker_self();
	struct weir_case wanted = { source, object, item, count, 0 };
	struct weir__waiter waiter;
	int err = weir__may_wait(self);

	if (err < 0)
		return err;
	weir__waiter_init(&waiter, self->current);
	if (!source->enter(self, &wanted, &waiter))
		return weir__wait(self, &waiter, source->about);
	weir__budget_spend(self);
	return wanted.result;
}

#endif
