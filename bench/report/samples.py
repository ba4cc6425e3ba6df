# SPDX-License-Identifier: MIT
"""One sample of each kind of load: a fresh server, a load, a dictionary of figures.

Every function gives {metric: value} with at least foreign_percent and steal_percent, and raises
Failure when there is nothing to measure; those that take several programs at once, whose servers are
loaded in turns, give {program: that, or a Failure}. Times are microseconds unless the name says otherwise.
"""
import contextlib
import csv
import io
import os
import re
import select
import subprocess
import tempfile

import machine
import pool
import servers
from build import REPO, built
from process import Failure, Server, free_port, run
from stats import median

# What echoload calls it, and what the report does.
ECHOLOAD = {
    "server_cpu_us": "cpu_us", "requests_per_s": "rate", "p50_us": "p50_us", "p99_us": "p99_us",
    "p99.9_us": "p99.9_us", "p99.99_us": "p99.99_us", "server_switches": "switches",
    "server_rss_kb": "rss_kb", "bytes_per_conn": "bytes_per_conn", "syscalls": "syscalls",
    "server_sleeps": "sleeps", "cqes": "cqes", "requests": "requests", "seconds": "seconds",
    "errors": "errors", "behind": "behind", "foreign_percent": "foreign_percent",
    "steal_percent": "steal_percent",
}


def place_for(kind, name=""):
    if kind == "unix":
        return "unix:" + os.path.join(tempfile.gettempdir(), f"weir-bench-{name}-{os.getpid()}.sock")
    return f"udp:{free_port()}" if kind == "udp" else str(free_port())


def echo_server(name, in_flight=64, workers=1, pinned=True, kind="tcp"):
    where = place_for(kind, name)
    command, env = (servers.UDP if kind == "udp" else servers.ECHO)[name](where, workers, in_flight)
    return Server(command, where, machine.cpu_pair()[0] if pinned else None, env)


def echoload(server, pinned=True, **options):
    """Runs echoload with --name value for each option (True: no value); its line of CSV."""
    command = [built("bench", "echoload"), "--csv-header", "-P", str(server.pid)]
    for name, value in options.items():
        command += ["--" + name] + ([] if value is True else [str(value)])
    out = run(command + [servers.address(server.address)], machine.cpu_pair()[1] if pinned else None)
    line = next(csv.DictReader(io.StringIO(out)))
    figures = {ours: float(line[theirs]) for theirs, ours in ECHOLOAD.items() if line.get(theirs)}
    if figures.get("errors"):
        raise Failure(f"{figures['errors']:.0f} connections lost")
    if line.get("latencies"):
        figures["latencies"] = pool.parse(line["latencies"])
    return figures


TURNS = 3
WARM_UP_SECONDS = 0.2, 0.05  # of a server's first turn, and of each that follows
PER_REQUEST = {"cpu_us", "switches", "sleeps", "syscalls", "cqes"}
PER_SECOND = {"foreign_percent", "steal_percent"}


def together(turns):
    """The figures of a sample from those of its turns."""
    requests, seconds = ([turn[name] for turn in turns] for name in ("requests", "seconds"))

    def mean(metric, weights):
        return sum(turn[metric] * w for turn, w in zip(turns, weights)) / sum(weights)
    figures = {metric: mean(metric, requests) if metric in PER_REQUEST
               else mean(metric, seconds) if metric in PER_SECOND
               else median([turn[metric] for turn in turns])
               for metric in turns[0] if metric != "latencies"}
    figures |= {"requests": sum(requests), "seconds": sum(seconds),
                "rate": sum(requests) / sum(seconds)}
    if "latencies" in turns[0]:
        latencies = pool.sum_of(turn["latencies"] for turn in turns)
        figures |= {"latencies": latencies,
                    **{f"p{p}_us": pool.percentile_us([latencies], p) for p in (50, 99, 99.9, 99.99)}}
    return figures


def in_turns(serve, load, names):
    """
    Servers that are there at the same time, `serve(name)` each, and are loaded in turns by `load(name, server,
    warm_up_seconds)`: what changes on the machine in less than a second is the same for all of them.
    """
    found, turns = {}, {name: [] for name in names}
    with contextlib.ExitStack() as stack:
        alive = {}
        for name in names:
            try:
                alive[name] = stack.enter_context(serve(name))
            except Failure as error:
                found[name] = error
        for turn in range(TURNS):
            for name in list(alive):
                try:
                    turns[name].append(load(name, alive[name], WARM_UP_SECONDS[turn > 0]))
                except Failure as error:
                    found[name] = error
                    del alive[name]
    return found | {name: together(turns[name]) for name in alive}


def echo(names, seconds, size=64, connections=64, depth=1, workers=1, pinned=True, kind="tcp",
         **options):
    def serve(name):
        return echo_server(name, size * depth, workers, pinned, kind)

    def load(_name, server, warm_up_seconds):
        return echoload(server, pinned, size=size, connections=connections, depth=depth,
                        warmup=warm_up_seconds, time=seconds / TURNS, latencies=True, **options)
    found = in_turns(serve, load, names)
    for figures in found.values():
        if "rate" not in options and not isinstance(figures, Failure):
            del figures["latencies"]  # which only tails at a fixed rate are judged by
    return found


def echo_alone(name, seconds, connections):
    """With so many connections that to close them is work, which would be in the turn of the next."""
    with echo_server(name) as server:
        return echoload(server, connections=connections, warmup=0.2, time=seconds)


def proxy(name, seconds, size, connections=64):
    """Echo through a proxy; the server behind it has the load's CPU, and what counts is the proxy."""
    proxy_cpu, load_cpu = machine.cpu_pair()
    behind, where = str(free_port()), str(free_port())
    command, env = servers.epoll_echo(behind, 1, size)
    with Server(command, behind, load_cpu, env) as last:
        command, env = servers.PROXY[name](where, 1, behind)
        with Server(command, where, proxy_cpu, env) as server:
            watch = machine.Watch(server.pid, last.pid)
            figures = echoload(server, size=size, connections=connections, warmup=0.2,
                               time=seconds)
            used = watch.stop()
    return figures | {name: used[name] for name in ("foreign_percent", "steal_percent")}


def churn(names, seconds):
    """Connect, one echo, close with a reset (so that no ports are used up), again."""
    return echo(names, seconds, churn=True, reset=True)


HELD_SECONDS_MAX = 15


def wait_until_held(holder, count):
    """Returns when an echoload --idle says that it has so many connections open."""
    ready, _, _ = select.select([holder.stdout], [], [], HELD_SECONDS_MAX)
    line = holder.stdout.readline().decode() if ready else "nothing"
    if line.split()[:2] != ["held", str(count)]:
        raise Failure(f"{count} connections did not come up: {line.strip()}")


def few_active(name, seconds, connections=10000, active=100):
    """A hundredth of the connections talks; the others are there."""
    idle = connections - active
    with echo_server(name) as server:
        holder = subprocess.Popen(
            [built("bench", "echoload"), "--idle", "--reset", "-c", str(idle), "-t", "60",
             servers.address(server.address)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            wait_until_held(holder, idle)
            return echoload(server, size=64, connections=active, warmup=0.2, time=seconds)
        finally:
            holder.kill()
            holder.communicate()


def idle_connections(name, seconds, connections=10000):
    with echo_server(name) as server:
        return echoload(server, idle=True, once=True, reset=True, connections=connections,
                        time=seconds)


def http(name, seconds, depth=1, connections=64):
    """wrk counts whole seconds and has no warm-up."""
    port = str(free_port())
    command, env = servers.HTTP[name](port, 1, 0)
    server_cpu, load_cpu = machine.cpu_pair()
    with Server(command, port, server_cpu, env) as server:
        watch = machine.Watch(server.pid)
        out = run(["wrk", "-t", "1", "-c", str(connections), "-d", str(max(1, round(seconds))),
                   "-s", os.path.join(REPO, "bench", "wrk.lua"), f"http://127.0.0.1:{port}/",
                   "--", str(depth)], load_cpu)
        used = watch.stop()
    found = re.search(r"^figures (\d+) (\d+) ([\d.]+) ([\d.]+) ([\d.]+) (\d+)", out, re.M)
    if not found or found.group(6) != "0" or found.group(1) == "0":
        raise Failure("wrk saw errors: " + (found.group(0) if found else out[-200:]))
    requests, window_us = float(found.group(1)), float(found.group(2))
    return {"cpu_us": used["cpu_s"] * 1e6 / requests, "rate": requests * 1e6 / window_us,
            "p50_us": float(found.group(3)), "p99_us": float(found.group(4)),
            "p99.9_us": float(found.group(5)), "foreign_percent": used["foreign_percent"],
            "steal_percent": used["steal_percent"]}


def redis_benchmark(port, command, requests, depth, connections=50):
    out = run(["redis-benchmark", "-p", port, "-t", command, "-n", str(requests), "-P", str(depth),
               "-c", str(connections), "--csv"], machine.cpu_pair()[1])
    line = next(csv.DictReader(io.StringIO(out)), None)
    if not line or "rps" not in line:
        raise Failure("redis-benchmark: " + out[-200:])
    return line


def kv(names, seconds, command="get", depth=1):
    """As many requests as take about `seconds` at 120 k/s (1.6 M/s pipelined)."""
    requests = int(seconds / TURNS * (120_000 if depth == 1 else 100_000 * depth))

    def serve(name):
        port = str(free_port())
        program, env = servers.KV[name](port, 1, command)
        return Server(program, port, machine.cpu_pair()[0], env)

    def load(_name, server, _warm_up_seconds):
        redis_benchmark(server.address, "set", 2000, 1)
        watch = machine.Watch(server.pid)
        line = redis_benchmark(server.address, command, requests, depth)
        used = watch.stop()
        return {"cpu_us": used["cpu_s"] * 1e6 / requests, "requests": requests,
                "seconds": requests / float(line["rps"]),
                "p50_us": 1000 * float(line["p50_latency_ms"]),
                "p99_us": 1000 * float(line["p99_latency_ms"]),
                "foreign_percent": used["foreign_percent"], "steal_percent": used["steal_percent"]}
    return in_turns(serve, load, names)


def run_watched(command, env=None, pinned=True):
    """What it prints, and the disturbance meanwhile."""
    watch = machine.Watch()
    out = run(command, machine.cpu_pair()[0] if pinned else None, env, timeout=300)
    used = watch.stop()
    return out, {name: used[name] for name in ("foreign_percent", "steal_percent")}


def table_of_rows(command, env=None, pinned=True):
    """A program that prints name,program,rounds,min_ns,median_ns,max_ns: {row: figures}."""
    out, disturbance = run_watched(command, env, pinned)
    lines = [line.split(",") for line in out.splitlines() if line.count(",") == 5]
    rows = {name: {"ns": float(middle), "min_ns": float(low), **disturbance}
            for name, _program, rounds, low, middle, _high in lines if rounds.isdigit()}
    if not rows:
        raise Failure(f"{os.path.basename(command[0])} printed no rows")
    return rows


def alloc_loops(name):
    """All loops of bench_alloc under one allocator, a process each: {loop: figures}."""
    out, disturbance = run_watched([built("bench", "bench_alloc"), "--csv", "--quick", "--rounds",
                                    "1", "--allocator", name], pinned=False)
    lines = csv.DictReader(line for line in out.splitlines() if not line.startswith("#"))
    return {line["loop"]: {"ns": float(line["median_ns"]), "cold_ns": float(line["cold_ns"]),
                           **disturbance} for line in lines}
