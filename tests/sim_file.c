/* SPDX-License-Identifier: MIT */
/*
 * sim_file.c: scenarios of files and pipes: a file that is replaced is the old one or the new one,
 * never a mixture; parts written by many tasks do not touch each other; what goes into a pipe comes
 * out, in order, and nothing else.
 */
#include <fcntl.h>

#include "sim.h"

static unsigned char byte_at(unsigned key, size_t i)
{
	return (unsigned char)((i * 31 + (i >> 8) + key) & 0xff);
}

/* A short count means that the next call says why. */
static int write_all_at(weir_file *file, const void *data, size_t len, int64_t offset)
{
	const char *from = data;
	ssize_t n = 0;

	for (size_t done = 0; done < len; done += (size_t)n)
		if ((n = weir_file_write_at(file, from + done, len - done,
					    offset + (int64_t)done)) < 0)
			return (int)n;
	return 0;
}

/* ---- A value on disk, replaced as one should ----------------------------- */

enum { VALUE_BYTES_MAX = 9000, VERSIONS = 4 };

static const char value_path[] = "/tmp/value", next_path[] = "/tmp/value.next";

static int write_version(unsigned version)
{
	weir_auto_file file = NULL;
	unsigned char bytes[VALUE_BYTES_MAX];
	size_t len = 1 + pick(sizeof bytes);

	memset(bytes, (int)version, len);
	int err = weir_file_open(&file, next_path, O_WRONLY | O_CREAT | O_TRUNC);
	if (err == 0)
		err = write_all_at(file, bytes, len, 0);
	if (err == 0)
		err = weir_file_sync(file);
	return err < 0 ? err : weir_path_rename(next_path, value_path);
}

static int replace_value(void *arg)
{
	int err = 0;

	(void)arg;
	for (unsigned version = 1; version <= VERSIONS && err == 0; version++) {
		err = write_version(version);
		if (err == 0)
			err = weir_sleep(some_time());
	}
	return depended_on(err);
}

static int read_value(void *arg)
{
	unsigned last = 0;
	int err = 0;

	(void)arg;
	while (err == 0 && last < VERSIONS) {
		char *bytes;
		size_t len;
		err = weir_file_load(value_path, VALUE_BYTES_MAX, &bytes, &len);
		if (err == 0) {
			claim(len > 0 && (unsigned)bytes[0] >= last);
			last = (unsigned)bytes[0];
			for (size_t i = 0; i < len; i++)
				claim((unsigned)bytes[i] == last);
			weir_free(bytes);
		}
		if (err == 0 || err == -ENOENT)
			err = weir_sleep(some_time());
	}
	return err;
}

static int replaced_file(void *arg)
{
	WEIR_SCOPE(scope, WEIR_FOREVER);
	int err = weir_spawn(&scope, replace_value, arg, .worker = some_worker());

	for (int i = 0; i < 2 && err == 0; i++)
		err = weir_spawn(&scope, read_value, NULL, .worker = some_worker());
	return err == 0 ? weir_scope_wait(&scope) : err;
}

/* ---- Many tasks, one file ------------------------------------------------ */

enum { PARTS = 6, PART_BYTES = 6000 };

struct part {
	weir_file *file;
	unsigned number;
};

static int own_part(void *arg)
{
	const struct part *part = arg;
	unsigned char out[PART_BYTES], in[PART_BYTES];
	int64_t at = (int64_t)part->number * PART_BYTES;
	int err = 0;

	for (unsigned round = 0; round < 3 && err == 0; round++) {
		for (size_t i = 0; i < sizeof out; i++)
			out[i] = byte_at(part->number + round, i);
		err = write_all_at(part->file, out, sizeof out, at);
		if (err < 0)
			break;
		ssize_t n = weir_file_read_at(part->file, in, sizeof in, at);
		err = n < 0 ? (int)n : 0;
		claim(n < 0 || !sim_is_plain || n == sizeof in);
		claim(n < 0 || memcmp(in, out, (size_t)n) == 0);
	}
	return err;
}

static int shared_file(void *arg)
{
	weir_auto_file file = NULL;
	struct part parts[PARTS];
	int err = weir_file_open(&file, "parts", O_RDWR | O_CREAT | O_EXCL);

	(void)arg;
	if (err < 0)
		return err;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	for (unsigned i = 0; i < PARTS && err == 0; i++) {
		parts[i] = (struct part){ file, i };
		err = weir_spawn(&scope, own_part, &parts[i], .worker = some_worker());
	}
	if (err == 0)
		err = weir_scope_wait(&scope);
	if (err == 0 && sim_is_plain)
		claim(weir_file_size(file) == PARTS * PART_BYTES);
	return err;
}

/* ---- A pipe -------------------------------------------------------------- */

enum { PIPE_BYTES = 100000 };

/* Closes the end it writes to; should it never run, who made the pipe does. */
static int write_stream(void *arg)
{
	weir_stream **out = arg;
	unsigned char part[6000];
	size_t sent = 0;
	ssize_t n = 0;

	while (n >= 0 && sent < PIPE_BYTES) {
		size_t len = 1 + pick(sizeof part);
		if (len > PIPE_BYTES - sent)
			len = PIPE_BYTES - sent;
		for (size_t i = 0; i < len; i++)
			part[i] = byte_at(9, sent + i);
		n = weir_stream_write(*out, part, len);
		if (n > 0)
			sent += (size_t)n;
		if (n >= 0 && pick(4) == 0)
			n = weir_sleep(some_time());
	}
	weir_stream_close(*out);
	*out = NULL;
	return depended_on((int)n);
}

static int piped_stream(void *arg)
{
	weir_auto_stream in = NULL;
	weir_auto_stream out = NULL;
	unsigned char part[9000];
	size_t got = 0;
	ssize_t n;
	int err = weir_pipe(&in, &out);

	(void)arg;
	if (err < 0)
		return err;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	err = weir_spawn(&scope, write_stream, &out,
			 .worker = WEIR_ON_WORKER((unsigned)weir_worker_index()));
	if (err < 0)
		return err;
	while ((n = weir_stream_read(in, part, 1 + pick(sizeof part))) > 0)
		for (ssize_t i = 0; i < n; i++, got++)
			claim(part[i] == byte_at(9, got));
	claim(n != 0 || !sim_is_plain || got == PIPE_BYTES);
	return n < 0 ? (int)n : weir_scope_wait(&scope);
}

const struct sim_scenario sim_file_scenarios[] = {
	{ "replaced-file", replaced_file },
	{ "shared-file", shared_file },
	{ "piped-stream", piped_stream },
	{ NULL, NULL },
};
