# SPDX-License-Identifier: MIT
"""The workloads: what `make bench` measures, of whom, and what the columns mean.

default() is sized for about a quarter of an hour; core() is what `make bench-quick` takes of it. The rest
is run with --only or --all. The nearest rivals are in every round of a row; those that are far
behind, and what differs by multiples, take SOME_ROUNDS: rounds are for ratios near 1.
"""
import os

import costs
import memory
import samples
from build import built
from process import Failure
from rounds import SOME_ROUNDS, Job

START_SECONDS = 0.27  # of a server, its warm-up and its end
TURNS_SECONDS = 0.45  # of a server that is loaded in turns: that, and of each load
FIELD = ["weir", "uring", "epoll", "tokio", "tokio-mi", "monoio", "glommio", "go", "libuv"]
NEAR = ["weir", "uring", "tokio", "monoio"]
FAR = ["go", "libuv"]
SIZES = [64, 1024, 4096, 16384, 65536]


class Group:
    """A table of the report: its title, the metric that is judged, and the other columns."""

    def __init__(self, name, title, metric, columns, note, higher_is_better=False):
        self.name, self.title, self.metric, self.columns = name, title, metric, columns
        self.note, self.higher_is_better = note, higher_is_better


LATENCY = ["rate", "p50_us", "p99_us", "p99.9_us"]
GROUPS = [
    Group("echo", "TCP echo, closed loop, one worker", "cpu_us", LATENCY,
          "Client and server each own a CPU: requests/s end at the dearer of the two, so the "
          "server's CPU time per request is what is judged."),
    Group("workers", "TCP echo of 64 B by workers, 64 connections, nothing pinned", "cpu_us",
          LATENCY, "Server and load share the CPUs as the scheduler likes, and the load is one "
          "thread: what scales is seen in the CPU time per request."),
    Group("open", "TCP echo at a fixed rate (open loop)", "cpu_us", [*LATENCY, "p99.99_us"],
          "Latency counts from the moment a message was due. 50 % and 80 % are of what the slower "
          "of weir and Tokio reached in the first round's closed loop."),
    Group("conns", "Connections", "cpu_us", LATENCY,
          "churn: connect, one echo, reset. few active: 100 of 10,000 connections talk."),
    Group("unix", "Echo over a Unix socket", "cpu_us", LATENCY, ""),
    Group("udp", "UDP echo, one socket at the server, 64 clients", "cpu_us", LATENCY,
          "One datagram in flight for each client. uring has no such server."),
    Group("proxy", "TCP proxy in front of an echo server, 64 connections", "cpu_us", LATENCY,
          "The load and the echo server (epoll's) share a CPU, the proxy has one of its own: its CPU "
          "time per request is what counts. A request passes through it twice."),
    Group("http", "HTTP/1.1 plaintext, wrk, 64 connections", "cpu_us", LATENCY,
          "wrk is the limit in requests/s, every good server ties there. Latency of pipelined "
          "requests means little."),
    Group("kv", "Key-value server, redis-benchmark, 50 connections", "cpu_us", LATENCY,
          "uring and epoll parse nothing and store nothing: every 36 or 45 bytes get the same answer. "
          "What they need is the kernel's, and nobody can save more of Redis's time than they do."),
    Group("tasks", "Runtime microbenchmarks", "ns", [],
          "Nanoseconds per operation; bench/README.md says which row is which of Tokio's. '2 workers': "
          "the runtime has two, and the program says of no task where it is to run. 'apart': the "
          "tasks of a pair are one on each worker, so every item crosses."),
    Group("alloc", "Allocation loops: A1 and A3 of the Zokio document", "ns", [],
          "Nanoseconds of CPU time for an alloc, a touch of the first and last byte (or a memset) "
          "and a free; 'live' is how many blocks are out at a time. weir is weir_alloc and "
          "weir_free, weir-sized weir_free_sized, weir-malloc the library that replaces malloc; "
          "the others replace it too. A2 is spawn_alloc_A2 above."),
    Group("cost", "What a 64 B echo costs", "count", [],
          "Per request, 64 connections, depth 1: CPU time, context switches and those of them "
          "after which the server had to be woken (from the echo rows above), user-space "
          "instructions (callgrind), system calls and CQEs (the kernel's tracepoints), calls of "
          "libc's malloc, and what weir counts itself. '-': not to be had of that program."),
    Group("memory", "Memory", "bytes", [],
          "Resident bytes: of each connection or task that only waits (user space; the kernel's "
          "part is the same for all), and of a server before, in and after a burst: 1,000 "
          "connections with four messages of 16 KB in flight on each."),
]


def groups():
    return {group.name: group for group in GROUPS}


def single(row, take):
    """A job's take() for a function that measures one row."""
    return lambda program, store: {row: take(program, store)}


def job(group, row, programs, take, seconds, rounds=None, seldom=()):
    return Job(group, row, programs, single(row, take), START_SECONDS + seconds, rounds,
               seldom=seldom)


def turns_job(group, row, programs, take, seconds, rounds=None, seldom=()):
    """Whose servers are there together and are loaded in turns: what is near 1 is compared so."""
    def rows(programs, store):
        found = take(programs, store)
        return {p: f if isinstance(f, Failure) else {row: f} for p, f in found.items()}
    return Job(group, row, [*programs, *seldom], rows, TURNS_SECONDS + seconds, rounds,
               at_once=True, seldom=seldom)


def echo_job(t, programs, size, connections, depth=1, seldom=()):
    row = f"{size} B x {connections}" + (f", depth {depth}" if depth > 1 else "")
    return turns_job("echo", row, programs,
                     lambda some, _: samples.echo(some, t, size, connections, depth),
                     t + samples.TURNS * connections * 8e-5, seldom=seldom)


def many_job(t, programs, connections, seldom=()):
    return job("echo", f"64 B x {connections}", [*programs, *seldom],
               lambda p, _: samples.echo_alone(p, t, connections), t + connections * 8e-5,
               seldom=seldom)


def worker_counts():
    """1, 2, 4, ... and as many as there are CPUs."""
    cpus = len(os.sched_getaffinity(0))
    return sorted({min(2 ** power, cpus) for power in range(cpus.bit_length() + 1)})


def workers_job(t, workers):
    return turns_job("workers", f"{workers} worker" + "s" * (workers > 1), ["weir", "tokio", "go"],
                     lambda some, _: samples.echo(some, t, workers=workers, pinned=False), t)


def slower_rate(store):
    """Requests/s that the slower of weir and Tokio reaches in a closed loop, found once in a run."""
    if not hasattr(store, "slower_rate"):
        def rate(program):
            found = samples.echo([program], 0.5)[program]
            if isinstance(found, Failure):
                raise found
            return found["rate"]
        store.slower_rate = min(store.values("echo", "64 B x 64", p, "rate").get(1) or rate(p)
                                for p in ("weir", "tokio"))
    return store.slower_rate


def open_job(t, programs, rate=None, share=None, seldom=()):
    """Twice the time of other rows: the thousandth part of a sample must still be some messages."""
    row = f"{rate // 1000} k/s" if rate else f"{share * 100:.0f} % of capacity"

    def take(some, store):
        return samples.echo(some, 2 * t, rate=rate or round(share * slower_rate(store)))
    return turns_job("open", row, programs, take, 2 * t, seldom=seldom)


def http_job(t, depth, programs, seldom=()):
    return job("http", f"depth {depth}", [*programs, *seldom],
               lambda p, _: samples.http(p, t, depth), max(1, round(t)), seldom=seldom)


def kv_job(t, command, depth, programs, seldom=()):
    return turns_job("kv", f"{command.upper()}, depth {depth}", programs,
                     lambda some, _: samples.kv(some, t, command, depth), 1.3 * t, seldom=seldom)


IDLE_FEW = 10_000
BURST_SECONDS = 120


def idle_connections_job(programs, count, limit="", rounds=1):
    row = f"idle connection ({count:,}{limit})"

    def take(program, _store):
        figures = samples.idle_connections(program, 0.3, count)
        return {row: {"bytes": figures["bytes_per_conn"]}}
    return Job("memory", row, programs, take, 0.7 + count * 1e-4, rounds)


def burst_job():
    burst = memory.Burst(BURST_SECONDS)

    def take(program, store):
        store.burst = burst
        return burst.take(program, store)
    return Job("memory", "burst", ["weir", "tokio", "tokio-mi", "monoio", "go", "libuv"], take, 3,
               1, burst.finish)


def memory_jobs():
    """Mostly once: little but the programs decides them."""
    most, limit = memory.connections_most()
    few = min(IDLE_FEW, most)

    def idle_tasks(program, _store):
        return memory.idle_tasks(program, 1_000_000 if memory.room_for(1_000_000, 5000) else 100_000)
    return [
        idle_connections_job(["weir"], few, rounds=SOME_ROUNDS),
        idle_connections_job(FIELD[1:], few),
        *([idle_connections_job(["weir", "epoll", "tokio", "monoio", "go"], most,
                                ", the most here: " + limit)] if most > IDLE_FEW else []),
        Job("memory", "idle tasks", memory.IDLE, idle_tasks, 4, 1),
    ]


def cost_jobs():
    """weir's are taken some rounds, and the roofline's: how many requests a turn finds decides them."""
    def count_job(row, programs, count, seconds, rounds=1):
        return Job("cost", row, programs, lambda p, _: {row: {"count": count(p)}}, seconds, rounds)

    def traced_job(programs, seconds, rounds=None):
        return Job("cost", "system calls and CQEs", programs,
                   lambda p, _: costs.traced(p, seconds), 0.7 + seconds, rounds)

    def own(program, _store):
        return {row: {"count": value} for row, value in costs.own_counters(program).items()}
    others = ["epoll", "tokio", "monoio", "libuv"]
    return [
        count_job("user instructions", ["weir", "uring"], costs.instructions, 2.5, SOME_ROUNDS),
        count_job("user instructions", others, costs.instructions, 2.5),
        traced_job(["weir", "uring"], 2),
        traced_job([*others, "glommio", "go"], 0.5, 1),
        count_job("malloc calls", ["weir", "uring", *others], costs.mallocs, 1),
        Job("cost", "weir's own counters", ["weir"], own, 1, 1),
    ]


def micro_programs(c_name, rust_name, go_name=None):
    """The same loops in weir, in Tokio with both allocators and both schedulers, and in Go."""
    programs = {"weir": [built("bench", c_name), "--csv", "--rounds", "5"]}
    for name, target in (("tokio", "tokio"), ("tokio-mi", "tokio-mimalloc")):
        path = built("bench", target, "release", rust_name)
        programs[name] = [path, "multi_thread", "5"]
        programs[name + "-ct"] = [path, "current_thread", "5"]
    if go_name:
        programs["go"] = [built("bench", "go", go_name), "5"]
    return programs


def micro_job(name, programs, seconds):
    env = {"GOMAXPROCS": "1", "WEIR_WORKERS": "1"}
    return Job("tasks", name, programs,
               lambda p, _: samples.table_of_rows(programs[p], env), seconds, SOME_ROUNDS)


def two_worker_job(name, seconds, c_name, rust_name, go_name=None):
    """The same loops in runtimes of two workers, nothing pinned: who places tasks places them."""
    programs = {"weir": [built("bench", c_name), "--csv", "--rounds", "5"]}
    for rival, target in (("tokio", "tokio"), ("tokio-mi", "tokio-mimalloc")):
        programs[rival] = [built("bench", target, "release", rust_name), "multi_thread_2", "5"]
    if go_name:
        programs["go"] = [built("bench", "go", go_name), "5"]
    env = {"WEIR_WORKERS": "2", "GOMAXPROCS": "2"}

    def take(program, _store):
        rows = samples.table_of_rows(programs[program], env, pinned=False)
        return {f"{row}, 2 workers": figures for row, figures in rows.items()}
    return Job("tasks", name, programs, take, seconds, SOME_ROUNDS)


def apart_job():
    """One task of each pair on each worker, which only weir can be told; nothing pinned."""
    programs = {"weir": [built("bench", "bench_sync"), "--csv", "--rounds", "5", "two_"]}

    def take(program, _store):
        rows = samples.table_of_rows(programs[program], pinned=False)
        return {f"{row.removeprefix('two_')}, apart": figures for row, figures in rows.items()}
    return Job("tasks", "tasks apart", programs, take, 1, SOME_ROUNDS)


def copy_jobs():
    """From memory to memory is a time like others; the rest is mostly waiting that is simulated."""
    programs = {"weir": [built("bench", "bench_copy"), "--csv", "--rounds", "5"]}
    for name, target in (("tokio", "tokio"), ("tokio-mi", "tokio-mimalloc")):
        path = built("bench", target, "release", "tokio_copy")
        programs[name] = [path, "multi_thread", "5"]

    def one(rows, seconds, rounds):
        return Job("tasks", f"Tokio's copy, {rows}", programs,
                   lambda p, _: samples.table_of_rows([*programs[p], rows]), seconds, rounds)
    return [one("mem_to_mem", 0.1, SOME_ROUNDS), one("mem_to_slow", 2, 1), one("chunk_to", 3.2, 1)]


def micro_jobs():
    """Each takes its loops five times in a sample."""
    return [
        micro_job("runtime", micro_programs("bench_runtime", "tokio_micro", "micro"), 1.5),
        micro_job("Tokio's suite", micro_programs("bench_suite", "tokio_suite"), 1.7),
        micro_job("Tokio's channels", micro_programs("bench_mpsc", "tokio_mpsc"), 0.3),
        two_worker_job("two workers", 1.5, "bench_runtime", "tokio_micro", "micro"),
        two_worker_job("Tokio's suite on two workers", 1.4, "bench_suite", "tokio_suite"),
        two_worker_job("Tokio's channels on two workers", 0.3, "bench_mpsc", "tokio_mpsc"),
        apart_job(),
        *copy_jobs(),
        Job("tasks", "skynet", memory.SKYNET, lambda p, _: memory.skynet(p), 2.2, 1),
    ]


ALLOCATORS = ["weir", "weir-sized", "weir-malloc", "glibc", "jemalloc", "mimalloc", "tcmalloc"]


def alloc_job():
    return Job("alloc", "loops", ALLOCATORS, lambda p, _: samples.alloc_loops(p), 0.6,
               SOME_ROUNDS)


def core(t):
    """The rows of `make bench-quick`."""
    micro = micro_jobs()[0]
    micro.programs = [p for p in micro.programs if not p.endswith("-ct")]
    return [
        echo_job(t, ["weir", "uring", "epoll", "tokio", "monoio", "go"], 64, 64),
        open_job(t, ["weir", "epoll", "tokio"], rate=20000),
        http_job(t, 1, ["weir", "tokio", "tokio-mi", "go"]),
        kv_job(t, "get", 1, ["weir", "redis"]),
        micro,
    ]


def proxy_job(t, size):
    return job("proxy", f"{size} B x 64", ["weir", "tokio", "go"],
               lambda p, _: samples.proxy(p, t, size), t, SOME_ROUNDS)


def default(t):
    return [
        burst_job(),  # first: what comes after it goes on while the others are measured
        echo_job(t, FIELD, 64, 64),
        *[echo_job(t, NEAR, size, 64, seldom=FAR) for size in SIZES[1:]],
        echo_job(t, NEAR, 64, 64, depth=16, seldom=FAR),
        *[echo_job(t, NEAR, 64, connections, seldom=FAR) for connections in (1, 1000)],
        many_job(t, NEAR, 10000, FAR),
        *[workers_job(t, workers) for workers in worker_counts()],
        *[open_job(t, ["weir", "uring", "epoll", "tokio"], rate, seldom=["monoio", *FAR])
          for rate in (20000, 60000)],
        open_job(t, ["weir", "uring", "tokio"], share=0.5),
        open_job(t, ["weir", "uring", "tokio"], share=0.8),
        turns_job("conns", "churn", ["weir", "uring", "epoll", "tokio"],
                  lambda some, _: samples.churn(some, t), t),
        job("conns", "few active", ["weir", "uring", "tokio"],
            lambda p, _: samples.few_active(p, t), t + 1, SOME_ROUNDS),
        *[turns_job(kind, "64 B x 64", ["weir", "epoll", "tokio", "go"],
                    lambda some, _, kind=kind: samples.echo(some, t, kind=kind), t, SOME_ROUNDS)
          for kind in ("unix", "udp")],
        *[proxy_job(t, size) for size in (64, 1024, 16384, 65536)],
        *[http_job(t, depth, ["weir", "tokio", "tokio-mi"], ["go"]) for depth in (1, 16)],
        # a roofline in every round: the verdicts lean on it
        *[kv_job(t, command, depth, ["weir", "uring", "redis"], seldom=["epoll"])
          for command in ("get", "set") for depth in (1, 16)],
        *micro_jobs(),
        alloc_job(),
        *cost_jobs(),
        *memory_jobs(),
    ]


def everything(t):
    """Every size by every number of connections and both depths, the whole field each."""
    wide = [echo_job(t, FIELD, size, connections, depth)
            for size in SIZES for connections in (1, 64, 1000) for depth in (1, 16)]
    wide.append(many_job(t, FIELD, 10000))
    names = {(j.group, j.name) for j in wide}
    rest = [j for j in default(t) if (j.group, j.name) not in names]
    return wide + rest
