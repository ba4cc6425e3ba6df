/* SPDX-License-Identifier: MIT */
/*
 * oneshot.c: one value from one task to another, once.
 */
#include "runtime/wait.h"

#include <string.h>

enum { EMPTY, FULL, SPENT }; /* SPENT: received, or closed while empty */

struct oneshot {
	struct weir__lock lock;
	uint8_t state;
	bool is_closed;
	void *value;
	struct weir__waitq queue; /* empty unless EMPTY */
};
_Static_assert(sizeof(struct oneshot) <= sizeof(struct weir_oneshot), "fits the public struct");

static const struct weir__about about_oneshot = { "oneshot", NULL };

static struct oneshot *of(struct weir_oneshot *oneshot)
{
	return (struct oneshot *)(void *)oneshot;
}

void weir_oneshot_init(struct weir_oneshot *oneshot)
{
	memset(oneshot, 0, sizeof *oneshot);
}

void weir_oneshot_done(struct weir_oneshot *oneshot)
{
	weir__waitq_done(&of(oneshot)->lock, &of(oneshot)->queue);
}

int weir_oneshot_send(struct weir_oneshot *public_oneshot, void *value)
{
	struct weir__worker *self = weir__worker_self();
	struct oneshot *oneshot = of(public_oneshot);
	struct weir__release others;

	weir__lock(&oneshot->lock);
	if (oneshot->state != EMPTY) {
		int err = oneshot->is_closed ? -EPIPE : -EALREADY;
		weir__unlock(&oneshot->lock);
		return err;
	}
	struct weir__waiter *waiter = weir__waitq_grant(self, &oneshot->queue, 0);
	if (!waiter) {
		oneshot->value = value;
		oneshot->state = FULL;
		weir__unlock(&oneshot->lock);
		return 0;
	}
	*(void **)waiter->item = value;
	oneshot->state = SPENT;
	weir__release_begin(self, &oneshot->queue, -EPIPE, &others);
	weir__unlock(&oneshot->lock);
	weir__release_end(self, &oneshot->lock, &others);
	weir__wake_from(self, waiter->task);
	return 0;
}

/* Under the lock. */
static int take(struct oneshot *oneshot, void **ret)
{
	if (oneshot->state == EMPTY)
		return -EAGAIN;
	if (oneshot->state == SPENT)
		return -EPIPE;
	*ret = oneshot->value;
	oneshot->state = SPENT;
	return 0;
}

int weir_oneshot_try_recv(struct weir_oneshot *public_oneshot, void **ret)
{
	struct oneshot *oneshot = of(public_oneshot);

	weir__lock(&oneshot->lock);
	int err = take(oneshot, ret);
	weir__unlock(&oneshot->lock);
	return err;
}

void weir_oneshot_close(struct weir_oneshot *public_oneshot)
{
	struct weir__worker *self = weir__worker_self();
	struct oneshot *oneshot = of(public_oneshot);
	struct weir__release release;

	weir__lock(&oneshot->lock);
	oneshot->is_closed = true;
	if (oneshot->state == EMPTY)
		oneshot->state = SPENT;
	weir__release_begin(self, &oneshot->queue, -EPIPE, &release);
	weir__unlock(&oneshot->lock);
	weir__release_end(self, &oneshot->lock, &release);
}

/* ---- Waiting, alone or in a select ---------------------------------------- */

static bool poll_case(struct weir__worker *self, struct weir_case *wanted)
{
	(void)self;
	wanted->result = weir_oneshot_try_recv(wanted->object_, wanted->item_);
	return wanted->result != -EAGAIN;
}

static bool enter_case(struct weir__worker *self, struct weir_case *wanted,
		       struct weir__waiter *waiter)
{
	struct oneshot *oneshot = wanted->object_;

	(void)self;
	waiter->item = wanted->item_;
	weir__lock(&oneshot->lock);
	bool has_come = oneshot->state != EMPTY;
	if (!has_come)
		weir__waitq_add(&oneshot->lock, &oneshot->queue, waiter);
	else if (weir__claim_self(waiter))
		wanted->result = take(oneshot, waiter->item);
	weir__unlock(&oneshot->lock);
	return has_come;
}

static const struct weir__waitable source = { .about = &about_oneshot,
					      .poll = poll_case,
					      .enter = enter_case };

int weir_oneshot_recv(struct weir_oneshot *oneshot, void **ret)
{
	return weir__wait_for(&source, oneshot, ret, 0);
}

struct weir_case weir_case_oneshot(struct weir_oneshot *oneshot, void **ret)
{
	return (struct weir_case){ .source_ = &source, .object_ = oneshot, .item_ = ret };
}
