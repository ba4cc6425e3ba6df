/* SPDX-License-Identifier: MIT */
/*
 * file_call.c: operations on files as system calls that block.
 *
 * Comes from: file.c, on threads of the pool "fs", which take no signals: SIGXFSZ least of all.
 */
#include "io/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int stat_it(const struct weir__file_op *file)
{
	struct stat *ret = file->op.data;

	if (!file->path)
		return fstat(file->handle.fd, ret);
	return fstatat(AT_FDCWD, file->path, ret, file->flags);
}

static ssize_t move(const struct weir__file_op *file)
{
	int fd = file->handle.fd;
	void *data = file->op.data;
	size_t len = file->op.len;

	if (file->op.code == WEIR__OP_FILE_READ)
		return file->offset < 0 ? read(fd, data, len) : pread(fd, data, len, file->offset);
	return file->offset < 0 ? write(fd, data, len) : pwrite(fd, data, len, file->offset);
}

/* Linux says EISDIR of a directory that is unlinked. */
static int remove_path(const char *path)
{
	if (unlink(path) == 0)
		return 0;
	return errno == EISDIR ? rmdir(path) : -1;
}

/* ---- Listing ------------------------------------------------------------ */

/* Names one behind the other, each with its zero. */
struct names {
	char *text;
	size_t len, room;
	size_t count;
};

static int add_name(struct names *names, const char *name)
{
	size_t bytes = strlen(name) + 1;

	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return 0;
	if (names->len + bytes > names->room) {
		size_t room = names->room * 2 + bytes + 1024;
		char *text = realloc(names->text, room);
		if (!text)
			return -ENOMEM;
		names->text = text;
		names->room = room;
	}
	memcpy(names->text + names->len, name, bytes);
	names->len += bytes;
	names->count++;
	return 0;
}

static int read_names(DIR *dir, struct names *names)
{
	const struct dirent *entry;
	int err = 0;

	do {
		errno = 0;
		entry = readdir(dir);
		err = entry ? add_name(names, entry->d_name) : -errno;
	} while (entry && err == 0);
	return err;
}

/* One block for the caller: the pointers, then what they point at. */
static int give_names(const struct names *names, char ***ret)
{
	size_t head = (names->count + 1) * sizeof(char *);
	char **list = weir_alloc(head + names->len);

	if (!list)
		return -ENOMEM;
	char *at = (char *)list + head;
	if (names->len)
		memcpy(at, names->text, names->len);
	for (size_t i = 0; i < names->count; i++) {
		list[i] = at;
		at += strlen(at) + 1;
	}
	list[names->count] = NULL;
	*ret = list;
	return (int)names->count;
}

static int list_names(const char *path, char ***ret)
{
	struct names names = { 0 };
	DIR *dir = opendir(path);

	if (!dir)
		return -errno;
	int err = read_names(dir, &names);
	(void)closedir(dir);
	int count = err < 0 ? err : give_names(&names, ret);
	free(names.text);
	return count;
}

/* ---- All of them -------------------------------------------------------- */

static ssize_t perform(struct weir__file_op *file)
{
	int fd = file->handle.fd;

	switch (file->op.code) {
	case WEIR__OP_FILE_READ:
	case WEIR__OP_FILE_WRITE:
		return move(file);
	case WEIR__OP_FILE_SYNC:
		return file->flags ? fdatasync(fd) : fsync(fd);
	case WEIR__OP_FILE_TRUNCATE:
		return ftruncate(fd, file->offset);
	case WEIR__OP_FILE_OPEN:
		return open(file->path, file->flags, file->mode);
	case WEIR__OP_FILE_STAT:
		return stat_it(file);
	case WEIR__OP_PATH_REMOVE:
		return remove_path(file->path);
	case WEIR__OP_PATH_RENAME:
		return rename(file->path, file->path_to);
	default:
		return mkdir(file->path, file->mode);
	}
}

int weir__file_perform(struct weir__file_op *file)
{
	ssize_t n;

	if (file->op.code == WEIR__OP_DIR_LIST)
		return list_names(file->path, file->op.data);
	if (file->op.code == WEIR__OP_FILE_CLOSE) { /* it is closed whatever it says */
		(void)close(file->handle.fd);
		return 0;
	}
	do {
		n = perform(file);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : (int)n;
}

int weir__file_read_cached(const struct weir__file_op *file)
{
	struct iovec part = { file->op.data, file->op.len };
	ssize_t n = preadv2(file->handle.fd, &part, 1, file->offset, RWF_NOWAIT);

	if (n >= 0)
		return (int)n;
	return errno == EOPNOTSUPP || errno == EINTR ? -EAGAIN : -errno;
}
