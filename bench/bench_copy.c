/* SPDX-License-Identifier: MIT */
/*
 * bench_copy.c: Tokio's copy benchmark on weir, one for one: from memory and from a slow link, to
 * memory and to a disk that makes writers wait.
 *
 *   bench_copy [--rounds N] [--csv] [FILTER]
 *
 * rivals/tokio's tokio_copy is the same program for Tokio. An operation is 1 KB of 256. What the
 * slow ones take is the waiting they simulate: they say that nothing is added to it. The memory
 * that grows is the C library's, as the other side's is: the row is about copying.
 *
 * The hard idea: over there both ends belong to one task, and whatever wakes it lets it try both.
 * So a writer that the disk has refused tries again when a piece has come, and is let through nine
 * times in ten. Here they belong to two tasks, and the source says that a piece has come.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tasks.h"

enum {
	SOURCE_BYTES = 256 * 1024,
	LEASE_BYTES = 8 * 1024, /* Tokio's buffer, so that the disk sees as many writes */
	CHUNK_BYTES = 2 * 1024,
	DISK_BUFFER_BYTES = 40 * 1024,
	AHEAD_LEASES = 4, /* of a chunk: Tokio's copy reads on into its buffer of 8 KB */
};

static const int64_t CHUNK_NS = WEIR_MS, DISK_NS = 20 * WEIR_MS;

/* ---- Sources -------------------------------------------------------------------------------- */

static ssize_t lend_zeros(weir_buf *ret, size_t len)
{
	int err = weir_buf_get(ret, len);

	if (err < 0)
		return err;
	memset(ret->data, 0, len);
	ret->len = len;
	return (ssize_t)len;
}

static ssize_t read_memory(struct weir_end *end, weir_buf *ret, size_t most)
{
	(void)end;
	return lend_zeros(ret, most < LEASE_BYTES ? most : LEASE_BYTES);
}

/* The first is there; then one for each tick, and who comes late gets those that were due. */
struct chunks {
	struct weir_interval ticks;
	struct weir_event *came;
	bool has_begun;
};

static ssize_t read_chunk(struct weir_end *end, weir_buf *ret, size_t most)
{
	struct chunks *chunks = end->of;
	int dropped = chunks->has_begun ? weir_interval_wait(&chunks->ticks) : 0;

	if (dropped < 0)
		return dropped;
	chunks->has_begun = true;
	weir_event_set(chunks->came);
	return lend_zeros(ret, most < CHUNK_BYTES ? most : CHUNK_BYTES);
}

/* ---- Sinks ---------------------------------------------------------------------------------- */

struct memory {
	char *data;
	size_t len, cap;
};

static ssize_t write_memory(struct weir_end *end, weir_buf *buf)
{
	struct memory *memory = end->of;
	ssize_t n = (ssize_t)buf->len;

	if (memory->cap - memory->len < buf->len) {
		size_t cap = memory->cap ? memory->cap * 2 : buf->len;
		char *grown = realloc(memory->data, cap);
		if (grown) {
			memory->data = grown;
			memory->cap = cap;
		}
		n = grown ? n : -ENOMEM;
	}
	if (n > 0)
		memcpy(memory->data + memory->len, buf->data, buf->len);
	memory->len += n > 0 ? buf->len : 0;
	weir_buf_release(buf);
	return n;
}

/* Has room for so much until it is serviced; at random it refuses a write all the same. */
struct disk {
	int64_t next_ns; /* when it is serviced */
	size_t used;
	uint64_t random;
	struct weir_event came; /* a piece that may be written: another try */
};

static bool is_serviced(struct disk *disk)
{
	int64_t now = weir_now();

	if (now < disk->next_ns)
		return false;
	disk->next_ns = now + DISK_NS;
	disk->used = 0;
	return true;
}

static bool one_in_ten(struct disk *disk)
{
	disk->random ^= disk->random << 13;
	disk->random ^= disk->random >> 7;
	disk->random ^= disk->random << 17;
	return (disk->random >> 11) % 10 == 0;
}

static int await_service(struct disk *disk)
{
	int64_t left = disk->next_ns - weir_now();
	int err = left > 0 ? weir_sleep(left) : 0;

	while (err == 0 && !is_serviced(disk))
		err = weir_sleep(WEIR_US);
	return err;
}

/* Until it is due for service, or a piece has come. */
static int await_another_try(struct disk *disk)
{
	int64_t left = disk->next_ns - weir_now();

	if (left <= 0)
		return 0;
	weir_event_reset(&disk->came);
	WEIR_SCOPE(service, left);
	int err = weir_event_wait(&disk->came);
	return err == -ETIME ? 0 : err;
}

/* How many bytes it takes now; 0 when it refuses. */
static size_t try_disk(struct disk *disk, size_t len)
{
	bool is_refused = !is_serviced(disk) && one_in_ten(disk);
	size_t room = DISK_BUFFER_BYTES - disk->used;
	size_t n = is_refused ? 0 : len < room ? len : room;

	disk->used += n;
	return n;
}

static ssize_t write_disk(struct weir_end *end, weir_buf *buf)
{
	struct disk *disk = end->of;
	size_t done = 0, len = buf->len;
	int err = 0;

	while (done < len && err == 0) {
		size_t n = try_disk(disk, len - done);
		if (n == 0)
			err = await_another_try(disk);
		done += n;
	}
	weir_buf_release(buf);
	return err < 0 ? err : (ssize_t)len;
}

/* ---- The four ------------------------------------------------------------------------------- */

static uint64_t copy(bool is_slow_source, bool is_slow_sink)
{
	struct memory memory = { 0 };
	struct disk disk = { .random = 88172645463325252 };
	struct chunks chunks = { .came = &disk.came };
	struct weir_end from = { .read = is_slow_source ? read_chunk : read_memory, .of = &chunks };
	struct weir_end to = { .write = write_memory, .of = &memory };

	if (weir_interval_init(&chunks.ticks, CHUNK_NS, WEIR_MISSED_BURST) < 0)
		return 0;
	weir_event_init(&disk.came);
	if (is_slow_sink)
		to = (struct weir_end){ .write = write_disk, .of = &disk };
	int64_t n = weir_copy(from, to, .bytes_max = SOURCE_BYTES,
			      .ahead = is_slow_sink ? AHEAD_LEASES : 0);
	if (n == SOURCE_BYTES && is_slow_sink && await_service(&disk) < 0)
		n = 0;
	weir_event_done(&disk.came);
	free(memory.data);
	return n == SOURCE_BYTES ? SOURCE_BYTES / 1024 : 0;
}

static uint64_t mem_to_mem(void *arg)
{
	uint64_t sum = 0;

	(void)arg;
	for (int i = 0; i < 100; i++) {
		uint64_t n = copy(false, false);
		if (n == 0)
			return 0;
		sum += n;
	}
	return sum;
}

static uint64_t mem_to_slow(void *arg)
{
	(void)arg;
	return copy(false, true);
}

static uint64_t chunk_to_mem(void *arg)
{
	(void)arg;
	return copy(true, false);
}

static uint64_t chunk_to_slow(void *arg)
{
	(void)arg;
	return copy(true, true);
}

int main(int argc, char **argv)
{
	static const struct bench_row rows[] = { { "copy_mem_to_mem", mem_to_mem },
						 { "copy_mem_to_slow_disk", mem_to_slow },
						 { "copy_chunk_to_mem", chunk_to_mem },
						 { "copy_chunk_to_slow_disk", chunk_to_slow },
						 { NULL, NULL } };
	static struct bench bench;

	bench_init(&bench, "bench_copy", argc, argv);
	bench_add_rows(&bench, rows);
	return bench_run_tasks(&bench, bench_run_in_task, 1);
}
