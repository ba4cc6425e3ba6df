/* SPDX-License-Identifier: MIT */
/*
 * wait.c: entering and leaving the queues of wait.h, which has the rules; tests/model/wait.pml has
 * the proof.
 */
#include "runtime/wait.h"

#include <stdio.h>

#include "runtime/wait_kind.h"

enum { PAUSES_FIRST = 4, PAUSES_MAX = 64 };
enum { GRANTED_AT_ONCE = 64 }; /* wake-ups prepared while the lock is held */

/* ---- The lock ----------------------------------------------------------- */

/*
 * Who finds the lock taken stays away from its cache line for a while, longer each time: the holder
 * gets through several operations meanwhile, where taking turns would move the line for each. The
 * holder may have been preempted: then spinning on keeps it from running.
 */
void weir__lock_slow(struct weir__lock *lock)
{
	unsigned pauses = PAUSES_FIRST;

	do {
		do {
			for (unsigned n = 0; n < pauses; n++)
				weir__pause();
			if (pauses < PAUSES_MAX)
				pauses *= 2;
			else
				weir__relax();
		} while (atomic_load_explicit(&lock->is_taken, memory_order_relaxed));
	} while (atomic_exchange_explicit(&lock->is_taken, 1, memory_order_acquire));
}

/* ---- Leaving ------------------------------------------------------------ */

static bool change_place(struct weir__waiter *waiter, uint8_t to)
{
	uint8_t in = WEIR__PLACE_IN;

	/* acq_rel: who loses does not touch what the winner may free */
	return atomic_compare_exchange_strong_explicit(&waiter->place, &in, to,
						       memory_order_acq_rel, memory_order_acquire);
}

bool weir__waiter_drop(struct weir__waiter *waiter, int result)
{
	struct weir__link link = waiter->link; /* read before: it may be gone after the change */

	waiter->result = result;
	if (!change_place(waiter, WEIR__PLACE_OUT))
		return false;
	link.next->prev = link.prev;
	link.prev->next = link.next;
	return true;
}

void weir__waiter_leave(struct weir__worker *self, struct weir__waiter *waiter)
{
	struct weir__wakes wakes;

	if (!change_place(waiter, WEIR__PLACE_LEAVING))
		return;
	weir__wakes_init(&wakes);
	weir__lock(waiter->lock);
	weir__link_del(&waiter->link);
	if (waiter->left)
		waiter->left(waiter, &wakes);
	weir__unlock(waiter->lock);
	weir__wakes_send(self, &wakes);
}

/* The abort function of every wait for one thing. */
static void abort_wait(struct weir__task *task, int why)
{
	struct weir__waiter *waiter = task->wait;
	uint32_t open = WEIR__CLAIM_OPEN;

	if (!atomic_compare_exchange_strong_explicit(&waiter->own_claim, &open, WEIR__CLAIM_ENDED,
						     memory_order_relaxed, memory_order_relaxed))
		return; /* granted: the wake-up is under way */
	weir__waiter_leave(task->worker, waiter);
	weir__ready(task->worker, task, why);
}

static const char *label_of(const struct weir__task *task)
{
	return ((const struct weir__waiter *)task->wait)->about->label;
}

static void describe(const struct weir__task *task, char *ret, size_t cap)
{
	const struct weir__waiter *waiter = task->wait;

	/* out of the queue: the object may be gone */
	if (atomic_load_explicit(&waiter->place, memory_order_relaxed) != WEIR__PLACE_IN)
		snprintf(ret, cap, "served");
	else if (waiter->about->describe)
		waiter->about->describe(waiter, ret, cap);
	else
		snprintf(ret, cap, "%p", (const void *)waiter->lock);
}

static const struct weir__wait_kind kind WEIR__IN_SECTION(weir_wait_kinds) = {
	.abort = abort_wait, .describe = describe, .label_of = label_of
};

/* ---- Waiting ------------------------------------------------------------ */

int weir__wait(struct weir__worker *self, struct weir__waiter *waiter,
	       const struct weir__about *about)
{
	waiter->about = about;
	int err = weir__park(self, abort_wait, waiter);

	return err < 0 ? err : waiter->result;
}

int weir__wait_shielded(struct weir__worker *self, struct weir__waiter *waiter, const char *what)
{
	weir__park_for(self, what);
	return waiter->result;
}

/* ---- Granting ----------------------------------------------------------- */

void weir__wakes_send(struct weir__worker *self, struct weir__wakes *wakes)
{
	struct weir__link *next;

	for (struct weir__link *link = wakes->first; link; link = next) {
		next = link->next; /* the waiter is gone once its task is woken */
		weir__wake_from(self, ((struct weir__waiter *)link)->task);
	}
}

/* All but the last. */
static void send_most(struct weir__worker *self, struct weir__wakes *wakes)
{
	struct weir__link *link;

	while ((link = wakes->first)->next) {
		wakes->first = link->next;
		weir__wake_from(self, ((struct weir__waiter *)link)->task);
	}
}

/* Under the lock: grants to some. True: there may be more. */
static bool grant_some(struct weir__worker *self, struct weir__waitq *queue, int result,
		       weir__serve_fn serve, struct weir__wakes *wakes)
{
	struct weir__waiter *waiter;

	for (int n = 0; n < GRANTED_AT_ONCE; n++) {
		waiter = weir__waitq_grant(self, queue, result);
		if (!waiter)
			return false;
		if (serve)
			serve(waiter);
		weir__wakes_add(wakes, waiter);
	}
	return !weir__waitq_is_empty(queue);
}

void weir__release_with(struct weir__worker *self, struct weir__waitq *queue, int result,
			weir__serve_fn serve, struct weir__release *release)
{
	struct weir__link *ring = &release->rest.ring;

	release->result = result;
	release->serve = serve;
	weir__wakes_init(&release->wakes);
	do {
		release->has_rest = grant_some(self, queue, result, serve, &release->wakes);
	} while (release->has_rest && weir__waitq_head(queue)->lock->releases == UINT8_MAX);
	if (release->has_rest) {
		*ring = queue->ring;
		ring->next->prev = ring->prev->next = ring;
		queue->ring.next = NULL;
		weir__waitq_head(&release->rest)->lock->releases++;
	}
}

/*
 * Until the rest is empty. Who is leaving by itself needs the lock once more: a matter of
 * microseconds.
 */
static void release_rest(struct weir__worker *self, struct weir__lock *lock,
			 struct weir__release *release)
{
	bool is_empty;

	do {
		send_most(self, &release->wakes);
		weir__lock(lock);
		bool has_more = grant_some(self, &release->rest, release->result, release->serve,
					   &release->wakes);
		is_empty = weir__waitq_is_empty(&release->rest);
		if (is_empty)
			lock->releases--;
		weir__unlock(lock);
		if (!is_empty && !has_more)
			weir__relax();
	} while (!is_empty);
}

void weir__release_end(struct weir__worker *self, struct weir__lock *lock,
		       struct weir__release *release)
{
	if (release->has_rest)
		release_rest(self, lock, release);
	weir__wakes_send(self, &release->wakes);
}

void weir__release_all(struct weir__worker *self, struct weir__lock *lock,
		       struct weir__waitq *queue, int result)
{
	struct weir__release release;

	weir__lock(lock);
	weir__release_begin(self, queue, result, &release);
	weir__unlock(lock);
	weir__release_end(self, lock, &release);
}

/* Until the queue is empty, and nobody is still at letting go who was in it. */
void weir__waitq_done(struct weir__lock *lock, struct weir__waitq *queue)
{
	struct weir__worker *self = weir__worker_self();
	bool is_over;

	do {
		struct weir__wakes wakes;

		weir__wakes_init(&wakes);
		weir__lock(lock);
		bool has_more = grant_some(self, queue, -EPIPE, NULL, &wakes);
		is_over = weir__waitq_is_empty(queue) && lock->releases == 0;
		weir__unlock(lock);
		weir__wakes_send(self, &wakes);
		if (!is_over && !has_more)
			weir__relax();
	} while (!is_over);
}
