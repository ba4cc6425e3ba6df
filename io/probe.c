/* SPDX-License-Identifier: MIT */
/*
 * probe.c: tries what a runtime would like to use, and explains what it does not get.
 *
 * Features of io_uring are found by doing them once, on a throw-away ring over Unix sockets: an
 * opcode that is listed may still lack the flag that matters. Limits and sysctls are read for the
 * explanations only.
 */
#include "io/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "io/ring.h"
#include "io/uring_compat.h"
#include "runtime/affinity.h"
#include "runtime/fatal.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102 /* Linux 6.13 */
#endif

enum {
	ENTRIES = 8,
	BUFFERS = 8,
	SLOTS = 2,
	PAGE_BYTES = 65536, /* the largest page there is, so that it is a multiple of any */
	GROUP = 0,
	DESCRIPTORS_WANTED = 65536,
	BACKLOG_WANTED = 4096,
	MAPPINGS_WANTED = 1 << 20,
};
#define WAIT_MAX                                                                                   \
	(&(struct __kernel_timespec){ .tv_sec = 1 }) /* for a completion that never comes */

/* ---- The ladder --------------------------------------------------------- */

static const struct rung {
	const char *name;
	unsigned flags;
} ladder[] = {
	{ "DEFER_TASKRUN", IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
				   IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL |
				   IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE },
	{ "COOP_TASKRUN", IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
				  IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CLAMP |
				  IORING_SETUP_CQSIZE },
	{ "no flags", 0 },
};

static int open_ring(struct io_uring *ring, unsigned flags)
{
	struct io_uring_params params = { .flags = flags, .cq_entries = 4 * ENTRIES };
	return weir__uring_open(ring, ENTRIES, &params);
}

/*
 * Only "I do not know these flags" leads a rung down; any other refusal would meet the next rung
 * too.
 */
static void climb(struct weir__probe *probe)
{
	for (size_t i = 0; i < sizeof(ladder) / sizeof(*ladder); i++) {
		struct io_uring ring;
		probe->setup_err = open_ring(&ring, ladder[i].flags);
		if (probe->setup_err == -EINVAL)
			continue;
		if (probe->setup_err < 0)
			return;
		probe->setup = ladder[i].name;
		probe->setup_flags = ladder[i].flags;
		probe->ext_arg = ring.features & IORING_FEAT_EXT_ARG;
		probe->no_iowait = ring.features & WEIR__URING_FEAT_NO_IOWAIT;
		weir__uring_close(&ring);
		return;
	}
}

/* ---- Trials ------------------------------------------------------------- */

/* A ring, a listening socket with a client in its queue, a connected pair, a page for buffers. */
struct trial {
	struct io_uring ring;
	int listener, client, pair[2];
	char *page;
};

static struct io_uring_sqe *entry(struct trial *trial)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&trial->ring);
	WEIR_ASSERT(sqe != NULL); /* no trial fills the queue */
	memset(sqe, 0, sizeof(*sqe));
	return sqe;
}

/* Submits, waits for one completion, gives its flags. Returns its result; -ETIME when none came. */
static int result(struct trial *trial, unsigned *ret_flags)
{
	struct io_uring_cqe *cqe;
	int err = io_uring_submit(&trial->ring);
	if (err < 0)
		return err;
	err = io_uring_wait_cqe_timeout(&trial->ring, &cqe, WAIT_MAX);
	if (err < 0)
		return err;
	int res = cqe->res;
	*ret_flags = cqe->flags;
	io_uring_cqe_seen(&trial->ring, cqe);
	return res;
}

static bool try_accept_multi(struct trial *trial)
{
	unsigned flags;
	io_uring_prep_multishot_accept(entry(trial), trial->listener, NULL, NULL, SOCK_CLOEXEC);
	int fd = result(trial, &flags);
	if (fd < 0)
		return false;
	close(fd);
	return flags & IORING_CQE_F_MORE;
}

static bool try_bufring(struct trial *trial)
{
	struct io_uring_buf_ring *buffers = (void *)trial->page;
	struct io_uring_buf_reg reg = {
		.ring_addr = (uintptr_t)trial->page,
		.ring_entries = BUFFERS,
		.bgid = GROUP,
	};
	if (io_uring_register_buf_ring(&trial->ring, &reg, 0) < 0)
		return false;
	io_uring_buf_ring_init(buffers);
	for (unsigned short i = 0; i < BUFFERS; i++)
		io_uring_buf_ring_add(buffers, trial->page + PAGE_BYTES / 2, 64, i, BUFFERS - 1, i);
	io_uring_buf_ring_advance(buffers, BUFFERS);
	return true;
}

static bool try_recv_multi(struct trial *trial)
{
	unsigned flags;
	if (!try_bufring(trial) || write(trial->pair[1], "x", 1) != 1)
		return false;
	struct io_uring_sqe *sqe = entry(trial);
	io_uring_prep_recv_multishot(sqe, trial->pair[0], NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP;
	return result(trial, &flags) == 1 && (flags & IORING_CQE_F_MORE);
}

/* Returns the slot of a connection in the ring's own table, or -errno. */
static int accept_direct(struct trial *trial)
{
	unsigned flags;
	int err = io_uring_register_files_sparse(&trial->ring, SLOTS);
	if (err < 0)
		return err;
	struct io_uring_sqe *sqe = entry(trial);
	io_uring_prep_accept(sqe, trial->listener, NULL, NULL, 0);
	/* io_uring_prep_accept_direct() of liburing 2.3 adds 1 to this, and gets a descriptor. */
	sqe->file_index = IORING_FILE_INDEX_ALLOC;
	return result(trial, &flags);
}

static bool try_accept_direct(struct trial *trial)
{
	return accept_direct(trial) >= 0;
}

static bool try_fixed_fd_install(struct trial *trial)
{
	unsigned flags;
	int slot = accept_direct(trial);
	if (slot < 0)
		return false;
	struct io_uring_sqe *sqe = entry(trial);
	sqe->opcode = WEIR__URING_OP_FIXED_FD_INSTALL;
	sqe->fd = slot;
	sqe->flags = IOSQE_FIXED_FILE;
	int fd = result(trial, &flags);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

static bool try_msg_ring(struct trial *trial)
{
	struct io_uring other;
	unsigned flags;
	if (open_ring(&other, 0) < 0)
		return false;
	io_uring_prep_msg_ring(entry(trial), other.ring_fd, 1, 2, 0);
	bool good = result(trial, &flags) >= 0;
	weir__uring_close(&other);
	return good;
}

static bool try_ring_fd(struct trial *trial)
{
	return io_uring_register_ring_fd(&trial->ring) == 1;
}

/* Finds nothing to cancel, and says so if it knows the flag. */
static bool try_cancel_any(struct trial *trial)
{
	unsigned flags;
	io_uring_prep_cancel(entry(trial), NULL, IORING_ASYNC_CANCEL_ANY);
	int res = result(trial, &flags);
	return res >= 0 || res == -ENOENT;
}

/* Not tried: it needs a route, and over loopback it copies. */
static bool try_send_zc(struct trial *trial)
{
	struct io_uring_probe *list = io_uring_get_probe_ring(&trial->ring);
	bool good = list != NULL && io_uring_opcode_supported(list, IORING_OP_SEND_ZC);
	io_uring_free_probe(list);
	return good;
}

/* The listener's name is one the kernel picks. */
static int open_sockets(struct trial *trial)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct sockaddr *any = (struct sockaddr *)&address;
	socklen_t len = sizeof(address);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, trial->pair) < 0)
		return -errno;
	trial->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	trial->client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (trial->listener < 0 || trial->client < 0 ||
	    bind(trial->listener, any, sizeof(address.sun_family)) < 0 ||
	    listen(trial->listener, 1) < 0 || getsockname(trial->listener, any, &len) < 0 ||
	    connect(trial->client, any, len) < 0)
		return -errno;
	return 0;
}

static void close_trial(struct trial *trial)
{
	const int fds[] = { trial->listener, trial->client, trial->pair[0], trial->pair[1] };
	for (size_t i = 0; i < sizeof(fds) / sizeof(*fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (trial->page != MAP_FAILED)
		munmap(trial->page, PAGE_BYTES);
}

/* Opens what a trial needs, tries, closes. Returns 0, or -errno when it could not be tried. */
static int attempt(const struct weir__probe *probe, bool (*trial_fn)(struct trial *), bool *ret)
{
	struct trial trial = { .listener = -1, .client = -1, .pair = { -1, -1 } };
	trial.page =
		mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int err = trial.page == MAP_FAILED ? -ENOMEM : open_sockets(&trial);
	if (err == 0)
		err = open_ring(&trial.ring, probe->setup_flags);
	if (err == 0) {
		*ret = trial_fn(&trial);
		weir__uring_close(&trial.ring);
	}
	close_trial(&trial);
	return err;
}

static int try_all(struct weir__probe *probe)
{
	const struct {
		bool (*fn)(struct trial *);
		bool *ret;
	} trials[] = {
		{ try_accept_multi, &probe->accept_multi },
		{ try_recv_multi, &probe->recv_multi },
		{ try_bufring, &probe->bufring },
		{ try_accept_direct, &probe->accept_direct },
		{ try_fixed_fd_install, &probe->fixed_fd_install },
		{ try_msg_ring, &probe->msg_ring },
		{ try_ring_fd, &probe->ring_fd },
		{ try_cancel_any, &probe->cancel_any },
		{ try_send_zc, &probe->send_zc },
	};
	for (size_t i = 0; i < sizeof(trials) / sizeof(*trials); i++) {
		int err = attempt(probe, trials[i].fn, trials[i].ret);
		if (err < 0)
			return err;
	}
	return 0;
}

/* ---- What the machine says ---------------------------------------------- */

/* The beginning of a small file, without its last newline; "" when it cannot be read. */
static void read_text(const char *path, char *ret, size_t cap)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? 0 : read(fd, ret, cap - 1);
	if (fd >= 0)
		close(fd);
	ret[len > 0 ? len : 0] = '\0';
	ret[strcspn(ret, "\n")] = '\0';
}

static int64_t read_number(const char *path)
{
	char text[32], *end;
	read_text(path, text, sizeof(text));
	long long number = strtoll(text, &end, 10);
	return end == text ? -1 : number;
}

static int read_seccomp_mode(void)
{
	char line[256];
	int mode = -1;
	FILE *status = fopen("/proc/thread-self/status", "re");
	while (status != NULL && fgets(line, sizeof(line), status) != NULL)
		if (sscanf(line, "Seccomp: %d", &mode) == 1)
			break;
	if (status != NULL)
		fclose(status);
	return mode;
}

static const char *find_container(void)
{
	if (secure_getenv("KUBERNETES_SERVICE_HOST") != NULL)
		return "kubernetes";
	if (access("/run/.containerenv", F_OK) == 0)
		return "podman";
	return access("/.dockerenv", F_OK) == 0 ? "docker" : NULL;
}

static uint64_t limit(rlim_t value)
{
	return value == RLIM_INFINITY ? UINT64_MAX : (uint64_t)value;
}

static bool try_guard(void)
{
	char *page =
		mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return false;
	bool good = madvise(page, PAGE_BYTES, MADV_GUARD_INSTALL) == 0;
	munmap(page, PAGE_BYTES);
	return good;
}

static void look_around(struct weir__probe *probe)
{
	struct utsname name;
	struct rlimit memlock, descriptors;
	uname(&name);
	snprintf(probe->kernel, sizeof(probe->kernel), "%.60s %.16s", name.release, name.machine);
	getrlimit(RLIMIT_MEMLOCK, &memlock);
	getrlimit(RLIMIT_NOFILE, &descriptors);
	probe->memlock_bytes = limit(memlock.rlim_cur);
	probe->descriptors = limit(descriptors.rlim_cur);
	probe->descriptors_hard = limit(descriptors.rlim_max);
	probe->io_uring_disabled = read_number("/proc/sys/kernel/io_uring_disabled");
	probe->io_uring_group = read_number("/proc/sys/kernel/io_uring_group");
	probe->max_map_count = read_number("/proc/sys/vm/max_map_count");
	probe->somaxconn = read_number("/proc/sys/net/core/somaxconn");
	probe->seccomp_mode = read_seccomp_mode();
	probe->container = find_container();
	probe->cpus = weir__affinity_count_own();
	read_text("/sys/devices/system/clocksource/clocksource0/current_clocksource", probe->clock,
		  sizeof(probe->clock));
	probe->guard_madvise = try_guard();
}

int weir__probe_run(struct weir__probe *ret)
{
	struct weir__probe probe;
	memset(&probe, 0, sizeof(probe));
	look_around(&probe);
	climb(&probe);
	if (probe.setup_err == -EMFILE || probe.setup_err == -ENFILE)
		return probe.setup_err;
	int err = probe.setup_err < 0 ? 0 : try_all(&probe);
	if (err < 0)
		return err;
	*ret = probe;
	return 0;
}

/* ---- Why io_uring was refused ------------------------------------------- */

enum cause {
	CAUSE_UNKNOWN,
	CAUSE_SYSCTL,
	CAUSE_SECCOMP,
	CAUSE_KERNEL,
	CAUSE_MEMLOCK,
	CAUSE_DESCRIPTORS
};

static enum cause find_cause(const struct weir__probe *probe, const char *refused, int err)
{
	if (err == -EMFILE || err == -ENFILE)
		return CAUSE_DESCRIPTORS;
	if (strcmp(refused, WEIR__SETUP_CALL) != 0 && strcmp(refused, WEIR__ENTER_CALL) != 0)
		return CAUSE_UNKNOWN;
	if (err == -ENOMEM)
		return CAUSE_MEMLOCK;
	if (err == -EINVAL)
		return CAUSE_KERNEL;
	if (err != -EPERM && err != -EACCES && err != -ENOSYS)
		return CAUSE_UNKNOWN;
	if (err == -EPERM && probe->io_uring_disabled > 0)
		return CAUSE_SYSCTL;
	if (probe->seccomp_mode == 2)
		return CAUSE_SECCOMP;
	return err == -ENOSYS ? CAUSE_KERNEL : CAUSE_UNKNOWN;
}

static void say(FILE *out, const char *what, const char *verdict)
{
	fprintf(out, "weir:   %-37s %s\n", what, verdict);
}

static void say_limit(FILE *out, const char *what, uint64_t value, const char *verdict)
{
	char text[64];
	if (value == UINT64_MAX)
		snprintf(text, sizeof(text), "%s = unlimited", what);
	else
		snprintf(text, sizeof(text), "%s = %llu", what, (unsigned long long)value);
	say(out, text, verdict);
}

static const char *seccomp_verdict(const struct weir__probe *probe, enum cause cause)
{
	if (cause != CAUSE_SECCOMP)
		return "may refuse it, too";
	return probe->container != NULL ? "likely cause: container profile"
					: "likely cause: the profile of this service";
}

/* The sysctl came with Linux 6.6; the profile may refuse with any error, mostly EPERM. */
static void say_permissions(FILE *out, const struct weir__probe *probe, enum cause cause)
{
	static const char *const sysctl_verdict[] = {
		"ok",
		"likely cause: for kernel.io_uring_group only",
		"likely cause: switched off for everybody",
	};
	int64_t disabled = probe->io_uring_disabled;
	if (disabled >= 0)
		say_limit(out, "kernel.io_uring_disabled", (uint64_t)disabled,
			  sysctl_verdict[disabled < 2 ? disabled : 2]);
	if (probe->seccomp_mode == 2)
		say(out, "seccomp filter active (mode 2)", seccomp_verdict(probe, cause));
	if (cause == CAUSE_UNKNOWN)
		say(out, "no seccomp filter, not switched off", "likely cause: a security module");
}

static const char *seccomp_fix(const struct weir__probe *probe)
{
	if (probe->container == NULL)
		return "a profile that allows io_uring_setup, io_uring_enter and io_uring_register";
	if (strcmp(probe->container, "kubernetes") == 0)
		return "securityContext: { seccompProfile: { type: Unconfined } }   "
		       "(or a profile that allows io_uring_*)";
	if (strcmp(probe->container, "podman") == 0)
		return "podman run --security-opt seccomp=unconfined \u2026   "
		       "(or a profile that allows io_uring_*)";
	return "docker run --security-opt seccomp=unconfined \u2026   (or a profile that allows "
	       "io_uring_*)";
}

static void say_cause(FILE *out, const struct weir__probe *probe, int err, enum cause cause)
{
	const char *fix = NULL;
	switch (cause) {
	case CAUSE_MEMLOCK:
		say_limit(out, "RLIMIT_MEMLOCK", probe->memlock_bytes,
			  "likely cause: rings count as locked memory before Linux 5.12");
		fix = "ulimit -l unlimited   (or LimitMEMLOCK=infinity in the service)";
		break;
	case CAUSE_DESCRIPTORS:
		say_limit(out, "open files (ulimit -n)", probe->descriptors,
			  "likely cause: all in use");
		fix = "ulimit -n 65536   (or LimitNOFILE=65536 in the service)";
		break;
	case CAUSE_KERNEL:
		say(out, probe->kernel,
		    "likely cause: older than Linux 5.11, or built without io_uring");
		break;
	case CAUSE_SYSCTL:
		fix = "sysctl kernel.io_uring_disabled=0";
		say_permissions(out, probe, cause);
		break;
	case CAUSE_SECCOMP:
		fix = seccomp_fix(probe);
		say_permissions(out, probe, cause);
		break;
	case CAUSE_UNKNOWN:
		if (err == -EPERM || err == -EACCES)
			say_permissions(out, probe, cause);
	}
	if (fix != NULL)
		fprintf(out, "weir:   try: %s\n", fix);
}

static void explain(FILE *out, const struct weir__probe *probe, const char *refused, int err)
{
	fprintf(out, "weir: io_uring is not available: %s: %s\n", refused, weir_errname(err));
	say_cause(out, probe, err, find_cause(probe, refused, err));
}

void weir__probe_explain_refusal(FILE *out, const char *refused, int err)
{
	struct weir__probe probe = { .setup_err = err };
	look_around(&probe);
	explain(out, &probe, refused, err);
	fputs("weir: using epoll instead. WEIR_DRIVER=uring makes this an error; WEIR_QUIET=1 "
	      "hides it.\n",
	      out);
}

void weir__probe_explain_refusal_as_error(FILE *out, const char *refused, int err)
{
	struct weir__probe probe = { .setup_err = err };
	look_around(&probe);
	explain(out, &probe, refused, err);
	fputs("weir: nothing was started; WEIR_DRIVER=epoll does without io_uring.\n", out);
}

/* ---- The doctor --------------------------------------------------------- */

/* `fix` is NULL for what is as it should be. */
static void report(FILE *out, const char *what, const char *value, const char *fix)
{
	fprintf(out, "  %-28s %-14s %s%s\n", what, value, fix == NULL ? "ok" : "",
		fix == NULL ? "" : fix);
}

static void report_number(FILE *out, const char *what, uint64_t value, const char *fix)
{
	char text[24] = "unlimited";
	if (value != UINT64_MAX)
		snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
	report(out, what, text, fix);
}

static const char *unless(bool is_good, const char *fix)
{
	return is_good ? NULL : fix;
}

static void report_uring(FILE *out, const struct weir__probe *probe)
{
	bool is_best = probe->setup_flags & IORING_SETUP_DEFER_TASKRUN;
	report(out, "io_uring", probe->setup, unless(is_best, "DEFER_TASKRUN needs Linux 6.1"));
#define XX(field, what, needed)                                                                    \
	report(out, what, probe->field ? "yes" : "no", unless(probe->field, "needs " needed));
	WEIR_PROBE_MAP(XX)
#undef XX
}

static void report_stacks(FILE *out, const struct weir__probe *probe)
{
	bool has_guards = probe->guard_madvise;
	report(out, "stack guards by madvise", has_guards ? "yes" : "no",
	       unless(has_guards, "needs Linux 6.13; else vm.max_map_count limits the tasks"));
	if (probe->max_map_count >= 0)
		report_number(out, "vm.max_map_count", (uint64_t)probe->max_map_count,
			      unless(has_guards || probe->max_map_count >= MAPPINGS_WANTED,
				     "try: sysctl vm.max_map_count=1048576"));
}

static void report_limits(FILE *out, const struct weir__probe *probe)
{
	const char *raise =
		probe->descriptors_hard >= DESCRIPTORS_WANTED
			? "try: ulimit -n 65536"
			: "try: ulimit -n 65536   (as root, or LimitNOFILE= in the service)";
	report_number(out, "open files (ulimit -n)", probe->descriptors,
		      unless(probe->descriptors >= DESCRIPTORS_WANTED, raise));
	if (probe->somaxconn >= 0)
		report_number(out, "net.core.somaxconn", (uint64_t)probe->somaxconn,
			      unless(probe->somaxconn >= BACKLOG_WANTED,
				     "try: sysctl net.core.somaxconn=4096"));
	report_number(out, "locked memory, bytes", probe->memlock_bytes, NULL);
}

static void report_clock(FILE *out, const struct weir__probe *probe)
{
	bool is_slow = strcmp(probe->clock, "hpet") == 0 || strcmp(probe->clock, "acpi_pm") == 0;
	if (probe->clock[0] != '\0')
		report(out, "clock source", probe->clock,
		       unless(!is_slow,
			      "slow: each look is a system call; try booting with tsc=reliable"));
}

void weir_doctor(FILE *out)
{
	struct weir__probe probe;
	int err = weir__probe_run(&probe);
	if (err < 0) {
		fprintf(out, "weir: cannot look: %s (%s)\n", weir_strerror(err), weir_errname(err));
		return;
	}
	fprintf(out, "weir %s on Linux %s, %u CPUs%s%s\n", WEIR_VERSION, probe.kernel, probe.cpus,
		probe.container != NULL ? ", in " : "",
		probe.container != NULL ? probe.container : "");
	if (probe.setup_err < 0)
		explain(out, &probe, WEIR__SETUP_CALL, probe.setup_err);
	else
		report_uring(out, &probe);
	report_stacks(out, &probe);
	report_limits(out, &probe);
	report_clock(out, &probe);
}
