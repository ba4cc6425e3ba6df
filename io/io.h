/* SPDX-License-Identifier: MIT */
/*
 * weir/io.h: the runtime's front door and everything that talks to the outside.
 *
 * weir_run() starts the workers, each with a ring of its own (io_uring, or epoll where that is
 * refused), and runs a function as the first task. Connections, listeners and buffers belong to the
 * worker they were made on; a call from anywhere but a task of that worker returns -EXDEV, or
 * -EINVAL on its own thread between tasks. What returns nothing (closing) must not be called there.
 *
 * Addresses are text: "127.0.0.1:7000", "[::1]:7000", ":7000" (every address), "unix:/run/x.sock",
 * "unix:@name" (abstract); to listen also "fd:3", see weir_listen(). Port 0 lets the kernel choose;
 * weir_listener_address() tells.
 *
 * The errors listed with a call are those that a program in service may meet. Where a system call
 * knows more of them (its manual page has all), they are passed on as they are.
 */
#ifndef WEIR_IO_H
#define WEIR_IO_H

#include <sys/stat.h>

#include "runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Start -------------------------------------------------------------- */

struct weir_run_opts {
	weir_fn fn; /* the two positional ones come first and never move */
	void *arg;
	size_t size;	      /* filled by the macro */
	unsigned workers;     /* 0: WEIR_WORKERS, else as many as the affinity mask and cgroup quota
				 allow */
	const char *driver;   /* "uring", "epoll", "sim"; NULL: WEIR_DRIVER, else the best */
	size_t stack_bytes;   /* a task's stack; 0: WEIR_STACK_KB, else 64 KiB */
	int64_t drain_ns;     /* how long a first SIGINT or SIGTERM lets clients finish; 0:
				 WEIR_DRAIN_MS, 1 s */
	bool signals_ignored; /* leave SIGINT and SIGTERM alone */
	bool pin;	      /* bind worker i to the i-th allowed CPU */
	const struct weir_thread_hooks *hooks; /* copied; NULL: none */
};

/*
 * Runs fn(arg) as the first task on this thread, which becomes worker 0, until it and every task
 * has ended. Returns what fn returned, 0 when WEIR_HELP=1 was set and answered, or before fn ran:
 * -EINVAL (an option or a WEIR_* variable that does not parse; the reason is on stderr; or inside a
 * runtime), -ENOMEM, -EMFILE, -EAGAIN (no thread), or -EPERM, -EACCES, -ENOSYS, -EINVAL (io_uring
 * was insisted on and refused; else epoll serves where one worker is refused it).
 * SIGINT and SIGTERM drain the servers, then cancel: fn sees -ECANCELED. A second one cancels at
 * once, in shields too; tasks that have not ended after WEIR_STOP_MS are listed on stderr and
 * weir_run() returns -ECANCELED without them: they stay behind, so the program should end. A third
 * signal kills. With the driver "sim" the run is simulated: see weir_sim_run(), whose errors come
 * with it, and docs/simulator.md.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_run_with(const struct weir_run_opts *opts);
#define weir_run(...)                                                                              \
	weir_run_with(&(struct weir_run_opts){ __VA_ARGS__, .size = sizeof(struct weir_run_opts) })

/*
 * The same in a program that has a loop of its own: worker 0 does not sleep but is driven by it.
 * One turn of the loop:
 *
 *   int64_t ns = weir_embed_next(embed);
 *   wait until weir_embed_fd(embed) is readable, for `ns` at most, and for what else there is
 *   over = !weir_embed_turn(embed);
 *
 * All calls come from the thread that opened it, none from a task. That thread may use everything
 * that does not park: weir_chan_try_send(), weir_post(), allocation.
 */
typedef struct weir_embed weir_embed;

/*
 * Gives a runtime whose first task is fn(arg), not begun yet. SIGINT and SIGTERM stay the
 * program's. Returns 0, -ECANCELED (WEIR_HELP=1 was set and answered), -EOPNOTSUPP (the driver
 * "sim") or the errors of weir_run().
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_embed_open_with(weir_embed **ret,
							 const struct weir_run_opts *opts);
#define weir_embed_open(ret, ...)                                                                  \
	weir_embed_open_with((ret), &(struct weir_run_opts){                                       \
					    __VA_ARGS__, .size = sizeof(struct weir_run_opts) })

/* A descriptor for poll(2), epoll and the like: readable when a turn has something to do. Borrowed.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_embed_fd(const weir_embed *embed);

/*
 * Takes what has come and runs tasks for a slice (WEIR_SLICE_US) at most. Never blocks. Returns 1,
 * or 0 when the first task and all others have ended.
 */
WEIR_API WEIR_NONNULL int weir_embed_turn(weir_embed *embed);

/*
 * For how many nanoseconds the loop may wait, unless the descriptor is readable before: 0 for not
 * at all, WEIR_FOREVER for no limit. The last call before it waits: it announces that worker 0
 * sleeps and hands queued operations to the kernel.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int64_t weir_embed_next(weir_embed *embed);

/*
 * Takes it: cancels what still runs, waits for its end (blocks) and for the other workers. Returns
 * what the first task returned. Accepts NULL.
 */
WEIR_API int weir_embed_close(weir_embed *embed);

/* Does what a SIGTERM does, from any task: the second call is a second signal. Does not park. */
WEIR_API void weir_stop(void);

/*
 * Parks until one of `count` signals comes, and returns its number. From the first call on these
 * signals are the runtime's, until it ends; SIGINT and SIGTERM then do not stop it. One that comes
 * while no task waits for it is kept, once, for the next call; one that comes while several wait is
 * told to all. Returns -EINVAL (none, or SIGKILL, SIGSTOP, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGURG,
 * or outside tasks), -EBUSY when another runtime of the process has signals, -ECANCELED, -ETIME.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_signal_wait_any(const int *numbers, size_t count);
/* weir_signal_wait(SIGHUP, SIGUSR1) */
#define weir_signal_wait(...)                                                                      \
	weir_signal_wait_any((const int[]){ __VA_ARGS__ },                                         \
			     sizeof((const int[]){ __VA_ARGS__ }) / sizeof(int))

/* Prints what this machine offers a runtime (io_uring, limits, clocks) and what to type where it
 * lacks. */
WEIR_API WEIR_NONNULL void weir_doctor(FILE *out);

/* ---- Listeners ---------------------------------------------------------- */

typedef struct weir_listener weir_listener;
typedef struct weir_conn weir_conn;

struct weir_listen_opts {
	const char *address; /* positional: io.h's head comment has the forms */
	size_t size;	     /* filled by the macro */
	int backlog;	     /* 0: 4096; the kernel clamps it to net.core.somaxconn */
	bool nagle;	     /* keep Nagle's algorithm; the default is TCP_NODELAY */
};

/*
 * Gives a listening socket in *ret. A Unix socket's stale file is replaced, a live one is not. Does
 * not park. Returns 0, -EINVAL (address, or outside a runtime), -EADDRINUSE, -EACCES,
 * -EADDRNOTAVAIL, -EAFNOSUPPORT (IPv6 where there is none), -ENOENT, -ENOTDIR (no such directory),
 * -EMFILE, -ENFILE, -ENOMEM.
 *
 * "fd:3" takes a listening socket that the process was started with or was given, "fd:http" the one
 * that a service manager calls so (LISTEN_FDS and LISTEN_FDNAMES, systemd's socket activation): no
 * client that connects between two processes is turned away. It keeps its backlog, is closed with
 * the listener, a Unix socket's file stays, and all workers of a weir_serve() share it. Then also
 * -EBADF, -ENOTSOCK, -EINVAL (it does not listen for streams), -ENOENT (no such name), -EOPNOTSUPP
 * in the simulator; and the descriptor is as it was.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_listen_with(weir_listener **ret,
						     const struct weir_listen_opts *opts);
#define weir_listen(ret, ...)                                                                      \
	weir_listen_with((ret), &(struct weir_listen_opts){                                        \
					__VA_ARGS__, .size = sizeof(struct weir_listen_opts) })

/* The bound address in the same text form, borrowed from the listener. */
WEIR_API WEIR_NONNULL const char *weir_listener_address(const weir_listener *listener);

/*
 * Its descriptor, borrowed: to hand on to the process that is to take over, by weir_send_fd() or
 * over an exec. From then on closing the listener leaves a Unix socket's file. With
 * WEIR_BALANCE_REUSEPORT it is the socket of one worker; what waits at the others' goes with this
 * process. -EOPNOTSUPP in the simulator.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_listener_fd(weir_listener *listener);

/* Takes the listener. Accepts NULL. A weir_accept() parked on it returns -ECANCELED. */
WEIR_API void weir_listener_close(weir_listener *listener);

typedef int (*weir_handler)(weir_conn *conn);

enum weir_balance {
	/*
	 * Each worker has a listening socket of its own, and the kernel spreads the clients by
	 * their addresses: evenly when there are many.
	 */
	WEIR_BALANCE_REUSEPORT,
	/*
	 * The caller's worker accepts and hands each client to the worker with the fewest: evenly
	 * when there are few and they stay. Costs a message for each client that goes elsewhere.
	 */
	WEIR_BALANCE_HANDOFF,
	/* The caller's worker has them all: for what is its own, and for few who share much. */
	WEIR_BALANCE_FIXED,
	/*
	 * As HANDOFF, but to the worker that the client's host belongs to, whatever its port: what
	 * is kept for a host lies with one worker. A client whose worker is full (.conns_max), or
	 * that has no host (Unix sockets), goes to the one with the fewest.
	 */
	WEIR_BALANCE_HASH,
};

struct weir_serve_opts {
	weir_listener *listener; /* positional */
	weir_handler handler;	 /* positional */
	size_t size;		 /* filled by the macro */
	const char *name;	 /* of the client tasks */
	void *user;		 /* borrowed; weir_conn_user() returns it */
	unsigned conns_max;	 /* clients at once on each worker; more wait in the backlog. 0: by
				    RLIMIT_NOFILE */
	enum weir_stack_class stack; /* of the client tasks */
	enum weir_balance balance;   /* which worker gets a client */
	const char *site;	     /* filled by the macro: "file.c:12", where clients come from */
};

/*
 * Serves until cancelled: every worker accepts for itself, each client is a task running
 * handler(conn), and the connection is closed on every way out of it, after what the handler has
 * deferred (weir_task_defer()). A client's error is counted
 * and touches nobody else. While weir_mem_level_get() is WEIR_MEM_CRITICAL, and where descriptors
 * have run out, new clients wait in the backlog; accepting is tried again every 100 ms. Parks.
 * Returns -ECANCELED or -ETIME after the clients have ended; before that -EINVAL,
 * -EXDEV (another worker's listener), -ENOMEM, or the error of a listening socket: those of
 * weir_listen(), for each worker opens one.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_serve_with(const struct weir_serve_opts *opts);
#define weir_serve(...)                                                                            \
	weir_serve_with(&(struct weir_serve_opts){ __VA_ARGS__,                                    \
						   .size = sizeof(struct weir_serve_opts),         \
						   .site = __FILE__ ":" WEIR__STR(__LINE__) })

struct weir_serve_stats {
	uint64_t accepted;
	uint64_t open;		/* clients now */
	uint64_t failed;	/* handlers that returned a negative value */
	uint64_t accept_pauses; /* times accepting stopped for want of descriptors or memory, at
				   conns_max, or at WEIR_MEM_CRITICAL */
};
/* Sums over all workers, of every weir_serve() so far; zeroes outside a runtime. */
WEIR_API WEIR_NONNULL void weir_serve_stats_get(struct weir_serve_stats *ret);

/*
 * Parks until a client connects and gives its connection in *ret. Returns 0, -ECANCELED, -ETIME,
 * -EMFILE, -ENFILE, -ENOMEM, or -ECONNABORTED (a client that has left): the listener goes on.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_accept(weir_listener *listener, weir_conn **ret);

/* ---- Connections -------------------------------------------------------- */

/*
 * Parks until connected to `address` and gives the connection in *ret. Here a name may stand for
 * the host, "localhost:7000": it is looked up as this machine is set up to (WEIR_DNS_THREADS), and
 * its addresses (the first 8) are tried in their order, and the last one's error is told. Returns
 * 0, -EINVAL (address), -ENOENT (no such host, no such Unix socket), -EAGAIN (the name servers do
 * not answer, or too many names are being looked up), -EIO (they answer nonsense), -ECONNREFUSED,
 * -ECONNRESET, -ENETUNREACH, -EHOSTUNREACH, -ETIMEDOUT, -EADDRNOTAVAIL (no port is left for it),
 * -EAFNOSUPPORT (IPv6 where there is none), -EACCES, -EPERM, -EPROTOTYPE (a Unix datagram socket),
 * -EMFILE, -ENFILE, -ENOMEM, -ECANCELED, -ETIME. At a Unix socket whose backlog is full it waits.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_connect(weir_conn **ret, const char *address);

/*
 * Parks until something has arrived, at least one byte, and lends it in a buffer of the worker's
 * pool; what *ret held before is released first, whatever comes of it. While it waits the
 * connection owns no buffer. Returns the byte count, 0 when the peer has closed (nothing is lent),
 * or -ECONNRESET, -ETIMEDOUT, -EHOSTUNREACH: such an end stays, later calls say the same; or
 * -ECANCELED, -ETIME, -ENOMEM (nothing is lost: the next call tries again), -EBUSY when another
 * task is receiving on it.
 */
WEIR_API WEIR_MUST WEIR_NONNULL ssize_t weir_recv(weir_conn *conn, weir_buf *ret);

/*
 * Takes the lease and sends its `len` bytes, in the order of the calls. Like write(2) it returns
 * when they are taken for sending, not when they have arrived; the block goes back to its pool when
 * the kernel is done with it. One lease of a connection is in flight at a time: while an earlier
 * one still is, it parks. *buf is empty afterwards, whatever happened. Returns the byte count; or
 * -ECANCELED, -ETIME, -ENOMEM (nothing is lost but this lease), -EBUSY when another task is sending
 * on it, or -EPIPE, -ECONNRESET, -ETIMEDOUT, -EHOSTUNREACH: of this send when that is known at
 * once, of an earlier one else, which is told once.
 */
WEIR_API WEIR_MUST WEIR_NONNULL ssize_t weir_send(weir_conn *conn, weir_buf *buf);

/*
 * Sends from memory of the caller's, which is borrowed until it returns: parks until the kernel is
 * done with it. Returns the bytes sent: all of them, or fewer when cancelled, timed out or broken
 * midway; or the errors of weir_send().
 */
WEIR_API WEIR_MUST WEIR_NONNULL ssize_t weir_write(weir_conn *conn, const void *data, size_t len);

/*
 * Parks until exactly `len` bytes are in `ret`. Returns 0, -ENODATA when the peer closed before, or
 * the errors of weir_recv(). On failure the bytes that had come are in `ret` and lost to the
 * stream.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_read_full(weir_conn *conn, void *ret, size_t len);

/*
 * Parks until `delimiter` has come and copies everything up to and including it to `ret`, which has
 * room for `cap` bytes. Returns the byte count; 0 when the peer closed before the first byte,
 * -ENODATA when it closed later, -EMSGSIZE when `cap` bytes came without the delimiter (they stay
 * in `ret`), or the errors of weir_recv().
 */
WEIR_API WEIR_MUST WEIR_NONNULL ssize_t weir_read_until(weir_conn *conn, char delimiter, void *ret,
							size_t cap);

/*
 * Ends the sending half; the peer sees end of stream. Parks. Returns 0, -ENOTCONN, or the errors of
 * weir_send(): then nothing has ended, and the next call tries again.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_shutdown(weir_conn *conn);

/*
 * Takes the connection: lets a lease in flight go out (5 s at most; not at all in a cancelled
 * task), cancels what else is in flight on it (a task parked there gets -ECANCELED), waits for the
 * kernel to let go, closes. Parks, without being a cancellation point. Accepts NULL.
 */
WEIR_API void weir_conn_close(weir_conn *conn);

/*
 * The peer's address in text, written to `ret` (size `cap`, 64 suffices for IP). Parks, without
 * being a cancellation point: who is late can still say whom it was about. Returns 0, -ENOTCONN
 * (the peer has reset it: then the kernel no longer knows), -ENOTSUP, -ENOSPC, -EMFILE, -ENFILE.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_conn_peer(weir_conn *conn, char *ret, size_t cap);

/*
 * A second descriptor of the connection's socket, the caller's to close: for setsockopt(2) and
 * getsockopt(2) (SO_PEERCRED among others), and for weir_send_fd(); reading and writing stay the
 * connection's. Parks, without being a cancellation point. Returns it, or -EMFILE, -EOPNOTSUPP in
 * the simulator.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_conn_dup(weir_conn *conn);

/*
 * Makes a connection of `fd`, a connected stream socket that came from outside, and takes it; a
 * call that fails has not. Does not park. Returns 0, -ENOTCONN, -EPROTOTYPE (datagrams), -ENOTSOCK,
 * -EBADF, -ENOMEM, -EINVAL, -EOPNOTSUPP in the simulator.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_conn_from(weir_conn **ret, int fd);

/*
 * Sends `len` bytes, at least one, like weir_write(), and with the first of them a descriptor, over
 * a Unix socket. `fd` is borrowed: the peer gets one of its own. Parks. Returns the bytes sent; or
 * the errors of weir_write(), -EBADF (fd), -ETOOMANYREFS (too many are under way), -EMFILE, -EINVAL
 * (no bytes), -EOPNOTSUPP (no Unix socket, and in the simulator).
 */
WEIR_API WEIR_MUST WEIR_NONNULL ssize_t weir_send_fd(weir_conn *conn, int fd, const void *data,
						     size_t len);

/*
 * Parks until something has come over a Unix socket, and copies it to `ret`, `cap` bytes at most.
 * Gives the descriptor that came with it in *ret_fd, close-on-exec, or -1; of several the first,
 * the kernel closes the others. Who gives up has taken none. Returns the byte count, 0 at the end
 * (*ret_fd is -1), or -EBUSY: another task receives on it, or weir_recv() and its kin have been
 * used, which take bytes without what comes with them; -EINVAL (no room), -EMFILE (there was no
 * room for the descriptor: it is lost, and the bytes with it), -EOPNOTSUPP (as above), -ECONNRESET,
 * -ECANCELED, -ETIME.
 */
WEIR_API WEIR_MUST WEIR_NONNULL ssize_t weir_recv_fd(weir_conn *conn, int *ret_fd, void *ret,
						     size_t cap);

/* The .user of the weir_serve() that accepted it; NULL otherwise. */
WEIR_API WEIR_NONNULL void *weir_conn_user(const weir_conn *conn);

/* ---- Datagrams ---------------------------------------------------------- */

/*
 * Where a datagram comes from or goes to: a value, copied at will. In memory it is one of the
 * kernel's struct sockaddr_in, _in6 or _un.
 */
struct weir_address {
	uint32_t sockaddr[28];
	uint32_t len; /* bytes of it that count */
};

/* From the text forms of io.h's head comment, no names of hosts. Returns 0 or -EINVAL. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_address_parse(struct weir_address *ret, const char *text);

/* In text, written to `ret` (size `cap`, 128 always suffices). An IPv4 address comes out as one,
 * whatever the socket; a Unix socket without a name as "unix:". Returns 0, -ENOSPC, -ENOTSUP. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_address_format(const struct weir_address *address,
							char *ret, size_t cap);

/* Whether two that came from one socket, or both from text, are the same. */
WEIR_API WEIR_MUST WEIR_NONNULL bool weir_address_equal(const struct weir_address *a,
							const struct weir_address *b);

typedef struct weir_dgram weir_dgram;

struct weir_dgram_opts {
	const char *address; /* positional: io.h's head comment has the forms. ":0" for a client;
				"unix:" takes a free abstract name */
	size_t size;	     /* filled by the macro */
	size_t bytes_max;    /* longer datagrams are cut; 0: 65535, which no UDP datagram exceeds.
				Below WEIR_RECV_BYTES - 128 they take less memory */
	bool shared;	     /* SO_REUSEPORT: sockets of several workers, or processes, have one
				address, and the kernel spreads the senders. Not for Unix sockets */
};

/*
 * Gives a UDP or Unix datagram socket, bound to an address, in *ret. It belongs to the calling
 * worker. A Unix socket's stale file is replaced, a live one is not. Does not park. Returns 0,
 * -EINVAL (address, bytes_max above 65535), -EADDRINUSE, -EACCES, -EADDRNOTAVAIL, -EAFNOSUPPORT
 * (IPv6 where there is none), -ENOENT, -ENOTDIR (no such directory), -EOPNOTSUPP (.shared of a Unix
 * socket), -EMFILE, -ENFILE, -ENOMEM.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_dgram_open_with(weir_dgram **ret,
							 const struct weir_dgram_opts *opts);
#define weir_dgram_open(ret, ...)                                                                  \
	weir_dgram_open_with((ret), &(struct weir_dgram_opts){                                     \
					    __VA_ARGS__, .size = sizeof(struct weir_dgram_opts) })

/* The bound address in the same text form, borrowed from the socket. */
WEIR_API WEIR_MUST WEIR_NONNULL const char *weir_dgram_address(const weir_dgram *dgram);

/*
 * Its descriptor, borrowed: for setsockopt(2), multicast groups and buffer sizes among others; not
 * to be read, written or closed. -EOPNOTSUPP in the simulator.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_dgram_fd(const weir_dgram *dgram);

/*
 * Makes `address` the peer: weir_dgram_send() needs no other, datagrams of others are no longer
 * taken (some may be queued already), and over UDP the network's refusals are told. May be called
 * again. A name may stand for the host, as in weir_connect(); looking it up parks. Returns 0,
 * -EINVAL (address), -ENOENT (no such host or file), -EAGAIN, -EIO (name servers), -ECONNREFUSED
 * (a Unix socket nobody has), -EAFNOSUPPORT (another family than the socket's), -ENETUNREACH,
 * -EHOSTUNREACH, -EACCES, -EPROTOTYPE (a Unix stream), -ENOMEM, -ECANCELED, -ETIME, -EXDEV.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_dgram_connect(weir_dgram *dgram, const char *address);

/*
 * Parks until a datagram has come and lends it in a buffer of the worker's pool; what *ret held
 * before is released. Its sender goes to *ret_from, unless that is NULL. Returns its length, which
 * may be 0; -EMSGSIZE when it was longer than .bytes_max: then that much of it is lent all the
 * same; or, with nothing lent, -ECONNREFUSED, -EHOSTUNREACH (of a peer, told once), -ECANCELED,
 * -ETIME, -ENOMEM (nothing is lost: the next call tries again), -EBUSY when another task is
 * receiving on it, -EXDEV. What comes late is the next call's: up to 64 datagrams wait here, beyond
 * that the socket receives no more and the kernel keeps what its SO_RCVBUF has room for.
 */
WEIR_API WEIR_MUST __attribute__((nonnull(1, 2))) ssize_t
weir_dgram_recv(weir_dgram *dgram, weir_buf *ret, struct weir_address *ret_from);

/*
 * The same into memory of the caller's, `cap` bytes of it: returns -EMSGSIZE with the first of a
 * datagram that is longer; its rest is lost.
 */
WEIR_API WEIR_MUST __attribute__((nonnull(1, 2))) ssize_t
weir_dgram_read(weir_dgram *dgram, void *ret, size_t cap, struct weir_address *ret_from);

/*
 * Sends one datagram, of 0 bytes too, to `to`, or with NULL to the peer. `data` is borrowed until
 * it returns. Parks only while the socket, or a Unix receiver's queue, has no room. Any number of
 * tasks may send at once. Returns `len`, or why this datagram was not sent: -EMSGSIZE,
 * -EDESTADDRREQ or -ENOTCONN (no peer), -ENOBUFS, -EPERM (a packet filter), -EACCES, -ENETUNREACH,
 * -EHOSTUNREACH, -EAFNOSUPPORT, -EINVAL, -ENOENT (Unix), -ENOMEM, -ECANCELED, -ETIME, -EXDEV;
 * -ECONNREFUSED: a Unix socket nobody has; or over UDP the answer to an earlier one to the peer,
 * told once, by this or by a receive.
 */
WEIR_API WEIR_MUST __attribute__((nonnull(1, 2))) ssize_t
weir_dgram_send(weir_dgram *dgram, const void *data, size_t len, const struct weir_address *to);

/*
 * Takes the socket: tasks parked in a call on it get -ECANCELED and are waited for, as is the
 * kernel; datagrams nobody has taken are lost, and so is a Unix socket's file. Parks, without being
 * a cancellation point. Accepts NULL.
 */
WEIR_API void weir_dgram_close(weir_dgram *dgram);

static inline void weir__dgram_cleanup(weir_dgram **dgram)
{
	weir_dgram_close(*dgram);
}
#define weir_auto_dgram WEIR_CLEANUP(weir__dgram_cleanup) __typeof__(weir_dgram *)

/* ---- Files -------------------------------------------------------------- */

/*
 * An open file, a block device, or a character device that has no end (/dev/zero). Any worker may
 * use it, many tasks at once: there is no position, every call says where. What io_uring does not
 * do itself, and everything on epoll, runs on threads of their own (WEIR_FS_THREADS), so no disk
 * holds a worker. A call that is cancelled or late still ends by its own completion: the kernel
 * has let go of the caller's memory when it returns.
 *
 * All of them park and return the negative errno of the system call, beside what they name; and
 * -ECANCELED, -ETIME, -EINVAL (outside tasks, an offset below 0, bytes that would end behind
 * INT64_MAX), -EAGAIN (no thread for it could be started). -EBADF is a file that is not open for
 * this, or is being closed.
 */
typedef struct weir_file weir_file;

struct weir_file_opts {
	const char *path; /* the two positional ones come first and never move */
	int flags;	  /* open(2)'s: O_RDONLY, O_WRONLY | O_CREAT | O_TRUNC, O_APPEND ... */
	size_t size;	  /* filled by the macro */
	unsigned mode;	  /* of a file that is created, less the umask; 0: 0666 */
};

/*
 * Gives the file in *ret; close-on-exec. With O_DIRECT the memory, the offset and the length of
 * every call are multiples of the device's block, 4096 being one nearly everywhere
 * (weir_alloc_aligned()); else -EINVAL. Returns 0, -ENOENT, -EEXIST, -EACCES, -EISDIR, -EROFS,
 * -EMFILE, -ENOMEM, or -ESPIPE: a FIFO or a terminal is a stream, see weir_stream_open(); -ENXIO:
 * a FIFO that nobody reads.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_file_open_with(weir_file **ret,
							const struct weir_file_opts *opts);
#define weir_file_open(ret, ...)                                                                   \
	weir_file_open_with((ret), &(struct weir_file_opts){                                       \
					   __VA_ARGS__, .size = sizeof(struct weir_file_opts) })

/*
 * Reads `len` bytes from `offset` on into `ret`, borrowed. Returns the byte count: fewer at the end
 * of the file (0: nothing is there), or when cancelled, late or failed midway; -EIO, -EISDIR.
 */
WEIR_API WEIR_MUST WEIR_NONNULL ssize_t weir_file_read_at(weir_file *file, void *ret, size_t len,
							  int64_t offset);

/*
 * Writes `len` bytes of `data`, borrowed, at `offset`; at the end, whatever `offset` is, of a file
 * opened with O_APPEND, where more than 1 MiB may be parted by what others append. Returns the byte
 * count: fewer when cancelled, late or failed midway, and the next call says why; -ENOSPC, -EDQUOT,
 * -EFBIG (the file system's limit or RLIMIT_FSIZE, whose signal nobody gets), -EIO.
 */
WEIR_API WEIR_MUST WEIR_NONNULL ssize_t weir_file_write_at(weir_file *file, const void *data,
							   size_t len, int64_t offset);

/*
 * Returns when what was written before is on the disk: 0, or -EIO, -ENOSPC, -EDQUOT for an earlier
 * write, told once. weir_file_sync_data() leaves out what only a stat would show.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_file_sync(weir_file *file);
WEIR_API WEIR_MUST WEIR_NONNULL int weir_file_sync_data(weir_file *file);

/* Cuts it, or lengthens it by zero bytes. Returns 0, -EFBIG, -ENOSPC, -EPERM. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_file_truncate(weir_file *file, int64_t bytes);

/* Its size in bytes now. */
WEIR_API WEIR_MUST WEIR_NONNULL int64_t weir_file_size(weir_file *file);
WEIR_API WEIR_MUST WEIR_NONNULL int weir_file_stat(weir_file *file, struct stat *ret);

/*
 * Takes the file: waits until calls of other tasks on it have ended, as they would have without
 * it, and closes. Parks, without being a cancellation point. Accepts NULL.
 */
WEIR_API void weir_file_close(weir_file *file);

/*
 * Gives a whole file in a block from weir_alloc(), with a zero byte behind it that *ret_len does
 * not count. Returns 0, -EFBIG (more than `bytes_max`), or the errors of open and read.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_file_load(const char *path, size_t bytes_max, char **ret,
						   size_t *ret_len);

/*
 * Names in the file system, on the same terms. weir_path_stat() follows symbolic links,
 * weir_path_lstat() tells of the link itself, which is for who walks a tree;
 * weir_path_remove() takes files and links, and directories that are empty (-ENOTEMPTY);
 * weir_path_rename() replaces what `to` names. Return 0, -ENOENT, -ENOTDIR, -EACCES, -EPERM,
 * -EROFS, -ENAMETOOLONG, -ELOOP; making also -EEXIST, -ENOSPC; renaming also -EISDIR, -ENOTEMPTY,
 * -EINVAL (into itself), -EXDEV (to another file system).
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_path_stat(const char *path, struct stat *ret);
WEIR_API WEIR_MUST WEIR_NONNULL int weir_path_lstat(const char *path, struct stat *ret);
WEIR_API WEIR_MUST WEIR_NONNULL int weir_path_remove(const char *path);
WEIR_API WEIR_MUST WEIR_NONNULL int weir_path_rename(const char *from, const char *to);
WEIR_API WEIR_MUST WEIR_NONNULL int weir_dir_make(const char *path, unsigned mode);

/*
 * Gives the names in a directory, in no order and without "." and "..", and a NULL after the last:
 * one block, for weir_free(). Returns how many, -ENOTDIR, -ENOENT, -EACCES, -ENOMEM.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_dir_list(const char *path, char ***ret);

/* Sums over all workers. */
struct weir_file_stats {
	uint64_t reads, writes; /* operations; a call may be several */
	uint64_t read_bytes, written_bytes;
	uint64_t others; /* open, close, sync, stat and so on */
	uint64_t pooled; /* of all of them: on a thread of their own, not in the ring */
};
WEIR_API WEIR_NONNULL void weir_file_stats_get(struct weir_file_stats *ret);

/* ---- Pipes, terminals, standard input and output ------------------------ */

/*
 * Bytes in order, one way or both: a pipe's end, a FIFO, a terminal, whatever standard input is. A
 * stream belongs to the worker it was made on: -EXDEV elsewhere.
 */
typedef struct weir_stream weir_stream;

/* Gives both ends of a new pipe. Does not park. Returns 0, -EMFILE, -ENFILE, -ENOMEM, -EINVAL. */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_pipe(weir_stream **ret_read, weir_stream **ret_write);

/*
 * Gives a stream over what `fd` is open to: 0 is standard input. `fd` is borrowed until return and
 * stays as it is, blocking for those who share it: the stream has a descriptor of its own, so a
 * pipe's other end sees it closed only when `fd` is closed too. A regular file is read and written
 * where `fd` stands. Does not park. Returns 0, -EBADF, -EMFILE, -ENOMEM, -EINVAL, -EOPNOTSUPP in
 * the simulator.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_stream_from(weir_stream **ret, int fd);

/*
 * Opens a FIFO or a terminal by name; O_RDONLY, O_WRONLY or O_RDWR. Does not park: a FIFO's reader
 * waits in its first read for who writes, and -ENXIO is a FIFO that nobody reads. Returns 0,
 * -ENOENT, -EACCES, -EMFILE, -ENOMEM, -EINVAL (it is a file or a directory), -EOPNOTSUPP in the
 * simulator.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_stream_open(weir_stream **ret, const char *path,
						     int flags);

/*
 * Parks until something has come and reads it into `ret`, borrowed; `cap` bytes at most. Returns
 * the byte count, 0 at the end, or -ECANCELED, -ETIME, -EBUSY (another task reads), -EBADF (it is
 * not for reading), -EIO; of a socket also -ECONNRESET, of a file those of weir_file_read_at().
 */
WEIR_API WEIR_MUST WEIR_NONNULL ssize_t weir_stream_read(weir_stream *stream, void *ret,
							 size_t cap);

/*
 * Writes all of `data`, borrowed; parks while there is no room. Returns the byte count: fewer when
 * cancelled, late or broken midway; or -ECANCELED, -ETIME, -EBUSY (another task writes), -EBADF,
 * -EIO, -EPIPE: nobody reads. No signal comes with it. Of a socket also -ECONNRESET, of a file
 * those of weir_file_write_at().
 */
WEIR_API WEIR_MUST WEIR_NONNULL ssize_t weir_stream_write(weir_stream *stream, const void *data,
							  size_t len);

/*
 * Takes the stream: cancels what other tasks wait for on it (-ECANCELED), and closes. Parks,
 * without being a cancellation point. Accepts NULL.
 */
WEIR_API void weir_stream_close(weir_stream *stream);

static inline void weir__file_cleanup(weir_file **file)
{
	weir_file_close(*file);
}
static inline void weir__stream_cleanup(weir_stream **stream)
{
	weir_stream_close(*stream);
}
#define weir_auto_file	 WEIR_CLEANUP(weir__file_cleanup) __typeof__(weir_file *)
#define weir_auto_stream WEIR_CLEANUP(weir__stream_cleanup) __typeof__(weir_stream *)

/* ---- Copying ------------------------------------------------------------ */

/*
 * What bytes come from, or go to, as a value: made by weir_end_conn() and its kin, or of functions
 * of the program's own. It borrows what it names.
 */
struct weir_end {
	/*
	 * Lends the next bytes, at least one and at most `most`, in *ret, which is empty. Returns
	 * the byte count, 0 at the end, or a negative errno and *ret still empty. May park. NULL:
	 * it is not for reading.
	 */
	ssize_t (*read)(struct weir_end *end, weir_buf *ret, size_t most);
	/*
	 * Takes the lease and all of its bytes, whatever it returns: how many, or a negative errno.
	 * May park. NULL: it is not for writing.
	 */
	ssize_t (*write)(struct weir_end *end, weir_buf *buf);
	int (*finish)(struct weir_end *end); /* there will be no more; NULL: it need not know */
	void *of;			     /* for these functions, like the next two */
	int64_t at;
	size_t chunk;
};

/*
 * A connection: leases that have come are sent on as they are, and finishing is weir_shutdown(). A
 * stream; finishing it is the caller's, by closing it. A file from `offset` on; its end is where it
 * was when it was read there.
 */
WEIR_API WEIR_MUST WEIR_NONNULL struct weir_end weir_end_conn(weir_conn *conn);
WEIR_API WEIR_MUST WEIR_NONNULL struct weir_end weir_end_stream(weir_stream *stream);
WEIR_API WEIR_MUST WEIR_NONNULL struct weir_end weir_end_file(weir_file *file, int64_t offset);

struct weir_copy_opts {
	struct weir_end from; /* the two positional ones come first and never move */
	struct weir_end to;
	size_t size;	   /* filled by the macro */
	int64_t bytes_max; /* ends after so many: what comes behind them stays in `from`; 0: all */
	int64_t *moved;	   /* bytes `to` has taken are added here, on failure too; NULL: not wanted
			    */
	bool finish;	   /* at the end of `from` finishes `to`, too */
	unsigned ahead; /* leases that a task of its own reads while `to` takes its time; 0: none.
			   For pieces that come slowly, or cost as much to write as large ones:
			   small ones that have come are written together */
};

/*
 * Moves bytes from one end to the other until the first has no more, one lease after the other:
 * while `to` takes nothing, `from` is not read but for what .ahead allows. Of connections no byte
 * is copied, and nothing is held while they are silent. Parks. Returns how many bytes were moved,
 * or the first error: -EINVAL (an end that is not for this, or bytes_max below 0), else the errors
 * of the calls it is made of; of those of `from`, when what came before has been written. Then
 * bytes that `from` has given and `to` has not taken are lost: one lease at most; with .ahead what
 * was being written, and so many leases.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int64_t weir_copy_with(const struct weir_copy_opts *opts);
#define weir_copy(...)                                                                             \
	weir_copy_with(                                                                            \
		&(struct weir_copy_opts){ __VA_ARGS__, .size = sizeof(struct weir_copy_opts) })

struct weir_copy_both_opts {
	struct weir_end a; /* the two positional ones come first and never move */
	struct weir_end b;
	size_t size;	 /* filled by the macro */
	int64_t *a_to_b; /* as `moved` above */
	int64_t *b_to_a;
	int64_t idle_ns;    /* ends with -ETIME when nothing has come from either for so long (twice
			       as long at most), or one has not taken all of a lease that waits for
			       it; 0: patience */
	bool ends_together; /* the end of one is the end of both: what the other still has to say
			       is not waited for */
};

/*
 * Copies both ways at once, the second in a task of its own, as a proxy does. When one end has no
 * more the other is finished, and the other way goes on until it ends, too. Parks until both have.
 * Returns 0, or the first error of either way: the other one is cancelled and waited for. Both ends
 * are still the caller's to close. Errors are those of weir_copy() and weir_spawn().
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_copy_both_with(const struct weir_copy_both_opts *opts);
#define weir_copy_both(...)                                                                        \
	weir_copy_both_with(&(struct weir_copy_both_opts){                                         \
		__VA_ARGS__, .size = sizeof(struct weir_copy_both_opts) })

/* ---- Simulation --------------------------------------------------------- */

/*
 * How often a simulated machine does what a real one may, per thousand occasions. The first group
 * is what the library hides from a program, the second what it reports as errors, the third what
 * nobody tells a program.
 */
struct weir_sim_faults {
	unsigned short_io;	 /* fewer bytes are moved than could be */
	unsigned late;		 /* an operation, a packet or a wake-up takes up to 20 ms */
	unsigned no_buffers;	 /* a receive finds no buffer and tries again */
	unsigned late_success;	 /* a cancelled operation succeeds */
	unsigned cancel_refused; /* it cannot be cancelled now, later perhaps */
	unsigned overflow;	 /* completions wait outside a full queue */
	unsigned stall;		 /* a worker's thread stands still for up to 50 ms */

	unsigned reset;		 /* a transfer finds its connection broken: -ECONNRESET */
	unsigned refuse;	 /* connecting: -ECONNREFUSED or -ETIMEDOUT */
	unsigned no_descriptors; /* accepting, connecting, opening: -EMFILE */
	unsigned no_memory;	 /* allocations */
	unsigned io_error;	 /* an operation on a file: -EIO */
	unsigned no_space;	 /* writing one: -ENOSPC, a part being written perhaps */

	unsigned lost;	    /* a UDP datagram does not come */
	unsigned doubled;   /* it comes twice */
	unsigned overtaken; /* it comes after later ones, up to 20 ms */
};

/* An operation that is about to start. The last three fields may be changed. */
struct weir_sim_op {
	/*
	 * "accept", "connect", "recv", "send", "shutdown", "recv_from", "send_to"; of files
	 * "read", "write", "open" ...: what the call is named after
	 */
	const char *name;
	uint64_t nth; /* of that name in this run, from 1 */
	unsigned worker;
	int error;	  /* when not 0: it ends with this negative errno */
	size_t bytes_max; /* when not 0: no more than that at a time */
	int64_t delay_ns; /* before it does anything */
};
typedef void (*weir_sim_script)(struct weir_sim_op *op, void *arg);

/* What a run was. The same seed gives the same. */
struct weir_sim_result {
	uint64_t seed;
	uint64_t hash;	      /* of every decision and completion */
	uint64_t steps;	      /* times a worker went on */
	uint64_t suspensions; /* times a task was parked where it can be cancelled */
	uint64_t faults;      /* that happened */
	int64_t elapsed_ns;   /* of virtual time */
};

struct weir_sim_opts {
	uint64_t seed; /* 0: one by the clock. The three positional ones come first and never move
			*/
	weir_fn fn;
	void *arg;
	size_t size;	  /* filled by the macro */
	uint64_t runs;	  /* with this seed and those after it, until one fails; 0: 1 */
	unsigned workers; /* 0: 1 to 4, by the seed */
	bool calm;	  /* no faults, no delays: for tests of time alone */
	bool failures;	  /* errors too; without it the faults are those a program cannot see */
	const struct weir_sim_faults *faults; /* NULL: some of them, by the seed */
	weir_sim_script script; /* asked at each start of an operation; NULL: nobody */
	void *script_arg;
	uint64_t cancel_at; /* everything is cancelled at this suspension, from 1; 0: never */
	bool cancel_task;   /* at that point, only the task that is parked there */
	bool leaks_allowed; /* of memory: what fn allocates may outlive it */
	uint64_t steps_max; /* 0: 10 million */
	FILE *report;	    /* where a failure is explained; NULL: stderr */
	struct weir_sim_result *result; /* of the last run; NULL: not wanted */
};

/*
 * Runs fn(arg) like weir_run(), but on virtual workers on the calling thread, in virtual time, with
 * a network in memory that nothing outside can see; every choice a machine would make is drawn from
 * `seed`. Takes fn as a task; it must touch the outside only through this library. Time passes when
 * nobody can run, and a little with each reading of the clock. WEIR_SIM_SEED in the environment
 * replaces `seed` and `runs`; WEIR_SIM_TRACE=1 writes each step to the report.
 *
 * Returns what fn returned, or -EDEADLK when all tasks wait and nothing will come (the report says
 * who waits on what; then everything is cancelled), -ELOOP after `steps_max` steps, -ENOTEMPTY when
 * descriptors, operations, leases or memory were left over, -EINVAL (options, more than 16 workers,
 * a WEIR_* variable that does not parse, or inside a runtime), -ENOMEM. The report names the seed
 * of the run that failed. Blocks the thread.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_sim_run_with(const struct weir_sim_opts *opts);
#define weir_sim_run(...)                                                                          \
	weir_sim_run_with(                                                                         \
		&(struct weir_sim_opts){ __VA_ARGS__, .size = sizeof(struct weir_sim_opts) })

static inline void weir__conn_cleanup(weir_conn **conn)
{
	weir_conn_close(*conn);
}
static inline void weir__listener_cleanup(weir_listener **listener)
{
	weir_listener_close(*listener);
}
#define weir_auto_conn	   WEIR_CLEANUP(weir__conn_cleanup) __typeof__(weir_conn *)
#define weir_auto_listener WEIR_CLEANUP(weir__listener_cleanup) __typeof__(weir_listener *)

/* ---- Seeing inside ------------------------------------------------------- */

/*
 * Writes what workers, servers, odd events and the allocator have counted to `out`, which is
 * borrowed, as OpenMetrics text with its closing line; the content type is
 * WEIR_METRICS_CONTENT_TYPE. Does not park, but a file or a pipe may block; a stream in memory does
 * not (open_memstream(3)). Returns 0, -EINVAL outside a runtime, -ENOMEM, or -EIO.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_metrics_write(FILE *out);
#define WEIR_METRICS_CONTENT_TYPE "application/openmetrics-text; version=1.0.0; charset=utf-8"

/* ---- Children ----------------------------------------------------------- */

typedef struct weir_process weir_process;

/* What one of a child's standard streams is. */
enum weir_stdio {
	WEIR_STDIO_INHERIT, /* ours */
	WEIR_STDIO_PIPE,    /* a connection to us: a socket, which the child uses like a pipe */
	WEIR_STDIO_NULL,    /* /dev/null */
};

struct weir_process_opts {
	const char *const *argv; /* positional: ends with NULL; [0] is looked up in PATH */
	size_t size;		 /* filled by the macro */
	const char *const *env;	 /* "NAME=value", ends with NULL; NULL: ours */
	const char *cwd;	 /* NULL: ours */
	enum weir_stdio in;
	enum weir_stdio out;
	enum weir_stdio err;
};

/*
 * Starts a program and gives it in *ret. The child gets its three streams and no other descriptor,
 * and no signal blocked. Blocks the worker until the program is loaded, about a millisecond; does
 * not park. Returns 0, -ENOENT (no such program or directory), -EACCES, -ENOEXEC, -E2BIG (too many
 * arguments), -EINVAL, -EMFILE, -ENOMEM, -EAGAIN (limit of processes), -EOPNOTSUPP in the
 * simulator.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_process_spawn_with(weir_process **ret,
							    const struct weir_process_opts *opts);
#define weir_process_spawn(ret, ...)                                                               \
	weir_process_spawn_with(                                                                   \
		(ret), &(struct weir_process_opts){ __VA_ARGS__,                                   \
						    .size = sizeof(struct weir_process_opts) })

/*
 * The streams that are WEIR_STDIO_PIPE, others are NULL. Borrowed from the process, which closes
 * them; weir_shutdown() of the first tells the child that there is no more.
 */
WEIR_API WEIR_NONNULL weir_conn *weir_process_stdin(const weir_process *process);
WEIR_API WEIR_NONNULL weir_conn *weir_process_stdout(const weir_process *process);
WEIR_API WEIR_NONNULL weir_conn *weir_process_stderr(const weir_process *process);

WEIR_API WEIR_NONNULL int weir_process_id(const weir_process *process);

/*
 * Parks until the child has ended and gives its status as waitpid(2) does: WIFEXITED() and so on.
 * May be called again. Returns 0; -ECANCELED or -ETIME, and the child runs on; -EXDEV, -EBUSY
 * (another task waits for it), or -ECHILD when the program ignores SIGCHLD: then nobody knows.
 */
WEIR_API WEIR_MUST WEIR_NONNULL int weir_process_wait(weir_process *process, int *ret);

/* Sends it a signal. Does not park. Returns 0, -ESRCH (it has ended), -EINVAL, -EPERM, -EXDEV. */
WEIR_API WEIR_NONNULL int weir_process_kill(weir_process *process, int number);

/*
 * Takes it: lets go of who waits for it (-ECANCELED), kills the child if it still runs (SIGKILL,
 * not its own children), waits for its end and closes its streams. Parks, without being a
 * cancellation point. Accepts NULL. With weir_auto_process this happens on every way out of the
 * block, cancellation among them.
 */
WEIR_API void weir_process_close(weir_process *process);

static inline void weir__process_cleanup(weir_process **process)
{
	weir_process_close(*process);
}
#define weir_auto_process WEIR_CLEANUP(weir__process_cleanup) __typeof__(weir_process *)

#ifdef __cplusplus
}
#endif
#endif
