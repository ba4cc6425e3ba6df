/* SPDX-License-Identifier: MIT */
/*
 * copy.c: bytes from one end to another, and both ways at once.
 *
 * Comes from: user code. Goes to: conn.c, stream.c and file.c, through their public calls.
 *
 * The hard idea: a lease is what both ends understand. A connection lends what has come, and takes
 * what is to go; so between two of them nothing is copied, and what bounds the bytes under way are
 * their own bounds: the leases a connection may queue up, one in this task's hands, one in flight.
 * Other ends have no such queue: for them a task may read ahead, and what it holds is bounded here.
 */
#include <errno.h>
#include <string.h>

#include "io/conn.h"
#include "alloc/opts.h"

/* Of files at a time. Streams start with less: a lease lies there while nothing comes. */
enum { CHUNK_BYTES = 64 * 1024, CHUNK_BYTES_FIRST = 4 * 1024 };

/* To copy so much takes less than a write of its own. */
enum { SMALL_BYTES = 4 * 1024 };

/* ---- Ends --------------------------------------------------------------- */

static ssize_t read_conn(struct weir_end *end, weir_buf *ret, size_t most)
{
	return most == SIZE_MAX ? weir_recv(end->of, ret)
				: weir__conn_recv_most(end->of, ret, most);
}

static ssize_t write_conn(struct weir_end *end, weir_buf *buf)
{
	return weir_send(end->of, buf);
}

static int finish_conn(struct weir_end *end)
{
	return weir_shutdown(end->of);
}

struct weir_end weir_end_conn(weir_conn *conn)
{
	return (struct weir_end){
		.read = read_conn, .write = write_conn, .finish = finish_conn, .of = conn
	};
}

/* The lease is as long as what was read. */
static ssize_t keep_read(weir_buf *buf, ssize_t n)
{
	if (n > 0)
		buf->len = (size_t)n;
	else
		weir_buf_release(buf);
	return n;
}

static int get_chunk(const struct weir_end *end, weir_buf *ret, size_t *most)
{
	if (*most > end->chunk)
		*most = end->chunk;
	return weir_buf_get(ret, *most);
}

static ssize_t read_stream(struct weir_end *end, weir_buf *ret, size_t most)
{
	int err = get_chunk(end, ret, &most);
	ssize_t n = err < 0 ? err : weir_stream_read(end->of, ret->data, most);

	if (n == (ssize_t)end->chunk && end->chunk < CHUNK_BYTES)
		end->chunk *= 4;
	return keep_read(ret, n);
}

static ssize_t write_some_stream(struct weir_end *end, const char *data, size_t len)
{
	return weir_stream_write(end->of, data, len);
}

static ssize_t write_some_file(struct weir_end *end, const char *data, size_t len)
{
	ssize_t n = weir_file_write_at(end->of, data, len, end->at);

	end->at += n > 0 ? n : 0;
	return n;
}

/* A short write is followed by another, which says why. */
static ssize_t write_all(struct weir_end *end, weir_buf *buf,
			 ssize_t (*write_some)(struct weir_end *, const char *, size_t))
{
	size_t done = 0;
	ssize_t n = 0;

	while (done < buf->len && n >= 0) {
		n = write_some(end, buf->data + done, buf->len - done);
		done += n > 0 ? (size_t)n : 0;
	}
	weir_buf_release(buf);
	return n < 0 ? n : (ssize_t)done;
}

static ssize_t write_stream(struct weir_end *end, weir_buf *buf)
{
	return write_all(end, buf, write_some_stream);
}

struct weir_end weir_end_stream(weir_stream *stream)
{
	return (struct weir_end){
		.read = read_stream, .write = write_stream, .of = stream, .chunk = CHUNK_BYTES_FIRST
	};
}

static ssize_t read_file(struct weir_end *end, weir_buf *ret, size_t most)
{
	int err = get_chunk(end, ret, &most);
	ssize_t n = err < 0 ? err : weir_file_read_at(end->of, ret->data, most, end->at);

	end->at += n > 0 ? n : 0;
	return keep_read(ret, n);
}

static ssize_t write_file(struct weir_end *end, weir_buf *buf)
{
	return write_all(end, buf, write_some_file);
}

struct weir_end weir_end_file(weir_file *file, int64_t offset)
{
	return (struct weir_end){ .read = read_file,
				  .write = write_file,
				  .of = file,
				  .at = offset,
				  .chunk = CHUNK_BYTES };
}

/* ---- One way ------------------------------------------------------------ */

/* What two ways know of each other. Their worker only. */
struct both {
	struct weir_scope *scope; /* of the second way, and of both ends of the first */
	uint64_t arrivals;	  /* of either way */
	int64_t idle_ns;
	bool ends_together;
	bool is_over; /* for a reason that ends the other way, too */
	int error;    /* that reason, when it is one */
};

struct way {
	struct weir_end from, to;
	int64_t left; /* bytes that may still be moved */
	int64_t *moved;
	bool finish;
	struct both *both; /* NULL: there is no other way */
};

/*
 * With a limit to silence. When the time is over but something has come the other way, it begins
 * anew: so nobody reads the clock for an arrival.
 */
static ssize_t read_before_idle(struct way *way, weir_buf *ret, size_t most)
{
	const struct both *both = way->both;
	uint64_t arrivals;
	ssize_t n;

	do {
		WEIR_SCOPE(patience, both->idle_ns);
		arrivals = both->arrivals;
		n = way->from.read(&way->from, ret, most);
	} while (n == -ETIME && arrivals != both->arrivals);
	return n;
}

static ssize_t read_next(struct way *way, weir_buf *ret)
{
	size_t most = way->left == INT64_MAX ? SIZE_MAX : (size_t)way->left;

	if (way->both && way->both->idle_ns > 0)
		return read_before_idle(way, ret, most);
	return way->from.read(&way->from, ret, most);
}

static ssize_t write_next(struct way *way, weir_buf *buf)
{
	if (!way->both || way->both->idle_ns <= 0)
		return way->to.write(&way->to, buf);
	WEIR_SCOPE(patience, way->both->idle_ns);
	return way->to.write(&way->to, buf);
}

/* The next lease, of what may still be moved. Its bytes, 0 at the end, or -errno. */
static ssize_t take_from(struct way *way, weir_buf *ret)
{
	ssize_t n = read_next(way, ret);

	if (n <= 0)
		return n;
	if (way->both)
		way->both->arrivals++;
	if (way->left != INT64_MAX)
		way->left -= n;
	return n;
}

static ssize_t give_to(struct way *way, weir_buf *buf)
{
	ssize_t n = write_next(way, buf);

	if (n > 0 && way->moved)
		*way->moved += n;
	return n;
}

/* `n`: 0 at the end of `from`, or -errno. How many bytes were moved in all, or -errno. */
static int64_t end_of(struct way *way, ssize_t n, int64_t sum)
{
	if (n == 0 && way->finish && way->to.finish)
		n = way->to.finish(&way->to);
	return n < 0 ? n : sum;
}

/* How many bytes, or -errno. */
static int64_t move_all(struct way *way)
{
	int64_t sum = 0;
	ssize_t n = 1;

	while (way->left > 0 && n > 0) {
		weir_buf buf = WEIR_BUF_INIT;
		n = take_from(way, &buf);
		if (n > 0)
			n = give_to(way, &buf);
		sum += n > 0 ? n : 0;
	}
	return end_of(way, n, sum);
}

/* ---- Reading ahead ------------------------------------------------------ */

/*
 * A task reads, its owner writes. Of the way `from` and `left` are the reader's, the rest the
 * writer's.
 */
struct ahead {
	struct way *way;
	weir_chan *leases;    /* read, not written; closed at the end */
	struct weir_sem room; /* for leases the writer has not taken yet */
	weir_buf next;	      /* the writer's: the first of them */
	ssize_t end;	      /* 0 at that of `from`, or -errno, once `leases` is closed */
};

static int read_ahead(void *arg)
{
	struct ahead *ahead = arg;
	ssize_t n = 1;

	while (ahead->way->left > 0 && n > 0) {
		weir_auto_buf buf = WEIR_BUF_INIT;
		int err = weir_sem_wait(&ahead->room);
		n = err < 0 ? err : take_from(ahead->way, &buf);
		if (n > 0)
			err = weir_chan_send(ahead->leases, &buf);
		if (n > 0 && err == 0)
			buf = (weir_buf)WEIR_BUF_INIT;
		n = err < 0 ? err : n;
	}
	ahead->end = n;
	weir_chan_close(ahead->leases);
	return 0;
}

/* The lease in `next`: there is room for another now. */
static weir_buf take_next(struct ahead *ahead)
{
	weir_buf buf = ahead->next;

	ahead->next = (weir_buf)WEIR_BUF_INIT;
	weir_sem_post(&ahead->room);
	return buf;
}

static void append(weir_buf *to, weir_buf buf)
{
	memcpy(to->data + to->len, buf.data, buf.len);
	to->len += buf.len;
	weir_buf_release(&buf);
}

/* A small lease takes those along that wait behind it. */
static void gather(struct ahead *ahead, weir_buf *buf)
{
	weir_buf all = WEIR_BUF_INIT;

	if (buf->len > SMALL_BYTES || weir_chan_try_recv(ahead->leases, &ahead->next) < 0 ||
	    weir_buf_get(&all, CHUNK_BYTES) < 0)
		return;
	all.len = 0;
	append(&all, *buf);
	while (ahead->next.block && all.len + ahead->next.len <= all.cap) {
		append(&all, take_next(ahead));
		(void)!weir_chan_try_recv(ahead->leases, &ahead->next);
	}
	*buf = all;
}

/* Until all that is read is written. How many bytes, or -errno. */
static int64_t write_behind(struct ahead *ahead)
{
	int64_t sum = 0;
	int err = 0;

	while (ahead->next.block || (err = weir_chan_recv(ahead->leases, &ahead->next)) == 0) {
		weir_buf buf = take_next(ahead);
		gather(ahead, &buf);
		ssize_t n = give_to(ahead->way, &buf);
		if (n < 0)
			return n;
		sum += n;
	}
	return err == -EPIPE ? end_of(ahead->way, ahead->end, sum) : err;
}

static int64_t move_with_reader(struct ahead *ahead)
{
	WEIR_SCOPE(reading, WEIR_FOREVER);
	int err = weir_spawn(&reading, read_ahead, ahead, .name = "copy ahead",
			     .worker = WEIR_ON_WORKER((unsigned)weir_worker_index()));

	if (err < 0)
		return err;
	int64_t sum = write_behind(ahead);
	if (sum != -ECANCELED)
		return sum;
	weir_scope_cancel(&reading);
	err = weir_scope_wait(&reading); /* it knows the reason: no stack for the reader, perhaps */
	return err < 0 ? err : sum;
}

static int64_t move_ahead(struct way *way, unsigned leases)
{
	struct ahead ahead = { .way = way, .leases = weir_chan_new(sizeof(weir_buf), leases) };
	int64_t sum = -ENOMEM;

	if (!ahead.leases)
		return sum;
	weir_sem_init(&ahead.room, leases);
	sum = move_with_reader(&ahead);
	do
		weir_buf_release(&ahead.next);
	while (weir_chan_try_recv(ahead.leases, &ahead.next) == 0);
	weir_sem_done(&ahead.room);
	weir_chan_free(ahead.leases);
	return sum;
}

int64_t weir_copy_with(const struct weir_copy_opts *opts)
{
	struct weir_copy_opts known = { 0 };
	int err = weir__opts_copy(&known, sizeof known, opts, opts->size);

	if (err < 0)
		return err;
	if (!known.from.read || !known.to.write || known.bytes_max < 0)
		return -EINVAL;
	struct way way = { .from = known.from,
			   .to = known.to,
			   .left = known.bytes_max ? known.bytes_max : INT64_MAX,
			   .moved = known.moved,
			   .finish = known.finish };
	if (known.ahead == 0)
		return move_all(&way);
	if (!weir__worker_self() || !weir__worker_self()->current)
		return -EINVAL;
	return move_ahead(&way, known.ahead);
}

/* ---- Both ways ---------------------------------------------------------- */

/* Not by a result of the task's: -ECANCELED, of a connection that is closed, would end nobody. */
static void end_way(struct both *both, int64_t result)
{
	if (both->is_over || (result >= 0 && !both->ends_together))
		return;
	both->is_over = true;
	both->error = result < 0 ? (int)result : 0;
	weir_scope_cancel(both->scope);
}

static int go_back(void *arg)
{
	struct way *way = arg;

	end_way(way->both, move_all(way));
	return 0;
}

static int go_both(struct way *there, struct way *back)
{
	struct both *both = there->both;
	WEIR_SCOPE(scope, WEIR_FOREVER);
	int err = weir_spawn(&scope, go_back, back, .name = "copy back",
			     .worker = WEIR_ON_WORKER((unsigned)weir_worker_index()));

	if (err < 0)
		return err;
	both->scope = &scope;
	end_way(both, move_all(there));
	err = weir_scope_wait(&scope);
	/* of -ECANCELED the scope knows the reason: no stack for the other way, perhaps */
	return both->is_over && both->error != -ECANCELED ? both->error : err;
}

int weir_copy_both_with(const struct weir_copy_both_opts *opts)
{
	struct weir_copy_both_opts known = { 0 };
	int err = weir__opts_copy(&known, sizeof known, opts, opts->size);

	if (err < 0)
		return err;
	if (!weir__worker_self() || !weir__worker_self()->current || !known.a.read ||
	    !known.a.write || !known.b.read || !known.b.write || known.idle_ns < 0)
		return -EINVAL;
	struct both both = { .idle_ns = known.idle_ns, .ends_together = known.ends_together };
	struct way there = { .from = known.a,
			     .to = known.b,
			     .left = INT64_MAX,
			     .moved = known.a_to_b,
			     .finish = true,
			     .both = &both };
	struct way back = there;
	back.from = known.b;
	back.to = known.a;
	back.moved = known.b_to_a;
	return go_both(&there, &back);
}
