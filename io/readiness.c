/* SPDX-License-Identifier: MIT */
/*
 * readiness.c: waiting until a descriptor that is not ours is ready, for weir_select().
 *
 * The operation lies in memory of its own: a select that took another case forgets it and does not
 * wait for the kernel to let go. The end of the worker does.
 */
#include "io/readiness.h"

#include <errno.h>
#include <fcntl.h>

static const int64_t END_NS = WEIR_SEC; /* a kernel that does not let go costs a leak, not a hang */

struct weir__readiness {
	struct weir__op op;
	struct weir__handle handle;
	struct weir__io *io;
	weir__readiness_fn done; /* NULL: forgotten */
	void *arg;
};

static void close_and_free(struct weir__readiness *readiness)
{
	struct weir__io *io = readiness->io;

	if (io->needs_nonblocking)
		io->ops->close(io, &readiness->handle);
	weir_free(readiness);
	io->readiness_count--;
}

static void on_ready(struct weir__op *op)
{
	struct weir__readiness *readiness = op->owner;
	weir__readiness_fn done = readiness->done;
	void *arg = readiness->arg;
	int res = op->res;

	close_and_free(readiness);
	if (done)
		done(arg, res);
}

struct weir__readiness *weir__readiness_begin(struct weir__driver *driver, int fd, unsigned events,
					      weir__readiness_fn done, void *arg, int *ret_res)
{
	struct weir__io *io = (struct weir__io *)(void *)driver;
	struct weir__readiness *readiness = weir_alloc(sizeof *readiness);

	if (!readiness) {
		*ret_res = -ENOMEM;
		return NULL;
	}
	/* an epoll set knows a descriptor once; this one is ours alone */
	int own = io->needs_nonblocking ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : fd;
	if (own < 0 && io->needs_nonblocking) {
		*ret_res = -errno;
		weir_free(readiness);
		return NULL;
	}
	io->readiness_count++;
	readiness->handle = (struct weir__handle){ .fd = own };
	readiness->io = io;
	readiness->done = done;
	readiness->arg = arg;
	weir__op_init(&readiness->op, WEIR__OP_POLL, &readiness->handle);
	readiness->op.len = events;
	readiness->op.done = on_ready;
	readiness->op.owner = readiness;
	if (!io->ops->start(io, &readiness->op))
		return readiness;
	*ret_res = readiness->op.res;
	close_and_free(readiness);
	return NULL;
}

void weir__readiness_forget(struct weir__readiness *readiness)
{
	readiness->done = NULL;
	readiness->io->ops->cancel(readiness->io, &readiness->op);
}

void weir__readiness_end(struct weir__io *io)
{
	struct weir__driver *driver = &io->driver;
	int64_t until = weir__clock_ns() + END_NS;

	while (io->readiness_count > 0 && weir__clock_ns() < until) {
		driver->ops->submit_and_wait(driver, until);
		(void)driver->ops->reap(driver);
	}
}
