/* SPDX-License-Identifier: MIT */
/*
 * generator.c: a task that is asked for one thing after another.
 *
 * Producer and consumer are tasks of one worker and take turns: the producer runs from demand to
 * demand. Items are passed by address, so what the producer shows must stay until it is asked
 * again; when it is interrupted instead, an item that was not fetched is withdrawn.
 */
#include <weir/runtime.h>

#include "runtime/extra.h"
#include "runtime/task.h"
#include "runtime/wait_kind.h"

/* Lies in struct weir_gen. The worker's alone. */
struct generator {
	weir_gen_fn fn;
	void *arg;
	struct weir__worker *worker; /* NULL: nothing was opened */
	struct weir__task *task;     /* the generator's own, once it runs */
	struct weir__task *consumer; /* waits for an item or the end; may have been told already */
	struct weir__task *producer; /* parked until it is wanted */
	void *item;
	int result; /* of fn, when it has ended */
	bool has_item;
	bool is_wanted;
	bool has_ended;
};
_Static_assert(sizeof(struct generator) <= sizeof(struct weir_gen), "fits the public struct");

static struct generator *of(struct weir_gen *gen)
{
	return (struct generator *)(void *)gen;
}

/* Has the other one run next, if it waits and has not been told yet. */
static void resume(struct weir__worker *self, struct weir__task *waiter)
{
	if (waiter && waiter->state == WEIR__TASK_PARKED)
		(void)weir__ready_before(self, waiter, &self->runq_head);
}

/* ---- Producing ---------------------------------------------------------- */

static void abort_produce(struct weir__task *task, int why)
{
	weir__ready(task->worker, task, why);
}
WEIR__WAIT_KIND(abort_produce, "generator demand", NULL);

static int await_demand(struct weir__worker *self, struct generator *gen)
{
	int err = weir__interrupted(self, self->current);

	while (err == 0 && !gen->is_wanted) {
		gen->producer = self->current;
		err = weir__park(self, abort_produce, gen);
		gen->producer = NULL;
	}
	if (err < 0)
		gen->has_item = false;
	return err;
}

static int produce(void *arg)
{
	struct generator *gen = arg;
	struct weir__worker *self = weir__worker_self();

	gen->task = self->current;
	int err = await_demand(self, gen);
	gen->result = err < 0 ? err : gen->fn((struct weir_gen *)(void *)gen, gen->arg);
	weir__extra_end(self);
	gen->has_ended = true;
	resume(self, gen->consumer);
	return 0; /* the consumer is told; the scope has nothing to do with it */
}

/* With a stack at once: who waits for an item hears of nothing but the task itself. */
int weir_gen_open(struct weir_gen *public_gen, struct weir_scope *scope, weir_gen_fn fn, void *arg)
{
	struct generator *gen = of(public_gen);
	struct weir__worker *self = weir__worker_self();

	*gen = (struct generator){ .fn = fn, .arg = arg };
	if (!fn || !self)
		return -EINVAL;
	int err = weir__spawn(weir__scope_of(scope), &(struct weir__spawn){
							     .fn = produce,
							     .arg = gen,
							     .name = "generator",
							     .site = "weir_gen_open",
							     .stack_shift = self->stack_shift,
							     .stack_now = true,
						     });
	if (err == 0)
		gen->worker = self;
	return err;
}

int weir_gen_yield(struct weir_gen *public_gen, void *item)
{
	struct generator *gen = of(public_gen);
	struct weir__worker *self = weir__worker_self();

	if (!self || !self->current || gen->worker != self || gen->task != self->current)
		return -EINVAL;
	gen->item = item;
	gen->has_item = true;
	gen->is_wanted = false;
	resume(self, gen->consumer);
	if (gen->consumer && weir__interrupted(self, self->current) < 0)
		(void)weir_yield(); /* it has its turn all the same */
	return await_demand(self, gen);
}

/* ---- Consuming ---------------------------------------------------------- */

static void abort_consume(struct weir__task *task, int why)
{
	struct generator *gen = task->wait;

	gen->consumer = NULL;
	weir__ready(task->worker, task, why);
}
WEIR__WAIT_KIND(abort_consume, "generator item", NULL);

static int await_item(struct weir__worker *self, struct generator *gen)
{
	gen->is_wanted = true;
	resume(self, gen->producer);
	gen->consumer = self->current;
	int err = weir__park(self, abort_consume, gen);
	if (err == 0) /* else the generator may be gone */
		gen->consumer = NULL;
	return err;
}

/* An item may be withdrawn before the consumer it was made for runs. */
int weir_gen_next(struct weir_gen *public_gen, void **ret)
{
	struct generator *gen = of(public_gen);
	struct weir__worker *self = weir__worker_self();

	if (!self || !self->current || gen->worker != self)
		return -EINVAL;
	int err = weir__interrupted(self, self->current);
	if (err == 0 && gen->consumer)
		err = -EBUSY;
	while (err == 0 && !gen->has_item && !gen->has_ended)
		err = await_item(self, gen);
	if (err < 0)
		return err;
	if (!gen->has_item)
		return gen->result < 0 ? gen->result : 0;
	gen->has_item = false;
	*ret = gen->item;
	return 1;
}
