/* SPDX-License-Identifier: MIT */
/*
 * op.c: the life of an operation, whatever driver carries it.
 */
#include "io/io_internal.h"

#include <errno.h>
#include <sys/resource.h>

void weir__handle_free(struct weir__handle *handle)
{
	struct weir__task *closer = handle->closer;

	handle->closer = NULL;
	weir__ready(closer->worker, closer, 0);
}

void weir__op_wake(struct weir__op *op)
{
	struct weir__task *task = op->owner;

	weir__ready(task->worker, task, 0);
}

/* Asks for the end; the task stays parked until the operation's own completion. */
void weir__op_abort(struct weir__task *task, int why)
{
	struct weir__op *op = task->wait;
	struct weir__io *io = weir__io_of(task->worker);

	op->why = why;
	io->ops->cancel(io, op);
}

void weir__handle_cancel(struct weir__io *io, struct weir__handle *handle)
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
	weir__handle_cancel(io, handle);
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
