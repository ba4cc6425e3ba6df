/* SPDX-License-Identifier: MIT */
/*
 * ring_wake.c: how a worker that waits in its ring is woken from outside.
 *
 * Other workers send a message from ring to ring; who has no ring of this runtime writes to an
 * eventfd, which a multishot poll of the ring looks at. The hard idea: that poll is the only ear
 * for strangers. The kernel ends it when the completion queue is full; so it is armed again, then.
 * While there is no entry for that the worker is deaf, and the driver does not sleep.
 */
#include "io/ring_wake.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

int weir__ring_wake_open(struct weir__ring *ring)
{
	ring->event_fd = ring->event_set = -1;
	ring->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return ring->wake_fd < 0 ? -errno : 0;
}

void weir__ring_wake_close(struct weir__ring *ring)
{
	(void)close(ring->wake_fd);
	if (ring->event_fd >= 0)
		(void)close(ring->event_fd);
	if (ring->event_set >= 0)
		(void)close(ring->event_set);
}

void weir__ring_wake_arm(struct weir__ring *ring)
{
	struct io_uring_sqe *sqe = weir__ring_get_sqe(ring);

	ring->is_deaf = !sqe;
	if (!sqe)
		return;
	io_uring_prep_poll_multishot(sqe, ring->wake_fd, POLLIN);
	sqe->user_data = weir__ring_special(WEIR__CODE_WAKE, 0);
}

void weir__ring_woken(struct weir__ring *ring, const struct io_uring_cqe *cqe)
{
	uint64_t count;

	(void)!read(ring->wake_fd, &count, sizeof count);
	if (!(cqe->flags & IORING_CQE_F_MORE))
		weir__ring_wake_arm(ring);
}

void weir__ring_wake_by_fd(struct weir__ring *ring)
{
	uint64_t one = 1;

	(void)!write(ring->wake_fd, &one, sizeof one);
}

/*
 * From another worker: a message from ring to ring, handed over with the sender's next enter (the
 * end of its slice at the latest), where it shares the system call with everything else. From
 * elsewhere: the eventfd.
 */
void weir__ring_wake(struct weir__driver *target_driver, struct weir__driver *from)
{
	struct weir__ring *target = weir__ring_of_driver(target_driver);
	struct weir__ring *sender = from ? weir__ring_of_driver(from) : NULL;
	struct io_uring_sqe *sqe =
		sender && sender->has_msg_ring ? weir__ring_get_sqe(sender) : NULL;

	if (!sqe) {
		weir__ring_wake_by_fd(target);
		return;
	}
	io_uring_prep_msg_ring(sqe, target->uring.ring_fd, 0,
			       weir__ring_special(WEIR__CODE_MESSAGE, 0), 0);
	sqe->flags |= sender->skip_success;
	sqe->user_data = weir__ring_special(WEIR__CODE_MESSAGE_LOST, target->io.worker->index);
}

static int add_to_set(int set, int fd)
{
	struct epoll_event event = { .events = EPOLLIN };

	return epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/*
 * Not the ring's own descriptor: with DEFER_TASKRUN a completion wakes who waits inside enter() and
 * nobody else. The kernel writes to an eventfd for it, but not for one that is caused by a write to
 * another eventfd (seen on 6.18): so the one we are woken by stands beside it, in an epoll set.
 */
static int open_event_set(struct weir__ring *ring)
{
	ring->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ring->event_set = epoll_create1(EPOLL_CLOEXEC);
	if (ring->event_fd < 0 || ring->event_set < 0)
		return -errno;
	int err = io_uring_register_eventfd(&ring->uring, ring->event_fd);
	if (err == 0)
		err = add_to_set(ring->event_set, ring->event_fd);
	if (err == 0)
		err = add_to_set(ring->event_set, ring->wake_fd);
	return err;
}

int weir__ring_pollable(struct weir__driver *driver)
{
	struct weir__ring *ring = weir__ring_of_driver(driver);
	int err = ring->event_set >= 0 ? 0 : open_event_set(ring);

	return err < 0 ? err : ring->event_set;
}
