/* SPDX-License-Identifier: MIT */
/*
 * file.c: files: open, read, write, sync, close; and the names of files.
 *
 * Comes from: user code. Goes to: the driver, where it does such an operation itself (the ring, the
 * simulator); else to file_call.c on a thread of the pool "fs".
 *
 * The hard idea: an operation borrows the caller's memory, so it is never left behind. Cancelling
 * asks for its end; what is in a queue ends at once, what is with a disk when the disk is done.
 * Hence a file needs no list of what is in flight on it, and belongs to no worker: it is a
 * descriptor and a count of the calls inside.
 */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "alloc/opts.h"
#include "runtime/wait.h"

/* Of one operation: a worker that copies it out of the page cache is held for 0.1 ms. */
enum { MOVE_BYTES_MAX = 1 << 20, PART_BYTES = 1 << 16 };

/* Of weir_file.calls: closing; the other bits count the calls inside. */
#define CLOSING (UINT32_C(1) << 31)

struct weir_file {
	int fd;
	int direct;		   /* O_DIRECT, or 0 */
	_Atomic uint32_t calls;	   /* any worker */
	struct weir__task *closer; /* written before CLOSING is set, read by the last call after */
};

/* ---- One operation ------------------------------------------------------ */

const char *weir__file_op_name(unsigned code)
{
	static const char *const names[] = {
		[WEIR__OP_FILE_READ] = "read",	   [WEIR__OP_FILE_WRITE] = "write",
		[WEIR__OP_FILE_SYNC] = "sync",	   [WEIR__OP_FILE_TRUNCATE] = "truncate",
		[WEIR__OP_FILE_OPEN] = "open",	   [WEIR__OP_FILE_CLOSE] = "close",
		[WEIR__OP_FILE_STAT] = "stat",	   [WEIR__OP_PATH_REMOVE] = "remove",
		[WEIR__OP_PATH_RENAME] = "rename", [WEIR__OP_DIR_MAKE] = "make",
		[WEIR__OP_DIR_LIST] = "list",
	};

	return names[code];
}

void weir__file_describe(const struct weir__op *op, char *ret, size_t cap)
{
	const struct weir__file_op *file = (const struct weir__file_op *)(const void *)op;

	if (file->path)
		snprintf(ret, cap, "file %s of %s", weir__file_op_name(op->code), file->path);
	else
		snprintf(ret, cap, "file %s on fd %d", weir__file_op_name(op->code),
			 file->handle.fd);
}

static void count(struct weir__io *io, const struct weir__op *op)
{
	struct weir__file_counts *counts = &io->files;
	int64_t bytes = op->res > 0 ? op->res : 0;

	if (op->code == WEIR__OP_FILE_READ) {
		weir__count(&counts->reads, 1);
		weir__count(&counts->read_bytes, bytes);
	} else if (op->code == WEIR__OP_FILE_WRITE) {
		weir__count(&counts->writes, 1);
		weir__count(&counts->written_bytes, bytes);
	} else {
		weir__count(&counts->others, 1);
	}
}

/*
 * A write beyond RLIMIT_FSIZE sends SIGXFSZ to its thread, and an entry of the ring is worked on by
 * the worker's: where there is a limit, a thread of the pool writes, which takes no signals.
 */
static bool is_limited(void)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
}

static bool is_drivers(const struct weir__io *io, unsigned code)
{
	return io->file_codes >> code & 1 &&
	       (code != WEIR__OP_FILE_WRITE || weir__virtual || !is_limited());
}

static int call(void *arg)
{
	return weir__file_perform(arg);
}

static int run_in_pool(struct weir__worker *self, struct weir__file_op *file)
{
	int res;
	int err = weir_blocking(call, file, .pool = weir__blocking_fs(self), .ret_result = &res);
	if (err == 0)
		weir__count(&weir__io_of(self)->files.pooled, 1);
	return err < 0 ? err : res;
}

/*
 * What is in memory is read at once: a system call of 0.3 us on /dev/zero, where a round through
 * the ring takes 0.8. A large part counts as more than one operation.
 */
static int read_at_once(struct weir__worker *self, const struct weir__file_op *file)
{
	int res = -EAGAIN;

	if (file->op.code == WEIR__OP_FILE_READ && !(file->flags & O_DIRECT) && !weir__virtual)
		res = weir__file_read_cached(file);
	for (int left = res; left >= 0; left -= PART_BYTES)
		weir__budget_spend(self);
	return res;
}

/*
 * The ring may refuse what a thread can do (-EAGAIN: no memory for it, a file that io_uring cannot
 * wait for), and may be interrupted where it was not cancelled.
 */
static int run_anywhere(struct weir__worker *self, struct weir__file_op *file)
{
	struct weir__io *io = weir__io_of(self);
	int res = -EAGAIN;

	if (is_drivers(io, file->op.code)) {
		res = weir__op_run(io, &file->op);
		/* of a close it says what flushing has met: the descriptor is gone */
		if (res == -EINTR && file->op.code != WEIR__OP_FILE_CLOSE)
			res = -EAGAIN;
	}
	return res == -EAGAIN && !weir__virtual ? run_in_pool(self, file) : res;
}

int weir__file_run(struct weir__worker *self, struct weir__file_op *file)
{
	int err = weir__interrupted(self, self->current);

	if (err < 0)
		return err;
	int res = read_at_once(self, file);
	if (res == -EAGAIN)
		res = run_anywhere(self, file);
	file->op.res = res;
	count(weir__io_of(self), &file->op);
	return res;
}

/* A read is short at the end of the file, and now and then before it: nothing tells but the next.
 */
ssize_t weir__file_move(struct weir__worker *self, struct weir__file_op *plan, void *data,
			size_t len)
{
	size_t moved = 0;
	int n;

	do {
		size_t left = len - moved;
		plan->op.data = (char *)data + moved;
		plan->op.len = left < MOVE_BYTES_MAX ? left : MOVE_BYTES_MAX;
		n = weir__file_run(self, plan);
		if (n > 0) {
			moved += (size_t)n;
			plan->offset += plan->offset < 0 ? 0 : n;
		}
	} while (n > 0 && moved < len);
	return moved > 0 ? (ssize_t)moved : n;
}

/* Should no thread be had for it, or the runtime be stopping hard, this one closes. */
void weir__file_fd_close(struct weir__worker *self, int fd)
{
	struct weir__io *io = weir__io_of(self);
	struct weir__file_op file;
	WEIR_SHIELD(shield, WEIR_FOREVER);

	weir__file_op_init(&file, WEIR__OP_FILE_CLOSE, fd);
	int err = weir__virtual ? -ECANCELED : weir__file_run(self, &file);
	if (err == -ECANCELED || err == -ETIME || err == -EAGAIN || err == -ENOMEM)
		io->ops->close(io, &file.handle);
}

/* ---- Open and close ----------------------------------------------------- */

/* 0, or why the running task may not wait. */
static int may_run(struct weir__worker *self)
{
	return self && self->current ? 0 : -EINVAL;
}

/*
 * O_NONBLOCK, so that opening a FIFO waits for nobody; it goes again, for io_uring takes it for a
 * wish not to wait for the disk. What has no offsets is none of ours.
 */
static int settle(int fd, int flags)
{
	if (lseek(fd, 0, SEEK_CUR) < 0 && errno == ESPIPE)
		return -ESPIPE;
	return fcntl(fd, F_SETFL, flags & (O_APPEND | O_DIRECT | O_NOATIME)) < 0 ? -errno : 0;
}

static int open_fd(struct weir__worker *self, const char *path, int flags, unsigned mode)
{
	struct weir__file_op file;

	weir__file_op_init(&file, WEIR__OP_FILE_OPEN, -1);
	file.path = path;
	file.flags = flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
	file.mode = mode;
	int fd = weir__file_run(self, &file);
	int err = fd < 0 || weir__virtual || flags & O_PATH ? 0 : settle(fd, flags);
	if (err < 0)
		(void)close(fd);
	return err < 0 ? err : fd;
}

int weir_file_open_with(weir_file **ret, const struct weir_file_opts *opts)
{
	struct weir__worker *self = weir__worker_self();
	struct weir_file_opts known = { 0 };
	int err = weir__opts_copy(&known, sizeof known, opts, opts->size);

	if (err == 0)
		err = known.path ? may_run(self) : -EINVAL;
	if (err < 0)
		return err;
	weir_file *file = weir_alloc(sizeof *file);
	if (!file)
		return -ENOMEM;
	int fd = open_fd(self, known.path, known.flags, known.mode ? known.mode : 0666);
	if (fd < 0) {
		weir_free(file);
		return fd;
	}
	file->fd = fd;
	file->direct = known.flags & O_DIRECT;
	file->closer = NULL;
	atomic_init(&file->calls, 0);
	*ret = file;
	return 0;
}

/* The last one out wakes who waits to close; the file may be gone then. */
static void leave(weir_file *file, struct weir__worker *self)
{
	/* release: pairs with the acquire of weir_file_close(); acquire: `closer` is set */
	if (atomic_fetch_sub_explicit(&file->calls, 1, memory_order_acq_rel) == (CLOSING | 1))
		weir__wake_from(self, file->closer);
}

/*
 * A call begins: 0, or why it may not. One that comes too late has never been counted: its leaving
 * would wake a closer that waits for something else by then.
 */
static int enter(weir_file *file, struct weir__worker *self)
{
	int err = may_run(self);
	uint32_t calls = atomic_load_explicit(&file->calls, memory_order_relaxed);

	if (err < 0)
		return err;
	do {
		if (calls & CLOSING)
			return -EBADF;
		/* relaxed: leave() orders what the call has done before the close */
	} while (!atomic_compare_exchange_weak_explicit(
		&file->calls, &calls, calls + 1, memory_order_relaxed, memory_order_relaxed));
	return 0;
}

void weir_file_close(weir_file *file)
{
	struct weir__worker *self = weir__worker_self();

	if (!file)
		return;
	WEIR_ASSERT(self && self->current);
	file->closer = self->current;
	if (atomic_fetch_or_explicit(&file->calls, CLOSING, memory_order_acq_rel))
		weir__park_for(self, "file close");
	weir__file_fd_close(self, file->fd);
	weir_free(file);
}

/* ---- Calls on an open file ---------------------------------------------- */

static ssize_t move(weir_file *file, enum weir__op_code code, void *data, size_t len,
		    int64_t offset)
{
	struct weir__worker *self = weir__worker_self();
	struct weir__file_op plan;

	if (offset < 0 || len > (size_t)(INT64_MAX - offset))
		return -EINVAL;
	int err = enter(file, self);
	if (err < 0)
		return err;
	weir__file_op_init(&plan, code, file->fd);
	plan.offset = offset;
	plan.flags = file->direct;
	ssize_t n = weir__file_move(self, &plan, data, len);
	leave(file, self);
	return n;
}

ssize_t weir_file_read_at(weir_file *file, void *ret, size_t len, int64_t offset)
{
	return move(file, WEIR__OP_FILE_READ, ret, len, offset);
}

ssize_t weir_file_write_at(weir_file *file, const void *data, size_t len, int64_t offset)
{
	return move(file, WEIR__OP_FILE_WRITE, (void *)data, len, offset);
}

/* `plan` without its descriptor. */
static int run_on(weir_file *file, struct weir__file_op *plan)
{
	struct weir__worker *self = weir__worker_self();
	int err = enter(file, self);

	if (err < 0)
		return err;
	plan->handle.fd = file->fd;
	int res = weir__file_run(self, plan);
	leave(file, self);
	return res;
}

static int sync_file(weir_file *file, bool data_alone)
{
	struct weir__file_op plan;

	weir__file_op_init(&plan, WEIR__OP_FILE_SYNC, -1);
	plan.flags = data_alone;
	return run_on(file, &plan);
}

int weir_file_sync(weir_file *file)
{
	return sync_file(file, false);
}

int weir_file_sync_data(weir_file *file)
{
	return sync_file(file, true);
}

int weir_file_truncate(weir_file *file, int64_t bytes)
{
	struct weir__file_op plan;

	if (bytes < 0)
		return -EINVAL;
	weir__file_op_init(&plan, WEIR__OP_FILE_TRUNCATE, -1);
	plan.offset = bytes;
	return run_on(file, &plan);
}

int weir_file_stat(weir_file *file, struct stat *ret)
{
	struct weir__file_op plan;
	struct stat found;

	weir__file_op_init(&plan, WEIR__OP_FILE_STAT, -1);
	plan.op.data = &found;
	int err = run_on(file, &plan);
	if (err == 0)
		*ret = found;
	return err;
}

int64_t weir_file_size(weir_file *file)
{
	struct stat found;
	int err = weir_file_stat(file, &found);

	return err < 0 ? err : found.st_size;
}

/* ---- Whole files -------------------------------------------------------- */

enum { LOAD_BYTES_FIRST = 4096 };

/*
 * Reads on to the end; *block grows as it must, for a size may say nothing (/proc). Fewer bytes
 * than asked for may be the end of a task's time, or of a disk: only none is that of the file.
 */
static ssize_t read_to_end(weir_file *file, size_t room, size_t bytes_max, char **block)
{
	size_t len = 0, had = 0;
	ssize_t n;

	do {
		if (room > bytes_max)
			room = bytes_max + 1; /* one more tells that there is too much */
		char *grown = room > had ? weir_realloc(*block, room + 1) : *block;
		if (!grown)
			return -ENOMEM;
		*block = grown;
		had = room;
		n = weir_file_read_at(file, grown + len, room - len, (int64_t)len);
		len += n > 0 ? (size_t)n : 0;
		if (len > bytes_max)
			return -EFBIG;
		room *= len == room ? 2 : 1;
	} while (n > 0);
	return n < 0 ? n : (ssize_t)len;
}

static ssize_t load(weir_file *file, size_t bytes_max, char **block)
{
	struct stat found;
	int err = weir_file_stat(file, &found);

	if (err < 0)
		return err;
	if (S_ISDIR(found.st_mode)) /* whose size says nothing */
		return -EISDIR;
	if ((uint64_t)found.st_size > bytes_max)
		return -EFBIG;
	/* a byte more than it has: so what comes at once is short of it */
	return read_to_end(file, found.st_size ? (size_t)found.st_size + 1 : LOAD_BYTES_FIRST,
			   bytes_max, block);
}

int weir_file_load(const char *path, size_t bytes_max, char **ret, size_t *ret_len)
{
	weir_auto_file file = NULL;
	char *block = NULL;

	if (bytes_max > (size_t)INT64_MAX - 2)
		bytes_max = (size_t)INT64_MAX - 2;
	int err = weir_file_open(&file, path, O_RDONLY);
	if (err < 0)
		return err;
	ssize_t len = load(file, bytes_max, &block);
	if (len < 0) {
		weir_free(block);
		return (int)len;
	}
	block[len] = '\0';
	*ret = block;
	*ret_len = (size_t)len;
	return 0;
}

/* ---- Names -------------------------------------------------------------- */

static int run_on_path(struct weir__file_op *plan, const char *path)
{
	struct weir__worker *self = weir__worker_self();
	int err = may_run(self);

	plan->path = path;
	return err < 0 ? err : weir__file_run(self, plan);
}

static int stat_path(const char *path, int flags, struct stat *ret)
{
	struct weir__file_op plan;
	struct stat found;

	weir__file_op_init(&plan, WEIR__OP_FILE_STAT, -1);
	plan.op.data = &found;
	plan.flags = flags;
	int err = run_on_path(&plan, path);
	if (err == 0)
		*ret = found;
	return err;
}

int weir_path_stat(const char *path, struct stat *ret)
{
	return stat_path(path, 0, ret);
}

int weir_path_lstat(const char *path, struct stat *ret)
{
	return stat_path(path, AT_SYMLINK_NOFOLLOW, ret);
}

int weir_path_remove(const char *path)
{
	struct weir__file_op plan;

	weir__file_op_init(&plan, WEIR__OP_PATH_REMOVE, -1);
	return run_on_path(&plan, path);
}

int weir_path_rename(const char *from, const char *to)
{
	struct weir__file_op plan;

	weir__file_op_init(&plan, WEIR__OP_PATH_RENAME, -1);
	plan.path_to = to;
	return run_on_path(&plan, from);
}

int weir_dir_make(const char *path, unsigned mode)
{
	struct weir__file_op plan;

	weir__file_op_init(&plan, WEIR__OP_DIR_MAKE, -1);
	plan.mode = mode;
	return run_on_path(&plan, path);
}

int weir_dir_list(const char *path, char ***ret)
{
	struct weir__file_op plan;
	char **names = NULL;

	weir__file_op_init(&plan, WEIR__OP_DIR_LIST, -1);
	plan.op.data = &names;
	int count = run_on_path(&plan, path);
	if (count >= 0)
		*ret = names;
	return count;
}

/* ---- Counters ----------------------------------------------------------- */

void weir_file_stats_get(struct weir_file_stats *ret)
{
	struct weir__worker *self = weir__worker_self();

	*ret = (struct weir_file_stats){ 0 };
	for (unsigned i = 0; self && i < self->runtime->workers_count; i++) {
		const struct weir__io *io = weir__io_of_any(self->runtime->workers[i]);
		if (!io)
			continue;
		const struct weir__file_counts *counts = &io->files;
		ret->reads += weir__peek(&counts->reads);
		ret->writes += weir__peek(&counts->writes);
		ret->read_bytes += weir__peek(&counts->read_bytes);
		ret->written_bytes += weir__peek(&counts->written_bytes);
		ret->others += weir__peek(&counts->others);
		ret->pooled += weir__peek(&counts->pooled);
	}
}
