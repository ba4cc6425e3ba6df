/* SPDX-License-Identifier: MIT */
/*
 * probe.h: what this machine allows, found by trying, and what to say when it is not enough.
 *
 * Kernel versions are never compared: distributions move features both ways, and containers take
 * them away.
 */
#ifndef WEIR_PROBE_H
#define WEIR_PROBE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <weir/io.h>

/*
 * XX(field, what, needed): each is tried on a ring of its own. `needed` is what gives it and what
 * it costs.
 */
/* clang-format off */
#define WEIR_PROBE_MAP(XX) \
	XX(accept_multi, "multishot accept", "Linux 5.19; else an entry for each connection") \
	XX(recv_multi, "multishot receive", "Linux 6.0; else an entry for each receive") \
	XX(bufring, "provided-buffer rings", "Linux 5.19; else receives wait by polling") \
	XX(accept_direct, "direct accept", "Linux 5.19; else a descriptor for each connection") \
	XX(fixed_fd_install, "direct to descriptor", "Linux 6.8; else no direct accept") \
	XX(msg_ring, "messages between rings", "Linux 5.18; else workers wake by eventfd") \
	XX(ring_fd, "registered ring", "Linux 5.18; else entering the kernel costs more") \
	XX(cancel_any, "cancel everything", "Linux 5.19; else a ring ends one by one") \
	XX(send_zc, "zero-copy send", "Linux 6.0; else large sends are copied") \
	XX(ext_arg, "waiting with a deadline", "Linux 5.11; else epoll") \
	XX(no_iowait, "waiting not as I/O wait", "Linux 6.15; else idle time shows as I/O wait")
/* clang-format on */

struct weir__probe {
	int setup_err;	      /* 0, or why io_uring_setup refused even its plainest form */
	unsigned setup_flags; /* IORING_SETUP_* of the best rung that was accepted */
	const char *setup;    /* that rung's name; NULL when refused */
	bool guard_madvise;   /* MADV_GUARD_INSTALL: stacks without a mapping each */
#define XX(field, ...) bool field;
	WEIR_PROBE_MAP(XX)
#undef XX
	int64_t io_uring_disabled; /* the sysctls: -1 where there is none */
	int64_t io_uring_group;
	int64_t max_map_count;
	int64_t somaxconn;
	int seccomp_mode;	/* 0 none, 1 strict, 2 a filter, -1 not known */
	uint64_t memlock_bytes; /* the limits in force; UINT64_MAX: none */
	uint64_t descriptors;
	uint64_t descriptors_hard;
	unsigned cpus;	       /* this process may run on */
	const char *container; /* "docker", "podman", "kubernetes", or NULL */
	char kernel[80];       /* "6.18.44 x86_64" */
	char clock[32];	       /* the kernel's clock source; "" when not known */
};

/*
 * Tries. Takes some milliseconds and a few descriptors. Returns 0, whatever was refused; or
 * -EMFILE, -ENFILE, -ENOMEM when there was not enough to try with.
 */
WEIR_MUST int weir__probe_run(struct weir__probe *ret);

/* What is refused as a rule. Anything else on the way to a ring has other causes. */
#define WEIR__SETUP_CALL "io_uring_setup"
#define WEIR__ENTER_CALL "io_uring_enter"

/*
 * Says why `refused` ended with `err`, as far as this machine tells: what was looked at, the likely
 * cause, what to type. Ends with what happens now: epoll; or, in the second form, nothing.
 */
void weir__probe_explain_refusal(FILE *out, const char *refused, int err);
void weir__probe_explain_refusal_as_error(FILE *out, const char *refused, int err);

#endif
