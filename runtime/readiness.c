/* SPDX-License-Identifier: MIT */
/*
 * readiness.c: a descriptor's readiness as a case of a select. The driver does the waiting.
 */
#include "runtime/wait.h"

#include <poll.h>

/* count_ is fd in the upper half, events in the lower. */
static int fd_of(const struct weir_case *wanted)
{
	return (int)(wanted->count_ >> 32);
}

static unsigned events_of(const struct weir_case *wanted)
{
	return (unsigned)wanted->count_;
}

static bool poll_fd(struct weir__worker *self, struct weir_case *wanted)
{
	struct pollfd entry = { .fd = fd_of(wanted), .events = (short)events_of(wanted) };
	int n;

	(void)self;
	do {
		n = poll(&entry, 1, 0);
	} while (n < 0 && errno == EINTR);
	if (entry.fd < 0) /* poll(2) passes over those */
		n = entry.revents = POLLNVAL;
	if (n < 0)
		wanted->result = -errno;
	else
		wanted->result = entry.revents & POLLNVAL ? -EBADF : entry.revents;
	return n != 0;
}

/* On the scheduler stack. */
static void on_ready(void *arg, int res)
{
	struct weir__waiter *waiter = arg;
	struct weir__worker *self = waiter->task->worker;

	waiter->item = NULL;
	if (!weir__claim(self, waiter))
		return;
	waiter->result = res;
	weir__ready(self, waiter->task, 0);
}

static bool enter_fd(struct weir__worker *self, struct weir_case *wanted,
		     struct weir__waiter *waiter)
{
	const struct weir__driver_ops *ops = self->driver->ops;
	int res = -EOPNOTSUPP;

	if (ops->readiness_begin)
		waiter->item = ops->readiness_begin(self->driver, fd_of(wanted), events_of(wanted),
						    on_ready, waiter, &res);
	if (waiter->item)
		return false;
	if (weir__claim_self(waiter))
		wanted->result = res;
	return true;
}

static void leave_fd(struct weir__worker *self, struct weir_case *wanted,
		     struct weir__waiter *waiter)
{
	(void)wanted;
	if (waiter->item)
		self->driver->ops->readiness_forget(waiter->item);
}

static const struct weir__waitable source = { .poll = poll_fd,
					      .enter = enter_fd,
					      .leave = leave_fd };

struct weir_case weir_case_fd(int fd, unsigned events)
{
	return (struct weir_case){ .source_ = &source,
				   .count_ = (int64_t)((uint64_t)(uint32_t)fd << 32 | events) };
}

int weir_fd_wait(int fd, unsigned events)
{
	struct weir_case wanted = weir_case_fd(fd, events);
	int err = weir_select(&wanted, 1);

	return err < 0 ? err : wanted.result;
}
