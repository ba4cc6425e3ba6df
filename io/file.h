/* SPDX-License-Identifier: MIT */
/*
 * file.h: operations on files and names, whoever carries them out: a driver that says so in its
 * file_codes, or a thread that blocks. Their arguments lie on the stack of the task that waits.
 */
#ifndef WEIR_FILE_H
#define WEIR_FILE_H

#include "io/io_internal.h"

/* Where the descriptor stands, in place of an offset. */
#define WEIR__FILE_POSITION ((int64_t)-1)

struct weir__file_op {
	struct weir__op
		op; /* first. READ, WRITE: data, len. STAT: a struct stat. LIST: a char ** */
	struct weir__handle handle; /* the file; -1: what `path` names */
	int64_t offset;		    /* READ, WRITE; TRUNCATE: the size */
	const char *path;
	const char *path_to; /* RENAME */
	int flags;	     /* OPEN: open(2)'s. READ: O_DIRECT, or 0. SYNC: 1, the data alone.
				STAT of a path: AT_SYMLINK_NOFOLLOW, or 0 */
	unsigned mode;	     /* OPEN, DIR_MAKE */
};

static inline void weir__file_op_init(struct weir__file_op *file, enum weir__op_code code, int fd)
{
	weir__op_init(&file->op, code, &file->handle);
	file->handle = (struct weir__handle){ .fd = fd };
	file->path = NULL;
}

static inline struct weir__file_op *weir__file_op_of(struct weir__op *op)
{
	return (struct weir__file_op *)(void *)op;
}

/* "read", "rename": for people and scripts. */
const char *weir__file_op_name(unsigned code);
void weir__file_describe(const struct weir__op *op, char *ret, size_t cap);

/* One operation, on the driver or in the pool. Parks. Returns its result. */
int weir__file_run(struct weir__worker *self, struct weir__file_op *file);

/* `plan`, a READ or WRITE, as often as needed: until all is moved, nothing more comes or it fails.
 */
ssize_t weir__file_move(struct weir__worker *self, struct weir__file_op *plan, void *data,
			size_t len);

/* Closes a descriptor. Parks, without being a cancellation point. */
void weir__file_fd_close(struct weir__worker *self, int fd);

/* On the calling thread, which it may block: the result or -errno. */
int weir__file_perform(struct weir__file_op *file);
/* A READ only of what is in memory, not of O_DIRECT; -EAGAIN where that cannot be had. */
int weir__file_read_cached(const struct weir__file_op *file);

/* ring_file.c: what this kernel's io_uring can do of it; and the entry for it. */
struct io_uring_probe;
struct io_uring_sqe;
uint32_t weir__ring_file_codes(const struct io_uring_probe *probe);
void weir__ring_file_fill(const struct weir__op *op, struct io_uring_sqe *sqe);

#endif
