/* SPDX-License-Identifier: MIT */
/*
 * copy.c: copies a file or standard input to a file or standard output.
 *
 *   ./copy FROM TO           "-" is standard input, or output
 *   ./copy big.iso - | sha256sum        yes | ./copy - lines.txt       ./copy - -
 *
 * Two tasks and a channel between them, so that a slow source and a slow destination overlap; a
 * block is written while the next one is read. Ctrl-C ends it wherever it waits, at a terminal too.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <weir/weir.h>

enum { BLOCK_BYTES = 256 * 1024, BLOCKS_AHEAD = 4 };

/* A file with a place in it, or a stream. */
struct end {
	weir_file *file;
	weir_stream *stream;
	int64_t at;
};

struct block {
	char *data;
	size_t len;
};

struct copy {
	const char *from, *to;
	struct end in, out;
	weir_chan *blocks;
};

static int stat_end(const char *path, int fd, struct stat *ret)
{
	return strcmp(path, "-") == 0 ? fstat(fd, ret) : weir_path_stat(path, ret);
}

/* One regular file by whatever names: to open it for writing would empty it. */
static bool is_same_file(const char *from, const char *to)
{
	struct stat in, out;

	return stat_end(from, 0, &in) == 0 && stat_end(to, 1, &out) == 0 && S_ISREG(in.st_mode) &&
	       in.st_dev == out.st_dev && in.st_ino == out.st_ino;
}

static int open_end(struct end *end, const char *path, int fd, int flags)
{
	struct stat st;

	if (strcmp(path, "-") == 0)
		return weir_stream_from(&end->stream, fd);
	/* opened twice, a FIFO would be closed to whoever had waited for it */
	bool is_fifo = weir_path_stat(path, &st) == 0 && S_ISFIFO(st.st_mode);
	int err = is_fifo ? -ESPIPE : weir_file_open(&end->file, path, flags);
	/* a terminal is no file either */
	return err == -ESPIPE ? weir_stream_open(&end->stream, path, flags) : err;
}

static void close_end(struct end *end)
{
	weir_file_close(end->file);
	weir_stream_close(end->stream);
}

static ssize_t read_block(struct end *in, char *data)
{
	ssize_t n = in->file ? weir_file_read_at(in->file, data, BLOCK_BYTES, in->at)
			     : weir_stream_read(in->stream, data, BLOCK_BYTES);

	in->at += n > 0 ? n : 0;
	return n;
}

/* A short write is followed by another, which says why. */
static int write_block(struct end *out, const struct block *block)
{
	size_t done = 0;

	while (done < block->len) {
		const char *from = block->data + done;
		size_t left = block->len - done;
		ssize_t n = out->file ? weir_file_write_at(out->file, from, left, out->at)
				      : weir_stream_write(out->stream, from, left);
		if (n < 0)
			return (int)n;
		out->at += n;
		done += (size_t)n;
	}
	return 0;
}

static int read_all(void *arg)
{
	struct copy *copy = arg;
	struct block block;
	int err = 0;

	while (err == 0) {
		block.data = weir_alloc(BLOCK_BYTES);
		ssize_t n = block.data ? read_block(&copy->in, block.data) : -ENOMEM;
		block.len = n > 0 ? (size_t)n : 0;
		err = n > 0 ? weir_chan_send(copy->blocks, &block) : (int)n;
		if (n <= 0 || err < 0)
			weir_free(block.data); /* it has gone nowhere */
		if (n == 0)
			break;
	}
	weir_chan_close(copy->blocks);
	return err;
}

static int write_all(struct copy *copy)
{
	struct block block;
	int err;

	while ((err = weir_chan_recv(copy->blocks, &block)) == 0) {
		err = write_block(&copy->out, &block);
		weir_free(block.data);
		if (err < 0)
			return err;
	}
	return err == -EPIPE ? 0 : err; /* the channel is closed and empty */
}

static int copy_all(struct copy *copy)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	int err = weir_spawn(&scope, read_all, copy,
			     .worker = WEIR_ON_WORKER((unsigned)weir_worker_index()));

	if (err == 0)
		err = write_all(copy);
	return err < 0 ? err : weir_scope_wait(&scope);
}

static int run(void *arg)
{
	struct copy *copy = arg;
	struct block left;

	if (is_same_file(copy->from, copy->to)) {
		fprintf(stderr, "copy: %s and %s are the same file\n", copy->from, copy->to);
		return 1;
	}
	int err = open_end(&copy->in, copy->from, 0, O_RDONLY);

	if (err == 0)
		err = open_end(&copy->out, copy->to, 1, O_WRONLY | O_CREAT | O_TRUNC);
	copy->blocks = weir_chan_new(sizeof(struct block), BLOCKS_AHEAD);
	if (err == 0)
		err = copy->blocks ? copy_all(copy) : -ENOMEM;
	while (copy->blocks && weir_chan_try_recv(copy->blocks, &left) == 0)
		weir_free(left.data);
	weir_chan_free(copy->blocks);
	close_end(&copy->in);
	close_end(&copy->out);
	return err;
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: %s FROM TO\n", argv[0]);
		return 2;
	}
	struct copy copy = { .from = argv[1], .to = argv[2] };
	int err = weir_run(run, &copy, .workers = 1);
	if (err == -EPIPE) /* who reads has had enough */
		err = 0;
	if (err < 0)
		fprintf(stderr, "copy: %s to %s: %s\n", argv[1], argv[2], weir_strerror(err));
	return err != 0;
}
