/* SPDX-License-Identifier: MIT */
/*
 * sim_disk.c: the simulator's disk: files with holes, directories, and the faults of both.
 *
 * A name is a path as it was written, so "a/b" and "./a/b" are two; its directory must be there.
 * There are "/", "/tmp" and ".", where relative names begin, from the start. A file lives on while
 * it is open, whatever becomes of its name.
 */
#include "io/sim.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/file.h"

enum { PAGE_BYTES = 4096, FILE_BYTES_MAX_LOG2 = 60 };

struct page {
	uint64_t number;
	char *bytes;
};

struct weir__sim_node {
	struct weir__sim_node *next; /* of all */
	struct weir__sim_node **pprev;
	char *path;    /* NULL: removed */
	unsigned mode; /* its kind and permissions */
	unsigned opens;
	uint32_t number;
	uint64_t bytes;
	struct page *pages; /* by number; what is missing is a hole */
	size_t pages_count, pages_room;
	int64_t changed_ns;
};

/* ---- Bytes -------------------------------------------------------------- */

/* The place of the first page that is not before `number`. */
static size_t find_page(const struct weir__sim_node *node, uint64_t number)
{
	size_t low = 0, high = node->pages_count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		if (node->pages[middle].number < number)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool is_page(const struct weir__sim_node *node, size_t place, uint64_t number)
{
	return place < node->pages_count && node->pages[place].number == number;
}

/* NULL: no memory. */
static char *page_to_write(struct weir__sim_node *node, uint64_t number)
{
	size_t place = find_page(node, number);

	if (is_page(node, place, number))
		return node->pages[place].bytes;
	if (node->pages_count == node->pages_room) {
		size_t room = node->pages_room ? node->pages_room * 2 : 4;
		struct page *pages = realloc(node->pages, room * sizeof(*pages));
		if (!pages)
			return NULL;
		node->pages = pages;
		node->pages_room = room;
	}
	char *bytes = calloc(1, PAGE_BYTES);
	if (!bytes)
		return NULL;
	memmove(&node->pages[place + 1], &node->pages[place],
		(node->pages_count++ - place) * sizeof(*node->pages));
	node->pages[place] = (struct page){ number, bytes };
	return bytes;
}

/* What of `len` bytes at `at` lies in one page. */
static size_t part_of_page(uint64_t at, size_t len)
{
	size_t room = PAGE_BYTES - at % PAGE_BYTES;

	return len < room ? len : room;
}

static void copy_out(const struct weir__sim_node *node, uint64_t at, char *ret, size_t len)
{
	size_t part;

	for (; len > 0; at += part, ret += part, len -= part) {
		size_t place = find_page(node, at / PAGE_BYTES);
		part = part_of_page(at, len);
		if (is_page(node, place, at / PAGE_BYTES))
			memcpy(ret, node->pages[place].bytes + at % PAGE_BYTES, part);
		else
			memset(ret, 0, part);
	}
}

/* Returns how much it had memory for. */
static size_t copy_in(struct weir__sim_node *node, uint64_t at, const char *data, size_t len)
{
	size_t done = 0;

	while (done < len) {
		char *bytes = page_to_write(node, (at + done) / PAGE_BYTES);
		size_t part = part_of_page(at + done, len - done);
		if (!bytes)
			break;
		memcpy(bytes + (at + done) % PAGE_BYTES, data + done, part);
		done += part;
	}
	if (done > 0 && at + done > node->bytes)
		node->bytes = at + done;
	return done;
}

static void cut(struct weir__sim_node *node, uint64_t bytes)
{
	size_t tail = bytes % PAGE_BYTES;
	size_t place = find_page(node, bytes / PAGE_BYTES);

	if (tail && is_page(node, place, bytes / PAGE_BYTES)) {
		memset(node->pages[place].bytes + tail, 0, PAGE_BYTES - tail);
		place++;
	}
	while (node->pages_count > place)
		free(node->pages[--node->pages_count].bytes);
	node->bytes = bytes;
}

/* ---- Nodes -------------------------------------------------------------- */

static struct weir__sim_node *new_node(struct weir__sim *sim, const char *path, unsigned mode)
{
	struct weir__sim_node *node = calloc(1, sizeof(*node));
	char *copy = strdup(path);

	if (!node || !copy) {
		free(node);
		free(copy);
		return NULL;
	}
	node->path = copy;
	node->mode = mode;
	node->number = ++sim->socket_numbers;
	node->changed_ns = sim->now_ns;
	node->next = sim->nodes;
	node->pprev = &sim->nodes;
	if (node->next)
		node->next->pprev = &node->next;
	sim->nodes = node;
	return node;
}

/* Without a name and not open: nobody can reach it. */
static void free_if_lost(struct weir__sim_node *node)
{
	if (node->path || node->opens > 0)
		return;
	*node->pprev = node->next;
	if (node->next)
		node->next->pprev = node->pprev;
	cut(node, 0);
	free(node->pages);
	free(node);
}

static void lose_name(struct weir__sim_node *node)
{
	free(node->path);
	node->path = NULL;
	free_if_lost(node);
}

void weir__sim_node_release(struct weir__sim_node *node)
{
	node->opens--;
	free_if_lost(node);
}

void weir__sim_disk_free(struct weir__sim *sim)
{
	while (sim->nodes) {
		sim->nodes->opens = 0;
		lose_name(sim->nodes);
	}
}

struct weir__sim_socket *weir__sim_disk(struct weir__sim *sim)
{
	static const char *const first[] = { "/", "/tmp", "." };

	if (sim->disk)
		return sim->disk;
	sim->disk = weir__sim_socket_new(sim, WEIR__SIM_FILE);
	if (!sim->disk)
		return NULL;
	sim->disk->pins = 1; /* its own */
	for (size_t i = 0; i < sizeof first / sizeof *first; i++)
		(void)new_node(sim, first[i], S_IFDIR | 0755);
	return sim->disk;
}

/* ---- Names -------------------------------------------------------------- */

static struct weir__sim_node *find(struct weir__sim *sim, const char *path, size_t len)
{
	struct weir__sim_node *node = sim->nodes;

	while (len > 1 && path[len - 1] == '/')
		len--;
	while (node &&
	       (!node->path || strncmp(node->path, path, len) != 0 || node->path[len] != '\0'))
		node = node->next;
	return node;
}

static struct weir__sim_node *find_path(struct weir__sim *sim, const char *path)
{
	return find(sim, path, strlen(path));
}

static bool is_dir(const struct weir__sim_node *node)
{
	return S_ISDIR(node->mode);
}

/* Where a path's last name begins; without a slash the directory is ".". */
static const char *last_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

static struct weir__sim_node *dir_of(struct weir__sim *sim, const char *path)
{
	size_t len = (size_t)(last_name(path) - path);

	return len > 0 ? find(sim, path, len) : find(sim, ".", 1);
}

/* 0 when something new may have that name. */
static int may_make(struct weir__sim *sim, const char *path)
{
	const struct weir__sim_node *dir = dir_of(sim, path);

	if (!dir || !*last_name(path))
		return -ENOENT;
	return is_dir(dir) ? 0 : -ENOTDIR;
}

/* The first of `node` and those after it that lies in the directory; NULL: there is none. */
static const struct weir__sim_node *child_from(struct weir__sim *sim,
					       const struct weir__sim_node *node,
					       const struct weir__sim_node *dir)
{
	while (node && (!node->path || strcmp(node->path, ".") == 0 || !*last_name(node->path) ||
			dir_of(sim, node->path) != dir))
		node = node->next;
	return node;
}

static bool has_children(struct weir__sim *sim, const struct weir__sim_node *dir)
{
	return child_from(sim, sim->nodes, dir) != NULL;
}

/* ---- Operations on names ------------------------------------------------ */

static int open_node(struct weir__sim *sim, struct weir__sim_node *node, int flags)
{
	if ((flags & O_CREAT) && (flags & O_EXCL))
		return -EEXIST;
	if (is_dir(node) && (flags & O_ACCMODE) != O_RDONLY)
		return -EISDIR;
	if (!is_dir(node) && (flags & O_DIRECTORY))
		return -ENOTDIR;
	struct weir__sim_socket *socket = weir__sim_socket_new(sim, WEIR__SIM_FILE);
	if (!socket)
		return -ENOMEM;
	socket->node = node;
	socket->flags = flags;
	node->opens++;
	int fd = weir__sim_socket_open(sim, socket);
	if (fd >= 0 && (flags & O_TRUNC) && !is_dir(node))
		cut(node, 0);
	return fd;
}

static int step_open(struct weir__sim *sim, const struct weir__file_op *file)
{
	struct weir__sim_node *node = find_path(sim, file->path);
	int err = node ? 0 : may_make(sim, file->path);
	bool is_new = !node;

	if (err < 0)
		return err;
	if (!node && !(file->flags & O_CREAT))
		return -ENOENT;
	if (!node)
		node = new_node(sim, file->path, S_IFREG | (file->mode & 07777));
	if (!node)
		return -ENOMEM;
	int fd = open_node(sim, node, is_new ? file->flags & ~O_EXCL : file->flags);
	if (fd < 0 && is_new) /* a kernel takes the descriptor first */
		lose_name(node);
	return fd;
}

static int step_stat(struct weir__sim *sim, const struct weir__file_op *file,
		     const struct weir__sim_node *node)
{
	struct stat *ret = file->op.data;

	if (file->path)
		node = find_path(sim, file->path);
	if (!node)
		return -ENOENT;
	*ret = (struct stat){
		.st_ino = node->number,
		.st_mode = node->mode,
		.st_nlink = node->path ? 1 : 0,
		.st_size = (off_t)node->bytes,
		.st_blksize = PAGE_BYTES,
		.st_blocks = (blkcnt_t)(node->pages_count * (PAGE_BYTES / 512)),
		.st_mtim = { node->changed_ns / WEIR_SEC, node->changed_ns % WEIR_SEC },
	};
	return 0;
}

static int step_remove(struct weir__sim *sim, const char *path)
{
	struct weir__sim_node *node = find_path(sim, path);

	if (!node)
		return -ENOENT;
	if (is_dir(node) && (has_children(sim, node) || !dir_of(sim, node->path)))
		return -ENOTEMPTY;
	lose_name(node);
	return 0;
}

static int step_make(struct weir__sim *sim, const struct weir__file_op *file)
{
	int err = may_make(sim, file->path);

	if (err < 0)
		return err;
	if (find_path(sim, file->path))
		return -EEXIST;
	return new_node(sim, file->path, S_IFDIR | (file->mode & 07777)) ? 0 : -ENOMEM;
}

/* What lies in a directory goes with it. */
static int move_below(struct weir__sim *sim, const struct weir__sim_node *dir, const char *to)
{
	char *from = strdup(dir->path); /* it goes on the way */
	size_t len = from ? strlen(from) : 0;

	if (!from)
		return -ENOMEM;
	for (struct weir__sim_node *node = sim->nodes; node; node = node->next) {
		if (!node->path || strncmp(node->path, from, len) != 0 ||
		    (node->path[len] != '/' && node->path[len] != '\0'))
			continue;
		char *path = malloc(strlen(to) + strlen(node->path + len) + 1);
		if (!path) {
			free(from);
			return -ENOMEM;
		}
		strcpy(stpcpy(path, to), node->path + len);
		free(node->path);
		node->path = path;
	}
	free(from);
	return 0;
}

static int step_rename(struct weir__sim *sim, const struct weir__file_op *file)
{
	struct weir__sim_node *node = find_path(sim, file->path);
	struct weir__sim_node *old = find_path(sim, file->path_to);
	int err = node ? may_make(sim, file->path_to) : -ENOENT;

	if (err < 0 || node == old)
		return err;
	size_t len = strlen(node->path);
	if (strncmp(file->path_to, node->path, len) == 0 && file->path_to[len] == '/')
		return -EINVAL; /* into itself, where nobody would find it */
	if (old && is_dir(old) != is_dir(node))
		return is_dir(old) ? -EISDIR : -ENOTDIR;
	if (old && is_dir(old) && has_children(sim, old))
		return -ENOTEMPTY;
	if (old)
		lose_name(old);
	return move_below(sim, node, file->path_to);
}

/* The pointers, then what they point at: as file_call.c lays them out. */
static char **lay_out(struct weir__sim *sim, const struct weir__sim_node *dir, size_t head,
		      size_t bytes)
{
	char **list = weir_alloc(head + bytes);
	char *at = (char *)list + head;
	size_t i = 0;

	if (!list)
		return NULL;
	for (const struct weir__sim_node *node = child_from(sim, sim->nodes, dir); node;
	     node = child_from(sim, node->next, dir)) {
		list[i++] = at;
		at = stpcpy(at, last_name(node->path)) + 1;
	}
	list[i] = NULL;
	return list;
}

static int step_list(struct weir__sim *sim, const struct weir__sim_op *record,
		     const struct weir__file_op *file)
{
	const struct weir__sim_node *dir = find_path(sim, file->path);
	size_t count = 0, bytes = 0;

	if (!dir || !is_dir(dir))
		return dir ? -ENOTDIR : -ENOENT;
	for (const struct weir__sim_node *node = child_from(sim, sim->nodes, dir); node;
	     node = child_from(sim, node->next, dir)) {
		count++;
		bytes += strlen(last_name(node->path)) + 1;
	}
	struct weir__heap *heap = weir__heap_switch(record->worker->heap);
	char **list = lay_out(sim, dir, (count + 1) * sizeof(char *), bytes);
	(void)weir__heap_switch(heap);
	if (!list)
		return -ENOMEM;
	*(char ***)file->op.data = list;
	return (int)count;
}

/* ---- Operations on open files ------------------------------------------- */

static int step_read(struct weir__sim *sim, const struct weir__sim_op *record,
		     const struct weir__file_op *file)
{
	const struct weir__sim_node *node = record->socket->node;
	uint64_t at = (uint64_t)file->offset;

	if (is_dir(node))
		return -EISDIR;
	if ((record->socket->flags & O_ACCMODE) == O_WRONLY)
		return -EBADF;
	if (at >= node->bytes)
		return 0;
	size_t len = file->op.len < node->bytes - at ? file->op.len : (size_t)(node->bytes - at);
	len = weir__sim_shorten(sim, record, len);
	copy_out(node, at, file->op.data, len);
	return (int)len;
}

static int step_write(struct weir__sim *sim, const struct weir__sim_op *record,
		      const struct weir__file_op *file)
{
	struct weir__sim_node *node = record->socket->node;
	uint64_t at = record->socket->flags & O_APPEND ? node->bytes : (uint64_t)file->offset;
	size_t len = weir__sim_shorten(sim, record, file->op.len);

	if ((record->socket->flags & O_ACCMODE) == O_RDONLY)
		return -EBADF;
	if (at + len > UINT64_C(1) << FILE_BYTES_MAX_LOG2)
		return -EFBIG;
	if (weir__sim_chance(sim, sim->plan.faults.no_space)) {
		sim->result.faults++;
		len = weir__sim_below(sim, len);
		if (len == 0)
			return -ENOSPC;
	}
	size_t n = copy_in(node, at, file->op.data, len);
	node->changed_ns = sim->now_ns;
	return n == 0 && len > 0 ? -ENOMEM : (int)n;
}

static int step_truncate(const struct weir__sim_op *record, const struct weir__file_op *file)
{
	if ((record->socket->flags & O_ACCMODE) == O_RDONLY)
		return -EINVAL;
	if (file->offset > INT64_C(1) << FILE_BYTES_MAX_LOG2)
		return -EFBIG;
	cut(record->socket->node, (uint64_t)file->offset);
	return 0;
}

static int step(struct weir__sim *sim, const struct weir__sim_op *record,
		const struct weir__file_op *file)
{
	switch (record->code) {
	case WEIR__OP_FILE_READ:
		return step_read(sim, record, file);
	case WEIR__OP_FILE_WRITE:
		return step_write(sim, record, file);
	case WEIR__OP_FILE_SYNC:
		return 0;
	case WEIR__OP_FILE_TRUNCATE:
		return step_truncate(record, file);
	case WEIR__OP_FILE_OPEN:
		return step_open(sim, file);
	case WEIR__OP_FILE_STAT:
		return step_stat(sim, file, record->socket->node);
	case WEIR__OP_PATH_REMOVE:
		return step_remove(sim, file->path);
	case WEIR__OP_PATH_RENAME:
		return step_rename(sim, file);
	case WEIR__OP_DIR_MAKE:
		return step_make(sim, file);
	case WEIR__OP_DIR_LIST:
		return step_list(sim, record, file);
	default:
		return -EOPNOTSUPP;
	}
}

void weir__sim_disk_step(struct weir__sim *sim, struct weir__sim_op *record)
{
	int res = -EIO;

	if (weir__sim_chance(sim, sim->plan.faults.io_error))
		sim->result.faults++;
	else
		res = step(sim, record, weir__file_op_of(record->op));
	weir__sim_op_done(sim, record, res, NULL, false);
}
