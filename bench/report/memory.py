# SPDX-License-Identifier: MIT
"""Memory of what waits, and of what is over: idle tasks and connections, a server after a burst."""
import contextlib
import os
import re
import resource
import threading
import time

import machine
import samples
from build import built
from process import Failure
from stats import median

IDLE = {
    "weir": [built("bench", "bench_million"), "parked"],
    "tokio": [built("bench", "tokio", "release", "tokio_idle")],
    "tokio-mi": [built("bench", "tokio-mimalloc", "release", "tokio_idle")],
    "go": [built("bench", "go", "idle")],
}


def idle_tasks(name, tasks):
    """Resident bytes of a task that waits for a timer, and the time to make it and park it."""
    out, disturbance = samples.run_watched(IDLE[name] + [str(tasks)], {"GOMAXPROCS": "1"})
    found = {key: float(first or second) for key, first, second in (
        ("ns", *figure(r"parked .*? ([\d.]+) ns each|ns_per_task ([\d.]+)", out)),
        ("bytes", *figure(r"parked .* (\d+) B each|bytes_per_task ([\d.]+)", out)))}
    return {f"idle task ({tasks:,})": {"bytes": found["bytes"]},
            ("tasks", f"spawned and parked, {tasks:,} tasks"): {"ns": found["ns"], **disturbance}}


def figure(pattern, out):
    """Both groups of the pattern, one of which has matched."""
    found = re.search(pattern, out)
    if not found:
        raise Failure("no figure: " + out[-100:])
    return found.groups()


SKYNET = {
    "weir": [built("bench", "bench_million"), "skynet"],
    "tokio-ct": [built("bench", "tokio", "release", "skynet"), "current_thread"],
    "tokio": [built("bench", "tokio", "release", "skynet"), "multi_thread"],
    "tokio-mi-ct": [built("bench", "tokio-mimalloc", "release", "skynet"), "current_thread"],
    "tokio-mi": [built("bench", "tokio-mimalloc", "release", "skynet"), "multi_thread"],
    "go": [built("bench", "go", "skynet")],
}


SKYNET_ROW, SKYNET_PEAK = "skynet", "peak of skynet (1,111,111 tasks, the whole process)"


def skynet(name):
    """A tree of 1,111,111 tasks: nanoseconds for each of them, median of five trees, and the peak."""
    out, disturbance = samples.run_watched(SKYNET[name], {"GOMAXPROCS": "1", "WEIR_WORKERS": "1"})
    trees = re.findall(r"skynet .*?([\d.]+) ns each.*? peak +([\d.]+) MiB", out)
    if not trees:
        raise Failure("no figure: " + out[-100:])
    return {SKYNET_ROW: {"ns": median(float(ns) for ns, _peak in trees), **disturbance},
            ("memory", SKYNET_PEAK): {"bytes": max(float(mib) for _ns, mib in trees) * (1 << 20)}}


def available():
    """Bytes of memory that programs may still take."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", machine.read("/proc/meminfo", ""))
    return int(found.group(1)) * 1024 if found else 0


def room_for(tasks, bytes_each):
    """Whether the machine has twice the memory free that so many tasks take."""
    return available() > 2 * tasks * bytes_each


DESCRIPTORS_SPARE = 100  # of server and load, beside the connections
CONNECTION_BYTES = 24 << 10  # of both ends, with what the kernel keeps for them
CONNECTIONS_TIMELY = 200_000


def connections_most():
    """How many idle connections this machine allows, and what the limit is."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limits = [
        (descriptors - DESCRIPTORS_SPARE, f"a process may have {descriptors:,} descriptors"),
        (available() // 2 // CONNECTION_BYTES, "half of the free memory"),
        (CONNECTIONS_TIMELY, "what a run has time for"),
    ]
    return min(limits)


def resident(pid):
    return int(machine.read(f"/proc/{pid}/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Burst:
    """RSS of servers before a burst, at its end, and each second of the two minutes after.

    take() leaves the server alone with a thread that reads its memory: neither uses the CPU to
    speak of, so the other jobs run meanwhile, and finish() gives what has been read when they are
    done. A server that works when it has nothing to do shows as foreign CPU time in their samples.
    """

    def __init__(self, seconds):
        self.seconds = seconds
        self.programs = {}  # name: what is known of its burst
        self.watchers = []
        self.stopped = threading.Event()

    def take(self, program, _store):
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(samples.echo_server(program, 65536))
            samples.echoload(server, connections=64, time=0.5, warmup=0)
            before = resident(server.pid)
            samples.echoload(server, connections=1000, size=16384, depth=4, time=1, warmup=0.2)
            self.programs[program] = before, [(0.0, resident(server.pid))]
            watcher = threading.Thread(target=self.watch, args=(stack.pop_all(), server, program))
            watcher.start()
            self.watchers.append(watcher)
        return {}

    def watch(self, stack, server, program):
        with stack:
            series, start = self.programs[program][1], time.monotonic()
            while series[-1][0] < self.seconds and server.process.poll() is None:
                if self.stopped.wait(1):
                    break
                series.append((time.monotonic() - start, resident(server.pid)))

    def finish(self, interrupted):
        """Waits for the end of the two minutes; {program: rows}."""
        if interrupted:
            self.stopped.set()
        for watcher in self.watchers:
            watcher.join()
        return {name: self.rows(*known) for name, known in self.programs.items()}

    def rows(self, before, series):
        def after(seconds):
            return next((value for at, value in series if at >= seconds), None)
        rows = {"RSS before a burst": before, "RSS at its end": series[0][1],
                "RSS 30 s after it": after(30),
                f"RSS {self.seconds} s after it": after(self.seconds)}
        return {row: {"bytes": value} for row, value in rows.items() if value is not None}

    def series(self):
        """(program, seconds since the burst's end, bytes); the level before it at -1."""
        for name, (before, series) in self.programs.items():
            yield name, -1.0, before
            for at, value in series:
                yield name, at, value
