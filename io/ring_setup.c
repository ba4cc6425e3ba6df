/* SPDX-License-Identifier: MIT */
/*
 * ring_setup.c: opening an io_uring: the ladder of set-up flags, and the search for what the kernel
 * offers.
 *
 * Parts are found by trying or by the operation that came with them, never by the kernel's version;
 * WEIR_URING_MASK hides them one by one, so that every rung can be tested on a new kernel.
 */
#include "io/ring.h"

#include <errno.h>
#include <stdlib.h>

#include "io/file.h"
#include "io/multishot.h"
#include "io/probe.h"
#include "io/uring_compat.h"
#include "runtime/sanitizer.h"

static char places; /* where rings lie, one after the other */

int weir__uring_open(struct io_uring *uring, unsigned entries, struct io_uring_params *params)
{
	int err = io_uring_queue_init_params(entries, uring, params);

	weir__san_acquire(&places);
	return err;
}

void weir__uring_close(struct io_uring *uring)
{
	weir__san_release(&places);
	io_uring_queue_exit(uring);
}

/* From everything down to nothing; each rung is what the kernels in its comment take. */
static int open_uring(struct weir__ring *ring, const struct weir__config *config)
{
	const unsigned base = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE;
	const struct {
		unsigned mask, flags;
	} rungs[] = {
		/* 6.1 */
		{ WEIR__URING_DEFER, base | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG |
					     IORING_SETUP_SINGLE_ISSUER |
					     IORING_SETUP_DEFER_TASKRUN },
		/* 5.19 */
		{ WEIR__URING_COOP, base | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG |
					    IORING_SETUP_COOP_TASKRUN },
		/* 5.6 */
		{ 0, base },
	};
	int err = -EINVAL;

	for (unsigned i = 0; i < sizeof rungs / sizeof *rungs && err == -EINVAL; i++) {
		struct io_uring_params params = { .flags = rungs[i].flags,
						  .cq_entries = config->cq_entries };
		if (config->uring_mask & rungs[i].mask)
			continue;
		err = weir__uring_open(&ring->uring, config->sq_entries, &params);
	}
	/* bounded waits are not optional: 5.11 */
	if (err == 0 && !(ring->uring.features & IORING_FEAT_EXT_ARG)) {
		weir__uring_close(&ring->uring);
		err = -ENOSYS;
	}
	return err;
}

static bool has_op(const struct io_uring_probe *probe, int op)
{
	return op <= probe->last_op && (probe->ops[op].flags & IO_URING_OP_SUPPORTED);
}

/*
 * Multishot accept came with the op SOCKET (5.19), multishot receive and SKIP of completions with
 * SEND_ZC (6.0); the flags themselves cannot be probed.
 */
static int find_features(struct weir__ring *ring, const struct weir__config *config)
{
	unsigned mask = config->uring_mask;
	struct io_uring_probe *probe = io_uring_get_probe_ring(&ring->uring);

	if (!probe)
		return -ENOMEM;
	ring->has_accept_multi =
		has_op(probe, IORING_OP_SOCKET) && !(mask & WEIR__URING_ACCEPT_MULTI);
	ring->has_buffers = has_op(probe, IORING_OP_SOCKET) && !(mask & WEIR__URING_BUFRING);
	ring->has_recv_multi = ring->has_buffers && has_op(probe, IORING_OP_SEND_ZC) &&
			       !(mask & WEIR__URING_RECV_MULTI) &&
			       weir__multishot_hears_the_end(&ring->uring);
	/*
	 * A slot without FIXED_FD_INSTALL would be a connection whose peer cannot be asked for; and
	 * on 6.12 one that is closed stays open, to its peer, while an older operation on any slot
	 * is in flight. 6.14 is the first to tell that it is newer.
	 */
	ring->io.accepts_direct = ring->has_buffers && !(mask & WEIR__URING_FIXED) &&
				  ring->uring.features & WEIR__URING_FEAT_RW_ATTR &&
				  has_op(probe, WEIR__URING_OP_FIXED_FD_INSTALL);
	/* from some 5.10 and 5.15 on, until 6.1: MSG_WAITALL sends on, and its count is lost */
	ring->loses_sent = !has_op(probe, IORING_OP_SENDMSG_ZC);
	ring->has_msg_ring = has_op(probe, IORING_OP_MSG_RING) && !(mask & WEIR__URING_MSG_RING);
	ring->io.file_codes = mask & WEIR__URING_FILES ? 0 : weir__ring_file_codes(probe);
	free(probe);
	return 0;
}

static void register_extras(struct weir__ring *ring, const struct weir__config *config,
			    unsigned files)
{
	/* bounded: files that cannot wait otherwise; unbounded: nothing of ours should need them */
	unsigned iowq[2] = { 4, 16 };

	(void)io_uring_register_iowq_max_workers(&ring->uring, iowq);
	(void)io_uring_ring_dontfork(&ring->uring);
	if (!(config->uring_mask & WEIR__URING_RING_FD) &&
	    io_uring_register_ring_fd(&ring->uring) == 1)
		ring->enter_flags |= IORING_ENTER_REGISTERED_RING;
	if (ring->uring.features & WEIR__URING_FEAT_NO_IOWAIT &&
	    !(config->uring_mask & WEIR__URING_NO_IOWAIT))
		ring->enter_flags |= WEIR__URING_ENTER_NO_IOWAIT;
	if (ring->uring.features & IORING_FEAT_CQE_SKIP &&
	    !(config->uring_mask & WEIR__URING_CQE_SKIP))
		ring->skip_success = IOSQE_CQE_SKIP_SUCCESS;
	if (ring->io.accepts_direct && io_uring_register_files_sparse(&ring->uring, files) < 0)
		ring->io.accepts_direct = false;
}

int weir__ring_setup(struct weir__ring *ring, const struct weir__config *config,
		     const char **ret_refused)
{
	struct io_uring_sq *sq = &ring->uring.sq;
	int err = open_uring(ring, config);

	*ret_refused = WEIR__SETUP_CALL;
	if (err < 0)
		return err;
	for (unsigned i = 0; i < sq->ring_entries; i++)
		sq->array[i] = i; /* the identity, for good: see enter() in ring.c */
	*ret_refused = WEIR__ENTER_CALL;
	err = io_uring_get_events(&ring->uring); /* of which there is none: may we enter? */
	if (err >= 0) {
		*ret_refused = "asking for its features";
		err = find_features(ring, config);
	}
	if (err < 0) {
		weir__uring_close(&ring->uring);
		return err;
	}
	register_extras(ring, config, weir__descriptors_max());
	ring->full_at = sq->sqe_tail +
			sq->ring_entries; /* nothing is queued, whatever the search has sent */
	return 0;
}
