# SPDX-License-Identifier: MIT
"""What the report is asked for, line by line, and whether this run has it: nothing is missing silently.

The list is written by hand, beside the catalogue of what is run and not derived from it, so that a
row that nobody runs any more, or that failed, shows. A row that ends in * stands for all that begin
so.
"""
import build

ECHO = ["weir", "uring", "tokio", "monoio", "go", "libuv"]
BOTH = ["weir", "tokio", "tokio-mi"]
SIZES = [64, 1024, 4096, 16384, 65536]


class Line:
    """Rows of a group with the programs that must be in each; or why there are none anywhere."""

    def __init__(self, text, group, rows, programs=("weir", "tokio"), why=None):
        self.text, self.group, self.rows, self.programs = text, group, rows, list(programs)
        self.why = why


def tokios(text, *rows, programs=BOTH):
    return Line("Tokio's suite: " + text, "tasks", rows, programs)


def sizes(name, counts):
    return [f"{name}_{count}" for count in counts]


NOT_TAKEN = "not taken in this run"
READERS = (10, 100, 500, 1000)
LINES = [
    tokios("spawn_many, local and remote", "spawn_many_local", "spawn_many_remote_idle, 2 workers",
           "spawn_many_remote_busy, 2 workers"),
    tokios("yield_many, ping_pong, chained_spawn", "yield_200", "ping_pong", "chained_spawn"),
    tokios("spawn", "spawn_join_1", "spawn_join_10000"),
    tokios("sync_mpsc", *sizes("mpsc_create", (1, 100, 100000)), "mpsc_send_medium",
           "mpsc_send_large", "mpsc_contention", "mpsc_contention_many", "mpsc_contention_full",
           "mpsc_contention_full_many", "mpsc_contention_unbounded",
           "mpsc_contention_unbounded_many", "mpsc_uncontended", "mpsc_uncontended_many",
           "mpsc_uncontended_unbounded", "mpsc_uncontended_unbounded_many"),
    tokios("oneshot, broadcast, watch", "request_reply", *sizes("broadcast", READERS),
           *sizes("watch", READERS)),
    tokios("notify", *sizes("notify_one", (10, 50, 100, 200, 500)),
           *sizes("notify_waiters", (10, 50, 100, 200, 500))),
    tokios("semaphore, rwlock, mutex", "semaphore_uncontended", "semaphore_concurrent",
           "semaphore_contended", "rwlock_read", "rwlock_concurrent", "rwlock_contended",
           "mutex_uncontended", "mutex_contended"),
    tokios("spawn_blocking, time_now, timeout churn, signals", "spawn_blocking",
           "spawn_blocking_16", "time_now", "timeout", "timer_armed_cancelled", "many_signals"),
    tokios("fs read", "fs_read"),
    tokios("copy", "copy_mem_to_mem", "copy_mem_to_slow_disk", "copy_chunk_to_mem",
           "copy_chunk_to_slow_disk"),
    Line("a million timers", "tasks", ["timers_1000000"], ["weir"]),
    Line("the microbenchmarks beside Go", "tasks",
         ["yield_200", "spawn_join_10000", "chained_spawn", "chan_pingpong", "chan_spsc_1",
          "chan_mpsc_1"], ["weir", "go"]),
    Line("the same on two workers", "tasks",
         ["spawn_join_10000, 2 workers", "chan_pingpong, 2 workers", "ping_pong, 2 workers",
          "mpsc_contention, 2 workers"], BOTH),
    Line("skynet, 1,111,111 tasks: time", "tasks", ["skynet"],
         [*BOTH, "tokio-ct", "tokio-mi-ct", "go"]),
    Line("skynet: peak memory", "memory", ["peak of skynet*"], [*BOTH, "go"]),
    Line("A1 and A3: allocation loops", "alloc", ["64 B", "1-5 KB memset"],
         ["weir", "weir-malloc", "glibc", "jemalloc", "mimalloc", "tcmalloc"]),
    Line("A2: spawn, alloc, free, join", "tasks", ["spawn_alloc_A2"], BOTH),
    Line("TCP echo of 64 B to 64 KB", "echo", [f"{size} B x 64" for size in SIZES], ECHO),
    Line("TCP echo: the whole field", "echo", ["64 B x 64"],
         [*ECHO, "epoll", "tokio-mi", "glommio"]),
    Line("TCP echo, 1 to 10,000 connections", "echo",
         ["64 B x 1", "64 B x 64", "64 B x 1000", "64 B x 10000"], ECHO),
    Line("TCP echo, depth 16", "echo", ["64 B x 64, depth 16"], ECHO),
    Line("TCP echo by workers", "workers", ["1 worker", "2 workers"], ["weir", "tokio", "go"]),
    Line("open loop at 20 and 60 k/s", "open", ["20 k/s", "60 k/s"], [*ECHO, "epoll"]),
    Line("open loop at 50 and 80 % of the slower server's capacity", "open",
         ["50 % of capacity", "80 % of capacity"], ["weir", "uring", "tokio"]),
    Line("connection churn", "conns", ["churn"], ["weir", "uring", "epoll", "tokio"]),
    Line("1 % active of 10,000 connections", "conns", ["few active"], ["weir", "uring", "tokio"]),
    Line("echo over a Unix socket", "unix", ["64 B x 64"], ["weir", "epoll", "tokio", "go"]),
    Line("UDP echo", "udp", ["64 B x 64"], ["weir", "epoll", "tokio", "go"]),
    Line("proxying, 64 B to 64 KB", "proxy", [f"{size} B x 64" for size in (64, 1024, 16384, 65536)],
         ["weir", "tokio", "go"]),
    Line("HTTP/1.1 plaintext, depth 1 and 16", "http", ["depth 1", "depth 16"], [*BOTH, "go"]),
    Line("key-value server beside Redis, GET and SET, depth 1 and 16", "kv",
         ["GET, depth 1", "GET, depth 16", "SET, depth 1", "SET, depth 16"],
         ["weir", "redis", "uring", "epoll"]),
    Line("memory of a parked task, of a million", "memory", ["idle task (1,000,000)"],
         [*BOTH, "go"]),
    Line("the time to make and park a million", "tasks", ["spawned and parked, 1,000,000 tasks"],
         [*BOTH, "go"]),
    Line("memory of an idle connection, of 10,000", "memory", ["idle connection (10,000)"],
         [*ECHO, "epoll", "tokio-mi", "glommio"]),
    Line("and of as many as the machine allows", "memory", ["idle connection*"],
         ["weir", "tokio", "monoio", "go"]),
    Line("RSS before, in and after a burst, over two minutes", "memory",
         ["RSS before a burst", "RSS at its end", "RSS 30 s after it", "RSS 120 s after it"],
         [*BOTH, "monoio", "go", "libuv"]),
    Line("cost: CPU time, context switches, wake-ups", "cost",
         ["CPU us", "context switches", "wake-ups"], ECHO),
    Line("cost: user-space instructions, malloc calls", "cost",
         ["user instructions", "malloc calls"], ["weir", "uring", "epoll", "tokio", "monoio",
                                                 "libuv"]),
    Line("cost: system calls", "cost", ["system calls"], [*ECHO, "epoll", "glommio"]),
    Line("cost: completions (CQEs)", "cost", ["CQEs"], ["weir", "uring", "monoio", "glommio"]),
    Line("cost: weir's own counters", "cost",
         ["completions (weir's own count)", "parks (weir's own count)",
          "switches (weir's own count)"], ["weir"]),
    Line("cost: instructions in the kernel, by perf stat", "", [],
         why="most virtual machines have no counters; callgrind and tracepoints count instead"),
]


def rows(group):
    """The rows that are asked for in a group, as far as they have names of their own."""
    return list(dict.fromkeys(row for line in LINES if line.group == group for row in line.rows
                              if not row.endswith("*")))


def taken(store, group, wanted):
    """The rows of the run that a name stands for."""
    if wanted.endswith("*"):
        return [row for row in store.rows(group) if row.startswith(wanted[:-1])]
    return [wanted] if wanted in store.rows(group) else []


def has(store, group, row, program):
    return any((s.group, s.row, s.program) == (group, row, program) and store.usable(s)
               for s in store.samples)


def reason(store, group, row, program):
    """Why a program has no figure in a row."""
    rival = next((r for r in build.ALL if r.name == program.removesuffix("-ct")), None)
    if rival and rival.missing:
        return NOT_TAKEN if rival.missing == "not asked for" else rival.missing
    failures = {job: why for (where, job, who), why in store.failures.items()
                if (where, who) == (group, program)}
    failed = [why for job, why in failures.items() if job == row]
    failed += [why for job, why in failures.items() if job not in rows(group)]  # has many rows
    if failed:
        return failed[0]
    sampled = any((s.group, s.row, s.program) == (group, row, program) for s in store.samples)
    return "every sample was disturbed" if sampled else NOT_TAKEN


def missing(store, line):
    """{reason: what lacks for it}."""
    found = {}
    for wanted in line.rows:
        for row in taken(store, line.group, wanted) or [wanted]:
            for program in line.programs:
                if not has(store, line.group, row, program):
                    why = reason(store, line.group, row, program)
                    found.setdefault(why, []).append(f"{program} in {row.rstrip('*')}")
    return found


def told(lacking, wanted):
    """What lacks, briefly: all of a line, three by name, or how many."""
    if len(lacking) >= wanted:
        return "all of it"
    return ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")


def table(store, titles):
    """(asked for, where, figures, not there because) for every line."""
    lines = []
    for line in LINES:
        if line.why:
            lines.append([line.text, "-", "none", line.why])
            continue
        wanted = sum(len(taken(store, line.group, row)) or 1 for row in line.rows)
        wanted *= len(line.programs)
        found = missing(store, line)
        lacking = sum(len(what) for what in found.values())
        because = "; ".join(f"{told(what, wanted)}: {why}" for why, what in found.items())
        lines.append([line.text, titles.get(line.group, line.group),
                      f"{wanted - lacking} of {wanted}", because or "-"])
    return lines
