/* SPDX-License-Identifier: MIT */
/*
 * op.c: the life of an operation, whatever driver carries it.
 */
#include "io/io_internal.h"

#include <errno.h>
#include <sys/resource.h>

void weir__op_unlink(struct weir__op *op)
{
	struct weir__handle *handle = op->handle;

	*op->pprev = op->next;
	if (op->next)
		op->next->pprev = op->pprev;
	op->state = WEIR__OP_FREE;
	if (!handle->ops && handle->closer) {
		struct weir__task *closer = handle->closer;
		handle->closer = NULL;
		weir__ready(closer->worker, closer, 0);
	}
}

/* What a parked task and its operation share. */
struct run {
	struct weir__op *op;
	struct weir__io *io;
	struct weir__task *task;
	int why; /* the task was interrupted for */
};

static void run_done(struct weir__op *op)
{
	struct run *run = op->owner;

	weir__ready(run->io->worker, run->task, 0);
}

/* Asks for the end; the task stays parked until the operation's own completion. */
static void run_abort(struct weir__task *task, int why)
{
	struct run *run = task->wait;

	run->why = why;
	run->io->ops->cancel(run->io, run->op);
}

int weir__op_run(struct weir__io *io, struct weir__op *op)
{
	struct weir__worker *self = io->worker;
	struct run run = { .op = op, .io = io, .task = self->current };

	op->done = run_done;
	op->owner = &run;
	if (io->ops->start(io, op)) {
		weir__budget_spend(self);
		return op->res;
	}
	(void)weir__park(self, run_abort, &run);
	if (op->res == -ECANCELED && run.why < 0)
		return run.why;
	return op->res;
}

static void cancel_all(struct weir__io *io, struct weir__handle *handle)
{
	struct weir__op *next;

	/* A driver may complete an operation inside cancel(): it is off the list then. */
	for (struct weir__op *op = handle->ops; op; op = next) {
		next = op->next;
		if (op->state == WEIR__OP_QUEUED)
			io->ops->cancel(io, op);
	}
}

void weir__handle_close(struct weir__io *io, struct weir__handle *handle)
{
	cancel_all(io, handle);
	if (handle->ops) {
		handle->closer = io->worker->current;
		(void)weir__park(io->worker, NULL, NULL);
	}
	io->ops->close(io, handle);
	handle->fd = -1;
}

unsigned weir__descriptors_max(void)
{
	enum { MOST = 262144 };
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur > MOST)
		return MOST;
	return (unsigned)limit.rlim_cur;
}
