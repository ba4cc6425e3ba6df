/* SPDX-License-Identifier: MIT */
/*
 * process.c: children: start, talk to, wait for, kill.
 *
 * A child is a pidfd, which becomes readable when it ends; so waiting is one poll operation, and no
 * signal is involved. Its standard streams are one end of a socket pair each, because connections
 * are sockets; for the child a socket reads and writes like a pipe. It inherits nothing else.
 *
 * posix_spawn() holds the worker until the child has called exec(): about a millisecond. In return
 * a program that is not there is an error of the call.
 */
#include "io/io_internal.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/count.h"
#include "alloc/opts.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

enum { STREAMS = 3 };

struct weir_process {
	struct weir__io *io;
	struct weir__handle handle; /* the pidfd */
	pid_t pid;
	bool has_ended; /* and was waited for: `status` holds */
	bool is_awaited;
	bool is_closing;
	struct weir__task *closer; /* parked until nobody waits */
	int status;		   /* as of waitpid(2), or -errno */
	weir_conn *streams[STREAMS];
};

/* ---- Starting ----------------------------------------------------------- */

/* The child's ends while it is being started; -1: none. */
struct ends {
	int child[STREAMS];
};

static void ends_close(struct ends *ends)
{
	for (int i = 0; i < STREAMS; i++)
		if (ends->child[i] >= 0)
			(void)close(ends->child[i]);
}

/* Out of the way of 0, 1 and 2, which the child's ends are moved to. */
static int above_streams(int fd)
{
	if (fd < 0 || fd >= STREAMS)
		return fd;
	int moved = fcntl(fd, F_DUPFD_CLOEXEC, STREAMS);
	int err = moved < 0 ? -errno : moved;
	(void)close(fd);
	return err;
}

static int open_pair(weir_process *process, int stream, struct ends *ends)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return -errno;
	fds[0] = above_streams(fds[0]);
	fds[1] = ends->child[stream] = above_streams(fds[1]);
	int err = fds[0] < 0 ? fds[0] : fds[1] < 0 ? fds[1] : 0;
	if (err == 0 && process->io->needs_nonblocking && fcntl(fds[0], F_SETFL, O_NONBLOCK) < 0)
		err = -errno;
	if (err == 0)
		err = weir__conn_new(process->io, fds[0], false, &process->streams[stream]);
	if (err < 0 && fds[0] >= 0)
		(void)close(fds[0]);
	return err;
}

static int open_stream(weir_process *process, int stream, enum weir_stdio kind, struct ends *ends)
{
	if (kind == WEIR_STDIO_PIPE)
		return open_pair(process, stream, ends);
	if (kind == WEIR_STDIO_NULL) {
		ends->child[stream] = above_streams(open("/dev/null", O_RDWR | O_CLOEXEC));
		return ends->child[stream] < 0 ? -errno : 0;
	}
	return kind == WEIR_STDIO_INHERIT ? 0 : -EINVAL;
}

/* Signals as a new program expects them; the child's ends in their places; nothing else open. */
static int prepare(posix_spawnattr_t *attr, posix_spawn_file_actions_t *actions,
		   const struct ends *ends, const char *cwd)
{
	sigset_t none, defaults;
	int err = 0;

	sigemptyset(&none);
	sigemptyset(&defaults);
	sigaddset(&defaults, SIGPIPE);
	(void)posix_spawnattr_setsigmask(attr, &none);
	(void)posix_spawnattr_setsigdefault(attr, &defaults);
	(void)posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	for (int i = 0; i < STREAMS && err == 0; i++)
		if (ends->child[i] >= 0)
			err = posix_spawn_file_actions_adddup2(actions, ends->child[i], i);
	if (err == 0)
		err = posix_spawn_file_actions_addclosefrom_np(actions, STREAMS);
	if (err == 0 && cwd)
		err = posix_spawn_file_actions_addchdir_np(actions, cwd);
	return -err;
}

static int start(weir_process *process, const struct weir_process_opts *opts,
		 const struct ends *ends)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	char *const *env = opts->env ? (char *const *)opts->env : environ;

	(void)posix_spawn_file_actions_init(&actions);
	(void)posix_spawnattr_init(&attr);
	int err = prepare(&attr, &actions, ends, opts->cwd);
	if (err == 0)
		err = -posix_spawnp(&process->pid, opts->argv[0], &actions, &attr,
				    (char *const *)opts->argv, env);
	(void)posix_spawnattr_destroy(&attr);
	(void)posix_spawn_file_actions_destroy(&actions);
	return err;
}

/* While nobody has waited for it: so long its number is its own. */
static bool is_child(pid_t pid)
{
	siginfo_t info;

	return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

/*
 * Where SIGCHLD is ignored the kernel buries a child as soon as it ends, perhaps before we are
 * here; its number may be a stranger's then.
 */
static int open_pidfd(weir_process *process)
{
	int fd = (int)syscall(SYS_pidfd_open, process->pid, 0);

	int err = fd < 0 ? -errno : 0;
	if (!is_child(process->pid)) { /* asked now: so it was ours when it was opened */
		if (fd >= 0)
			(void)close(fd);
		process->has_ended = true;
		process->status = -ECHILD;
		return 0;
	}
	process->handle.fd = fd; /* close-on-exec by itself */
	if (fd >= 0)
		return 0;
	(void)kill(process->pid, SIGKILL);
	(void)waitpid(process->pid, NULL, 0);
	return err;
}

static void process_free(weir_process *process)
{
	for (int i = 0; i < STREAMS; i++)
		weir_conn_close(process->streams[i]);
	weir_free(process);
}

int weir_process_spawn_with(weir_process **ret, const struct weir_process_opts *opts)
{
	struct weir__worker *self = weir__worker_self();
	struct weir_process_opts known = { 0 };
	struct ends ends = { { -1, -1, -1 } };

	int err = weir__opts_copy(&known, sizeof known, opts, opts->size);
	if (err < 0)
		return err;
	if (!self || !self->current || !known.argv || !known.argv[0])
		return -EINVAL;
	if (!self->runtime->watch)
		return -EOPNOTSUPP; /* the simulator has no other programs */
	weir_process *process = weir_alloc(sizeof *process);
	if (!process)
		return -ENOMEM;
	memset(process, 0, sizeof *process);
	process->io = weir__io_of(self);
	process->handle.fd = -1;
	const enum weir_stdio kinds[STREAMS] = { known.in, known.out, known.err };
	for (int i = 0; i < STREAMS && err == 0; i++)
		err = open_stream(process, i, kinds[i], &ends);
	if (err == 0)
		err = start(process, &known, &ends);
	ends_close(&ends);
	if (err == 0)
		err = open_pidfd(process);
	if (err < 0) {
		process_free(process);
		return err;
	}
	*ret = process;
	return 0;
}

/* ---- Waiting, killing --------------------------------------------------- */

/* Takes the child's end, if it has come or (block) when it comes. */
static void take_status(weir_process *process, bool block)
{
	siginfo_t info = { .si_pid = 0 };
	int err;

	do {
		err = waitid(P_PIDFD, (id_t)process->handle.fd, &info,
			     WEXITED | (block ? 0 : WNOHANG)) < 0
			      ? -errno
			      : 0;
	} while (err == -EINTR);
	if (err == 0 && info.si_pid == 0)
		return;
	process->has_ended = true;
	if (err < 0) /* SIGCHLD is ignored: the kernel has buried it */
		process->status = err;
	else if (info.si_code == CLD_EXITED)
		process->status = (info.si_status & 0xff) << 8;
	else
		process->status = info.si_status | (info.si_code == CLD_DUMPED ? 0x80 : 0);
}

/* Parks until the child has ended. Returns 0 or the reason it did not wait that long. */
static int await_end(weir_process *process)
{
	struct weir__op op = { .len = POLLIN };

	weir__op_init(&op, WEIR__OP_POLL, &process->handle);
	process->is_awaited = true;
	int res = weir__op_run(process->io, &op);
	process->is_awaited = false;
	return res < 0 ? res : 0;
}

/* Until it has ended, or 0 or why not. A closer waits until we are through with it. */
static int await_status(struct weir__worker *self, weir_process *process)
{
	int err = 0;

	while (!process->has_ended && err == 0) {
		err = process->is_closing ? -ECANCELED : weir__interrupted(self, self->current);
		if (err == 0)
			err = await_end(process);
		take_status(process, false);
	}
	if (process->closer)
		weir__ready(self, process->closer, 0);
	return process->has_ended ? 0 : err;
}

int weir_process_wait(weir_process *process, int *ret)
{
	struct weir__worker *self = weir__worker_self();

	if (process->io->worker != self)
		return -EXDEV;
	if (!self->current)
		return -EINVAL;
	if (process->is_closing)
		return -ECANCELED;
	if (process->is_awaited)
		return -EBUSY;
	int err = await_status(self, process);
	if (err == 0)
		err = process->status < 0 ? process->status : 0;
	if (err == 0)
		*ret = process->status;
	return err;
}

int weir_process_kill(weir_process *process, int number)
{
	if (process->io->worker != weir__worker_self())
		return -EXDEV;
	if (process->has_ended)
		return -ESRCH;
	return syscall(SYS_pidfd_send_signal, process->handle.fd, number, NULL, 0) < 0 ? -errno : 0;
}

/* A killed child ends soon; should waiting for it not be possible, the worker waits. */
static void bury(weir_process *process)
{
	WEIR_SHIELD(shield, WEIR_FOREVER);

	(void)weir_process_kill(process, SIGKILL);
	if (await_end(process) == 0)
		take_status(process, false);
	if (WEIR_COUNT(!process->has_ended, "a worker blocked until a killed child had ended"))
		take_status(process, true);
}

void weir_process_close(weir_process *process)
{
	if (!process)
		return;
	struct weir__worker *self = process->io->worker;
	WEIR_ASSERT(self == weir__worker_self() && self->current);
	process->is_closing = true;
	if (process->is_awaited) {
		weir__handle_cancel(process->io, &process->handle);
		process->closer = self->current;
		weir__park_for(self, "process close");
		process->closer = NULL;
	}
	if (!process->has_ended)
		bury(process);
	if (process->handle.fd >= 0)
		weir__handle_close(process->io, &process->handle);
	process_free(process);
}

/* ---- Asking ------------------------------------------------------------- */

int weir_process_id(const weir_process *process)
{
	return process->pid;
}

weir_conn *weir_process_stdin(const weir_process *process)
{
	return process->streams[0];
}

weir_conn *weir_process_stdout(const weir_process *process)
{
	return process->streams[1];
}

weir_conn *weir_process_stderr(const weir_process *process)
{
	return process->streams[2];
}
