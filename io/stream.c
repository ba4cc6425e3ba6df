/* SPDX-License-Identifier: MIT */
/*
 * stream.c: pipes, FIFOs, terminals, standard input and output.
 *
 * Comes from: user code. Goes to: system calls that do not block, and the driver's poll operation
 * where they would; a regular file goes to file.c.
 *
 * The hard idea: standard input is not ours. It is shared with the shell and with siblings, to whom
 * O_NONBLOCK would be a surprise, so a pipe or a terminal is opened once more, by its name under
 * /proc, which gives a descriptor with flags of its own. Where that is refused (another user's
 * terminal), or would be another device, each attempt comes after a poll and asks not to wait, as
 * far as the kernel can.
 */
#include "io/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/major.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "io/file.h"
#include "runtime/fatal.h"

enum kind {
	KIND_PIPE,   /* a descriptor of our own that does not block: a pipe, a terminal */
	KIND_SHARED, /* one that blocks, and others use */
	KIND_DEVICE, /* the same, of a character device */
	KIND_SOCKET,
	KIND_FILE, /* always ready, as far as poll(2) knows */
};

struct weir_stream {
	struct weir__handle handle;
	struct weir__io *io;
	uint8_t kind;
	bool waits_first; /* a FIFO nobody has written to yet: reading would say that it has ended
			   */
	bool is_closing;
	bool is_reading, is_writing;
	struct weir__task *closer; /* parked until both are false */
};

/* ---- Attempts ----------------------------------------------------------- */

static int kernel_open(struct weir__io *io, int ret[2])
{
	(void)io;
	return pipe2(ret, O_CLOEXEC | O_NONBLOCK) < 0 ? -errno : 0;
}

static ssize_t kernel_read(struct weir__io *io, int fd, void *ret, size_t cap)
{
	(void)io;
	ssize_t n = read(fd, ret, cap);
	return n < 0 ? -errno : n;
}

/*
 * For pipes there is no MSG_NOSIGNAL. The signal is this thread's, so it is held back and taken out
 * again, if it was not there before: it may be the program's own.
 */
static ssize_t write_unsignalled(int fd, const void *data, size_t len, int flags)
{
	const struct iovec part = { (void *)data, len };
	const struct timespec now = { 0 };
	sigset_t broken, before, pending;

	sigemptyset(&broken);
	sigaddset(&broken, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &broken, &before);
	sigemptyset(&pending);
	if (sigismember(&before, SIGPIPE))
		sigpending(&pending);
	ssize_t n = flags ? pwritev2(fd, &part, 1, -1, flags) : write(fd, data, len);
	int err = n < 0 ? -errno : 0;
	if (err == -EPIPE && !sigismember(&pending, SIGPIPE))
		(void)sigtimedwait(&broken, NULL, &now);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err < 0 ? err : n;
}

static ssize_t kernel_write(struct weir__io *io, int fd, const void *data, size_t len)
{
	(void)io;
	return write_unsignalled(fd, data, len, 0);
}

const struct weir__pipe_ops weir__kernel_pipes = { .open = kernel_open,
						   .read = kernel_read,
						   .write = kernel_write };

/* After a poll. A kernel that cannot be asked not to wait: only who shares it could make us. */
static ssize_t read_shared(int fd, void *ret, size_t cap)
{
	const struct iovec part = { ret, cap };
	ssize_t n = preadv2(fd, &part, 1, -1, RWF_NOWAIT);

	if (n < 0 && errno == EOPNOTSUPP)
		n = read(fd, ret, cap);
	return n < 0 ? -errno : n;
}

/* What poll(2) calls writable has room for so many bytes: a pipe, and a terminal's other side. */
enum { DEVICE_BYTES = 256 };

static ssize_t write_shared(int fd, const void *data, size_t len, size_t room)
{
	ssize_t n = write_unsignalled(fd, data, len, RWF_NOWAIT);

	if (n == -EOPNOTSUPP)
		n = write_unsignalled(fd, data, len < room ? len : room, 0);
	return n;
}

static bool is_shared(const weir_stream *stream)
{
	return stream->kind == KIND_SHARED || stream->kind == KIND_DEVICE;
}

static ssize_t try_read(const weir_stream *stream, void *ret, size_t cap)
{
	int fd = stream->handle.fd;

	if (stream->kind == KIND_PIPE)
		return stream->io->pipes->read(stream->io, fd, ret, cap);
	if (is_shared(stream))
		return read_shared(fd, ret, cap);
	ssize_t n = recv(fd, ret, cap, MSG_DONTWAIT);
	return n < 0 ? -errno : n;
}

static ssize_t try_write(const weir_stream *stream, const void *data, size_t len)
{
	int fd = stream->handle.fd;

	if (stream->kind == KIND_PIPE)
		return stream->io->pipes->write(stream->io, fd, data, len);
	if (is_shared(stream))
		return write_shared(fd, data, len,
				    stream->kind == KIND_DEVICE ? DEVICE_BYTES : PIPE_BUF);
	ssize_t n = send(fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	return n < 0 ? -errno : n;
}

/* ---- Reading and writing ------------------------------------------------ */

/* Before any of it: 0, -EXDEV, -EINVAL (outside tasks), -ECANCELED, -ETIME. */
static int may_use(const weir_stream *stream, struct weir__worker *self)
{
	if (stream->io->worker != self)
		return -EXDEV;
	if (!self->current)
		return -EINVAL;
	if (stream->is_closing)
		return -ECANCELED;
	return weir__interrupted(self, self->current);
}

/* One that is through with the stream; its closer waits for both. */
static void leave(weir_stream *stream)
{
	struct weir__task *closer = stream->closer;

	if (!closer || stream->is_reading || stream->is_writing)
		return;
	stream->closer = NULL;
	weir__ready(closer->worker, closer, 0);
}

/* Parks until it may be ready for `events`. 0, or why the wait has ended. */
static int await(weir_stream *stream, unsigned events)
{
	struct weir__worker *self = stream->io->worker;
	struct weir__op op;

	/* cancelled between the wake-up of the last wait and now: nobody interrupts it again */
	int res = weir__interrupted(self, self->current);
	if (res < 0)
		return res;
	weir__op_init(&op, WEIR__OP_POLL, &stream->handle);
	op.len = events;
	res = weir__op_run(stream->io, &op);
	if (res >= 0 && stream->is_closing)
		return -ECANCELED;
	return res < 0 ? res : 0;
}

static ssize_t move(struct weir__worker *self, const weir_stream *stream, enum weir__op_code code,
		    void *data, size_t len)
{
	struct weir__file_op plan;

	weir__file_op_init(&plan, code, stream->handle.fd);
	plan.offset = WEIR__FILE_POSITION;
	plan.flags = fcntl(stream->handle.fd, F_GETFL) & O_DIRECT;
	return weir__file_move(self, &plan, data, len);
}

static ssize_t read_some(struct weir__worker *self, weir_stream *stream, void *ret, size_t cap)
{
	bool waits = stream->waits_first || is_shared(stream);

	if (stream->kind == KIND_FILE)
		return move(self, stream, WEIR__OP_FILE_READ, ret, cap);
	for (;;) {
		int err = waits ? await(stream, POLLIN) : 0;
		if (err < 0)
			return err;
		stream->waits_first = false;
		ssize_t n = try_read(stream, ret, cap);
		if (n != -EAGAIN && n != -EINTR) {
			weir__budget_spend(self);
			return n;
		}
		waits = n == -EAGAIN;
	}
}

ssize_t weir_stream_read(weir_stream *stream, void *ret, size_t cap)
{
	struct weir__worker *self = weir__worker_self();
	int err = may_use(stream, self);

	if (err == 0 && stream->is_reading)
		err = -EBUSY;
	if (err < 0 || cap == 0)
		return err;
	stream->is_reading = true;
	ssize_t n = read_some(self, stream, ret, cap);
	stream->is_reading = false;
	leave(stream);
	return n;
}

static ssize_t write_all(struct weir__worker *self, weir_stream *stream, const char *data,
			 size_t len)
{
	bool waits = is_shared(stream);
	size_t written = 0;
	ssize_t n = 0;

	if (stream->kind == KIND_FILE)
		return move(self, stream, WEIR__OP_FILE_WRITE, (void *)data, len);
	while (written < len && n >= 0) {
		if (stream->is_closing) /* in the turn that others had */
			n = -ECANCELED;
		else
			n = waits ? await(stream, POLLOUT) : weir__interrupted(self, self->current);
		if (n == 0)
			n = try_write(stream, data + written, len - written);
		if (n > 0) {
			written += (size_t)n;
			weir__budget_spend(self);
		}
		waits = n == -EAGAIN || is_shared(stream);
		if (n == -EAGAIN || n == -EINTR)
			n = 0;
	}
	return written > 0 ? (ssize_t)written : n;
}

ssize_t weir_stream_write(weir_stream *stream, const void *data, size_t len)
{
	struct weir__worker *self = weir__worker_self();
	int err = may_use(stream, self);

	if (err == 0 && stream->is_writing)
		err = -EBUSY;
	if (err < 0)
		return err;
	stream->is_writing = true;
	ssize_t n = write_all(self, stream, data, len);
	stream->is_writing = false;
	leave(stream);
	return n;
}

/* ---- Life --------------------------------------------------------------- */

/* Takes the descriptor, on failure too. */
static int new_stream(struct weir__io *io, int fd, enum kind kind, weir_stream **ret)
{
	weir_stream *stream = weir_alloc(sizeof *stream);

	if (!stream) {
		io->ops->close(io, &(struct weir__handle){ .fd = fd });
		return -ENOMEM;
	}
	*stream = (weir_stream){ .handle.fd = fd, .io = io, .kind = (uint8_t)kind };
	*ret = stream;
	return 0;
}

static struct weir__io *io_here(void)
{
	struct weir__worker *self = weir__worker_self();

	return self && self->current ? weir__io_of(self) : NULL;
}

int weir_pipe(weir_stream **ret_read, weir_stream **ret_write)
{
	struct weir__io *io = io_here();
	weir_stream *reading, *writing;
	int fds[2];
	int err = io ? io->pipes->open(io, fds) : -EINVAL;

	if (err < 0)
		return err;
	err = new_stream(io, fds[0], KIND_PIPE, &reading);
	if (err < 0) {
		io->ops->close(io, &(struct weir__handle){ .fd = fds[1] });
		return err;
	}
	err = new_stream(io, fds[1], KIND_PIPE, &writing);
	if (err < 0) {
		weir_stream_close(reading);
		return err;
	}
	*ret_read = reading;
	*ret_write = writing;
	return 0;
}

/* The same pipe or terminal with flags of our own, or -errno. */
static int open_again(int fd)
{
	char name[32];
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	int own = open(name, (flags & O_ACCMODE) | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	return own < 0 ? -errno : own;
}

/*
 * Each open of /dev/ptmx or /dev/net/tun is a terminal or a network of its own. A terminal's own
 * name, and the devices of the system (/dev/null, /dev/zero), stand for the same every time.
 */
static bool is_same_again(int fd, const struct stat *st)
{
	unsigned number;

	if (S_ISFIFO(st->st_mode) || major(st->st_rdev) == MEM_MAJOR)
		return true;
	return isatty(fd) && ioctl(fd, TIOCGPTN, &number) < 0; /* that is of /dev/ptmx */
}

static enum kind kind_of(mode_t mode)
{
	if (S_ISCHR(mode))
		return KIND_DEVICE;
	if (S_ISSOCK(mode))
		return KIND_SOCKET;
	return S_ISFIFO(mode) ? KIND_SHARED : KIND_FILE;
}

int weir_stream_from(weir_stream **ret, int fd)
{
	struct weir__io *io = io_here();
	struct stat st;
	int own = -1;

	if (!io || weir__virtual)
		return io ? -EOPNOTSUPP : -EINVAL;
	if (fstat(fd, &st) < 0)
		return -errno;
	enum kind kind = kind_of(st.st_mode);
	if ((kind == KIND_SHARED || kind == KIND_DEVICE) && is_same_again(fd, &st))
		own = open_again(fd);
	if (own >= 0)
		kind = KIND_PIPE;
	else
		own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return own < 0 ? -errno : new_stream(io, own, kind, ret);
}

int weir_stream_open(weir_stream **ret, const char *path, int flags)
{
	struct weir__io *io = io_here();
	struct stat st;

	if (!io || weir__virtual)
		return io ? -EOPNOTSUPP : -EINVAL;
	int fd = open(path, (flags & O_ACCMODE) | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return -errno;
	int err = fstat(fd, &st) < 0 ? -errno : 0;
	if (err == 0 && !S_ISFIFO(st.st_mode) && !S_ISCHR(st.st_mode))
		err = -EINVAL;
	if (err < 0) {
		(void)close(fd);
		return err;
	}
	err = new_stream(io, fd, KIND_PIPE, ret);
	if (err == 0)
		(*ret)->waits_first = S_ISFIFO(st.st_mode) && (flags & O_ACCMODE) == O_RDONLY;
	return err;
}

void weir_stream_close(weir_stream *stream)
{
	if (!stream)
		return;
	WEIR_ASSERT(stream->io->worker == weir__worker_self() && stream->io->worker->current);
	stream->is_closing = true;
	weir__handle_cancel(stream->io, &stream->handle);
	if (stream->is_reading || stream->is_writing) {
		stream->closer = stream->io->worker->current;
		weir__park_for(stream->io->worker, "close");
	}
	weir__handle_close(stream->io, &stream->handle);
	weir_free(stream);
}
