/* SPDX-License-Identifier: MIT */
/*
 * op.c: the life of an operation, whatever driver carries it.
 */
#include "io/io_internal.h"

#include <errno.h>
#include <sys/resource.h>

#include "io/address.h"
#include "io/file.h"
#include "runtime/wait_kind.h"

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

static void describe_op(const struct weir__task *task, char *ret, size_t cap)
{
	static const char *const names[] = {
		[WEIR__OP_ACCEPT] = "accept",	  [WEIR__OP_CONNECT] = "connect",
		[WEIR__OP_RECV] = "recv",	  [WEIR__OP_SEND] = "send",
		[WEIR__OP_SHUTDOWN] = "shutdown", [WEIR__OP_INSTALL] = "install",
		[WEIR__OP_SEND_TO] = "send to",	  [WEIR__OP_POLL] = "readiness",
	};
	const struct weir__op *op = task->wait;
	bool is_known = op->code < sizeof names / sizeof *names && names[op->code];
	size_t len;

	if (op->code >= WEIR__OP_FILES) {
		weir__file_describe(op, ret, cap);
		return;
	}
	len = (size_t)snprintf(ret, cap, "%s on ", is_known ? names[op->code] : "operation");
	if (len < cap)
		weir__handle_describe(op->handle, ret + len, cap - len);
}
WEIR__WAIT_KIND(weir__op_abort, "io", describe_op);

/* A slot of the ring's table has no address that could be asked for from here. */
void weir__handle_describe(const struct weir__handle *handle, char *ret, size_t cap)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof peer;
	char text[WEIR__ADDRESS_TEXT_MAX];

	if (handle->is_direct)
		snprintf(ret, cap, "slot %d", handle->fd);
	else if (handle->fd >= 0 && getpeername(handle->fd, (struct sockaddr *)&peer, &len) == 0 &&
		 weir__address_format((struct sockaddr *)&peer, len, text, sizeof text) == 0)
		snprintf(ret, cap, "fd %d of %s", handle->fd, text);
	else
		snprintf(ret, cap, "fd %d", handle->fd);
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
		weir__park_for(io->worker, "close");
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
