/* SPDX-License-Identifier: MIT */
/*
 * ring_file.c: operations on files as entries of io_uring.
 *
 * The kernel does what it can when it takes the entry, waits for the disk where the file system
 * knows how to, and gives the rest to threads of its own, of which ring_setup.c allows a few.
 */
#include "io/file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "io/uring_compat.h"

uint32_t weir__ring_file_codes(const struct io_uring_probe *probe)
{
	static const struct {
		uint8_t code, opcode;
	} known[] = {
		{ WEIR__OP_FILE_READ, IORING_OP_READ },
		{ WEIR__OP_FILE_WRITE, IORING_OP_WRITE },
		{ WEIR__OP_FILE_SYNC, IORING_OP_FSYNC },
		{ WEIR__OP_FILE_TRUNCATE, WEIR__URING_OP_FTRUNCATE },
		{ WEIR__OP_FILE_OPEN, IORING_OP_OPENAT },
		{ WEIR__OP_FILE_CLOSE, IORING_OP_CLOSE },
	};
	uint32_t codes = 0;

	for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
		if (known[i].opcode <= probe->last_op &&
		    probe->ops[known[i].opcode].flags & IO_URING_OP_SUPPORTED)
			codes |= UINT32_C(1) << known[i].code;
	return codes;
}

void weir__ring_file_fill(const struct weir__op *op, struct io_uring_sqe *sqe)
{
	const struct weir__file_op *file = (const struct weir__file_op *)(const void *)op;
	int fd = file->handle.fd;

	switch (op->code) {
	case WEIR__OP_FILE_READ:
		io_uring_prep_read(sqe, fd, op->data, (unsigned)op->len, (uint64_t)file->offset);
		break;
	case WEIR__OP_FILE_WRITE:
		io_uring_prep_write(sqe, fd, op->data, (unsigned)op->len, (uint64_t)file->offset);
		break;
	case WEIR__OP_FILE_SYNC:
		io_uring_prep_fsync(sqe, fd, file->flags ? IORING_FSYNC_DATASYNC : 0);
		break;
	case WEIR__OP_FILE_TRUNCATE:
		io_uring_prep_rw(WEIR__URING_OP_FTRUNCATE, sqe, fd, NULL, 0,
				 (uint64_t)file->offset);
		break;
	case WEIR__OP_FILE_OPEN:
		io_uring_prep_openat(sqe, AT_FDCWD, file->path, file->flags, file->mode);
		break;
	case WEIR__OP_FILE_CLOSE:
		io_uring_prep_close(sqe, fd);
		break;
	}
}
