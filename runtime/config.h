/* SPDX-License-Identifier: MIT */
/*
 * config.h: the option table, and what is made from it.
 *
 * One line of WEIR_CONFIG_MAP is one option: from it come the field of struct weir__config, its
 * default, the parsing of its variable, its line in WEIR_HELP=1 and WEIR_VERBOSE=1 and its row in
 * docs/environment.md. A program's choice beats the environment, which beats the default.
 *
 * Never reads the environment of a set-user-id program.
 */
#ifndef WEIR_CONFIG_H
#define WEIR_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/*
 * Parts of io_uring that WEIR_URING_MASK pretends this kernel lacks: XX(NAME, word). The bit of a
 * part is WEIR__URING_NAME.
 */
/* clang-format off */
#define WEIR_URING_PART_MAP(XX) \
	XX(DEFER,        "defer")        /* set-up with SINGLE_ISSUER and DEFER_TASKRUN */ \
	XX(COOP,         "coop")         /* set-up with COOP_TASKRUN */ \
	XX(ACCEPT_MULTI, "accept_multi") /* one accept, many connections */ \
	XX(RECV_MULTI,   "recv_multi")   /* one receive, many arrivals */ \
	XX(BUFRING,      "bufring")      /* provided-buffer rings */ \
	XX(FIXED,        "fixed")        /* direct descriptors */ \
	XX(MSG_RING,     "msg_ring")     /* messages between rings */ \
	XX(RING_FD,      "ring_fd")      /* registered ring descriptor */ \
	XX(NO_IOWAIT,    "no_iowait")    /* waiting that is not counted as I/O wait */ \
	XX(CQE_SKIP,     "cqe_skip")     /* success without a completion */ \
	XX(FILES,        "files")        /* operations on files */

#define WEIR__WORD(name, word)  "|" word
#define WEIR__WORDS(map)        (("" map(WEIR__WORD)) + 1)

/*
 * XX(field, type, variable, default, min, max, unit, text). The types:
 *   NUMBER  a whole number; `unit` says of what
 *   BYTES   a whole number, with k, m or g after it if wanted
 *   BOOL    0 or 1
 *   CHOICE  one of the words in `unit`, separated by |; the field holds its place from 0
 *   SET     words in `unit` with commas between them, or "none"; the field has a bit for each
 *   CLASSES, RESERVES  what alloc/classes.c reads, `unit` being the default and then what it
 *           takes; the field is 0, or the address of the text, which is the environment's
 */
#define WEIR_CONFIG_MAP(XX) \
	XX(workers, NUMBER, "WEIR_WORKERS", 0, 0, 256, "threads", \
	   "workers; 0: as many as the affinity mask and the cgroup's CPU quota allow") \
	XX(driver, CHOICE, "WEIR_DRIVER", WEIR__DRIVER_AUTO, 0, WEIR__DRIVER_SIM, \
	   "auto|uring|epoll|sim", \
	   "what workers sleep in; auto: io_uring, or epoll if refused or under memcheck; " \
	   "sim: simulated") \
	XX(uring_mask, SET, "WEIR_URING_MASK", 0, 0, (1 << WEIR__URING_PARTS) - 1, \
	   WEIR__WORDS(WEIR_URING_PART_MAP), \
	   "parts of io_uring to do without, as on an older kernel") \
	XX(sq_entries, NUMBER, "WEIR_SQ_ENTRIES", 256, 32, 4096, "entries", \
	   "operations a worker queues between two system calls") \
	XX(cq_entries, NUMBER, "WEIR_CQ_ENTRIES", 4096, 64, 65536, "entries", \
	   "completions that fit into the ring; the kernel keeps more and is asked for them") \
	XX(stack_kb, NUMBER, "WEIR_STACK_KB", 64, 32, 1024, "KiB", \
	   "stack of a task; rounded up to 32, 64, 256 or 1024") \
	XX(context_switch, CHOICE, "WEIR_SWITCH", WEIR__SWITCH_ASM, 0, WEIR__SWITCH_UCONTEXT, \
	   "asm|ucontext", \
	   "how tasks are switched; ucontext is slow and portable") \
	XX(slice_us, NUMBER, "WEIR_SLICE_US", 150, 1, 100000, "us", \
	   "time a worker runs ready tasks before it looks for completions") \
	XX(linger_us, NUMBER, "WEIR_LINGER_US", 10, 0, 1000, "us", \
	   "time a worker looks out for another's message before it sleeps, where that has paid") \
	XX(lookout_us, NUMBER, "WEIR_LOOKOUT_US", 0, 0, 1000, "us", \
	   "the same for completions, where they come that soon on average; 0: never") \
	XX(rescue_us, NUMBER, "WEIR_RESCUE_US", 50, 0, 100000, "us", \
	   "a worker that has had no CPU for so long is made room for by another; 0: none is") \
	XX(shares_high, NUMBER, "WEIR_SHARES_HIGH", 1000, 1, 100000, "shares", \
	   "of a worker's time for tasks of high priority, where others are ready too") \
	XX(shares_normal, NUMBER, "WEIR_SHARES_NORMAL", 100, 1, 100000, "shares", \
	   "the same for normal tasks") \
	XX(shares_background, NUMBER, "WEIR_SHARES_BACKGROUND", 10, 1, 100000, "shares", \
	   "the same for tasks in the background") \
	XX(budget, NUMBER, "WEIR_BUDGET", 128, 1, 65536, "operations", \
	   "operations a task may complete without waiting before others get their turn") \
	XX(drain_ms, NUMBER, "WEIR_DRAIN_MS", 1000, 0, 3600000, "ms", \
	   "time the first SIGINT or SIGTERM leaves to clients before they are cancelled") \
	XX(defer_ms, NUMBER, "WEIR_DEFER_MS", 5000, 0, 3600000, "ms", \
	   "time the deferred calls of a task that ends may block in all") \
	XX(stop_ms, NUMBER, "WEIR_STOP_MS", 1000, 0, 3600000, "ms", \
	   "time a second SIGINT or SIGTERM leaves to tasks; who is left is listed and abandoned") \
	XX(stall_ms, NUMBER, "WEIR_STALL_MS", 25, 0, 3600000, "ms", \
	   "a task that holds its worker longer is reported with its frames; 0: none is") \
	XX(stack_census, NUMBER, "WEIR_STACK_CENSUS", 16384, 0, 1 << 30, "tasks", \
	   "a worker measures the stack of one task in so many, and of most early ones; 0: none") \
	XX(dump_signal, BOOL, "WEIR_DUMP_SIGNAL", 1, 0, 1, "", \
	   "SIGQUIT writes all tasks to standard error and the program goes on") \
	XX(blocking_threads, NUMBER, "WEIR_BLOCKING_THREADS", 32, 1, 4096, "threads", \
	   "threads for weir_blocking() calls that name no pool of their own") \
	XX(dns_threads, NUMBER, "WEIR_DNS_THREADS", 4, 1, 256, "threads", \
	   "threads that look up names") \
	XX(fs_threads, NUMBER, "WEIR_FS_THREADS", 8, 1, 256, "threads", \
	   "threads for what files want and the driver does not do itself") \
	XX(blocking_queue, NUMBER, "WEIR_BLOCKING_QUEUE", 1024, 1, 1 << 20, "calls", \
	   "weir_blocking() calls and names that may wait for a thread; more get EAGAIN") \
	XX(pin, BOOL, "WEIR_PIN", 0, 0, 1, "", \
	   "bind worker i to the i-th allowed CPU") \
	XX(recv_bytes, BYTES, "WEIR_RECV_BYTES", 4096, 512, 1 << 20, "bytes", \
	   "size of a receive buffer") \
	XX(recv_bulk_bytes, BYTES, "WEIR_RECV_BULK_BYTES", 65536, 4096, 16 << 20, "bytes", \
	   "size of a receive buffer for connections that fill theirs") \
	XX(recv_buffers, NUMBER, "WEIR_RECV_BUFFERS", 64, 1, 32768, "buffers", \
	   "receive buffers a worker lends to the kernel at first") \
	XX(recv_busy_bytes, BYTES, "WEIR_RECV_BUSY_BYTES", 8 << 20, 4096, 1 << 30, "bytes", \
	   "with so much lent in bulk buffers, an eighth in small, more is where none returns") \
	XX(recv_buffers_max, NUMBER, "WEIR_RECV_BUFFERS_MAX", 4096, 1, 32768, "buffers", \
	   "receive buffers a worker lends to the kernel at most") \
	XX(recv_shrink_ms, NUMBER, "WEIR_RECV_SHRINK_MS", 2000, 1, 3600000, "ms", \
	   "after so long without a want of receive buffers, three quarters of the added ones go") \
	XX(lend_max, NUMBER, "WEIR_LEND_MAX", 8, 1, 1024, "buffers", \
	   "received buffers a connection may have waiting; then it stops receiving") \
	XX(conns_max, NUMBER, "WEIR_CONNS_MAX", 0, 0, 16777216, "clients", \
	   "clients of a worker at once; 0: what RLIMIT_NOFILE allows") \
	XX(backlog, NUMBER, "WEIR_BACKLOG", 4096, 1, 65535, "clients", \
	   "connections waiting to be accepted; the kernel clamps it to net.core.somaxconn") \
	XX(pool, CHOICE, "WEIR_POOL", 0, 0, 1, "on|off", \
	   "caches of free blocks; off: every block goes to and from its span, to compare") \
	XX(pool_adapt, CHOICE, "WEIR_POOL_ADAPT", 0, 0, 2, "demand|threshold|off", \
	   "what sizes the caches: remembered demand, hit rate and idle time alone, or nothing") \
	XX(pool_epoch_ms, NUMBER, "WEIR_POOL_EPOCH_MS", 100, 1, 60000, "ms", \
	   "between two looks at a worker's caches") \
	XX(pool_halflife_ms, NUMBER, "WEIR_POOL_HALFLIFE_MS", 10000, 1, 3600000, "ms", \
	   "in which remembered demand fades to half") \
	XX(pool_dwell_ms, NUMBER, "WEIR_POOL_DWELL_MS", 5000, 0, 3600000, "ms", \
	   "between two shrinks of one cache") \
	XX(pool_shrink_idle_ms, NUMBER, "WEIR_POOL_SHRINK_IDLE_MS", 60000, 0, 3600000, "ms", \
	   "without use before a cache with few hits shrinks") \
	XX(pool_grow, NUMBER, "WEIR_POOL_GROW_PERCENT", 150, 101, 1000, "percent", \
	   "a cache that grows becomes so much of what it was") \
	XX(pool_shrink, NUMBER, "WEIR_POOL_SHRINK_PERCENT", 70, 1, 99, "percent", \
	   "a cache that shrinks becomes so much of what it was") \
	XX(pool_band, NUMBER, "WEIR_POOL_BAND_PERCENT", 200, 101, 10000, "percent", \
	   "of its need that a cache may hold before it shrinks; at least 5 % above either step") \
	XX(pool_grow_hit, NUMBER, "WEIR_POOL_GROW_HIT_PERCENT", 90, 0, 100, "percent", \
	   "hit rate from which a nearly used-up cache grows early") \
	XX(pool_grow_pressure, NUMBER, "WEIR_POOL_GROW_PRESSURE_PERCENT", 80, 0, 100, "percent", \
	   "of its capacity in use within an epoch: nearly used up") \
	XX(pool_shrink_hit, NUMBER, "WEIR_POOL_SHRINK_HIT_PERCENT", 30, 0, 100, "percent", \
	   "hit rate below which an idle cache shrinks") \
	XX(pool_reserve, NUMBER, "WEIR_POOL_RESERVE", 4, 1, 65536, "objects", \
	   "no cache shrinks below, within 16 KiB") \
	XX(pool_reserves, RESERVES, "WEIR_POOL_RESERVES", 0, 0, 0, \
	   "none|none, zokio, or objects by size, as 64:6000,4k:200", \
	   "blocks of a size that a cache keeps once it had them, used or not") \
	XX(pool_classes, CLASSES, "WEIR_POOL_CLASSES", 0, 0, 0, \
	   "geom4|geom4, pow2, zokio, grpc, graded, or ascending sizes, as 8k,16k,1m", \
	   "block sizes; requests above the last of them have the default ones") \
	XX(pool_worker_bytes, BYTES, "WEIR_POOL_WORKER_BYTES", \
	   16 << 20, 1 << 16, 1LL << 40, "bytes", \
	   "all caches of a worker together, when full; at most an eighth of the memory limit") \
	XX(mem_decay_ms, NUMBER, "WEIR_MEM_DECAY_MS", 10000, 0, 3600000, "ms", \
	   "until memory nobody uses goes back to the system") \
	XX(mem_halflife_ms, NUMBER, "WEIR_MEM_HALFLIFE_MS", 60000, 1, 3600000, "ms", \
	   "in which half of what is held, because it came back after it went, goes after all") \
	XX(mem_purge, CHOICE, "WEIR_MEM_PURGE", 0, 0, 1, "dontneed|free", \
	   "how it goes back; free: cheaper, and resident until the kernel wants it") \
	XX(mem_huge_pages, CHOICE, "WEIR_MEM_HUGE_PAGES", 0, 0, 2, "never|large|always", \
	   "huge pages for nothing, for blocks above 16 MiB, or for all but stacks") \
	XX(mem_numa, CHOICE, "WEIR_MEM_NUMA", 0, 0, 2, "none|local|interleave", \
	   "memory from where it is first touched, from the worker's node, or from all in turn") \
	XX(mem_guard_bytes, BYTES, "WEIR_MEM_GUARD_BYTES", 0, 0, 1LL << 50, "bytes", \
	   "allocated by a worker between two blocks with guard pages around them; 0: none") \
	XX(mem_limit, BYTES, "WEIR_MEM_LIMIT", 0, 0, 1LL << 50, "bytes", \
	   "of all workers, stacks not counted; 0: the cgroup's limit alone") \
	XX(mem_oom, CHOICE, "WEIR_OOM", 0, 0, 2, "error|dump|abort", \
	   "when the first allocation is refused: nothing, a dump on stderr, or that and abort()") \
	XX(mem_debug, NUMBER, "WEIR_MEM_DEBUG", 0, 0, 3, "", \
	   "1: double frees; 2: writes after free and past the end; 3: where, and leaks") \
	XX(sim_seed, NUMBER, "WEIR_SIM_SEED", 0, 0, INT64_MAX, "", \
	   "of weir_run() on the driver sim, 0: 1; the only run of weir_sim_run(), 0: its own") \
	XX(sim_trace, BOOL, "WEIR_SIM_TRACE", 0, 0, 1, "", \
	   "what is simulated writes each step to its report") \
	XX(verbose, BOOL, "WEIR_VERBOSE", 0, 0, 1, "", \
	   "say at start what was found and where each option came from") \
	XX(help, BOOL, "WEIR_HELP", 0, 0, 1, "", \
	   "list these variables and end") \
	XX(quiet, BOOL, "WEIR_QUIET", 0, 0, 1, "", \
	   "hide notices, such as io_uring being refused; errors are still said")
/* clang-format on */

enum {
	WEIR__DRIVER_AUTO,
	WEIR__DRIVER_URING,
	WEIR__DRIVER_EPOLL,
	WEIR__DRIVER_SIM,
};

enum {
	WEIR__SWITCH_ASM,
	WEIR__SWITCH_UCONTEXT,
};

enum {
#define XX(name, word) WEIR__URING_##name##_BIT,
	WEIR_URING_PART_MAP(XX) WEIR__URING_PARTS,
#undef XX
};
enum {
#define XX(name, word) WEIR__URING_##name = 1 << WEIR__URING_##name##_BIT,
	WEIR_URING_PART_MAP(XX)
#undef XX
};

/* The options by number: WEIR__OPTION_workers and so on. */
enum weir__option {
#define XX(field, ...) WEIR__OPTION_##field,
	WEIR_CONFIG_MAP(XX) WEIR__OPTIONS,
#undef XX
};

enum weir__source {
	WEIR__SOURCE_DEFAULT,
	WEIR__SOURCE_ENVIRONMENT,
	WEIR__SOURCE_PROGRAM,
};

enum weir__option_type {
	WEIR__NUMBER,
	WEIR__BYTES,
	WEIR__BOOL,
	WEIR__CHOICE,
	WEIR__SET,
	WEIR__CLASSES,
	WEIR__RESERVES,
};

/* One line of the table. */
struct weir__option_info {
	const char *field;
	const char *variable;
	const char *unit; /* or the words of a CHOICE or SET */
	const char *text;
	uint64_t preset;
	uint64_t min;
	uint64_t max;
	enum weir__option_type type;
};
extern const struct weir__option_info weir__option_info[WEIR__OPTIONS];

/*
 * Every field is an integer of one width, so that the struct is also the array the table walks:
 * value[WEIR__OPTION_workers] is workers.
 */
struct weir__config {
	union {
		struct {
#define XX(field, ...) uint64_t field;
			WEIR_CONFIG_MAP(XX)
#undef XX
		};
		uint64_t value[WEIR__OPTIONS];
	};
	uint8_t source[WEIR__OPTIONS]; /* enum weir__source */
};

/* Every option at its default. */
void weir__config_init(struct weir__config *ret);

/*
 * Defaults, then the environment. Returns 0; or -EINVAL when a variable does not parse or does not
 * fit, with a line on `err` for each that names it, its value and what is accepted, and *ret
 * untouched. A WEIR_* variable that is not in the table is named on `err`, at the first call only
 * and not when WEIR_QUIET=1, and does no harm.
 */
int weir__config_load(struct weir__config *ret, FILE *err);

/*
 * For a program that allocates before its first weir_run(), or never calls it: the allocator gets
 * what concerns it. Says nothing: of what does not parse, weir_run() will.
 */
void weir__config_load_early(void);

/* Whether the environment has a WEIR_* variable at all: false for a set-user-id program. */
bool weir__config_is_asked(void);

/*
 * Hands the allocator what concerns it; its parameters are the process's, those of the first of the
 * runtimes that run at once. Returns 0; or -EINVAL, or -EBUSY where memory has been allocated
 * already and what no heap can change would be another, with a line on `err`.
 */
int weir__config_apply_memory(const struct weir__config *config, FILE *err);

/*
 * What the program asked for, over default and environment; `text` takes what the variable would
 * take. Returns 0; or -EINVAL with one line on `err` and *config untouched.
 */
int weir__config_set(struct weir__config *config, enum weir__option option, uint64_t value,
		     FILE *err);
int weir__config_set_text(struct weir__config *config, enum weir__option option, const char *text,
			  FILE *err);

/* WEIR_HELP=1: every variable with its default, what it takes and what it does. */
void weir__config_help(FILE *out);

/* WEIR_VERBOSE=1: every option with its value and where that came from. */
void weir__config_dump(const struct weir__config *config, FILE *out);

/* "a whole number of ms from 0 to 3600000": what an option takes. */
void weir__option_accepts(enum weir__option option, FILE *out);

/* A value as its variable would be written. WEIR__OPTION_TEXT_MAX is room enough. */
void weir__option_format(enum weir__option option, uint64_t value, char *ret, size_t cap);
enum { WEIR__OPTION_TEXT_MAX = 128 };

#endif
