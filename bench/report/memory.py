# SPDX-License-Identifier: MIT
"""Memory of what waits, and of what is over: idle tasks, and a server after a burst; skynet."""
import contextlib
import os
import re
import time

import machine
import samples
from build import built
from process import Failure, run
from stats import median

IDLE = {
    "weir": [built("bench", "bench_million"), "parked"],
    "tokio": [built("bench", "tokio", "release", "tokio_idle")],
    "tokio-mi": [built("bench", "tokio-mimalloc", "release", "tokio_idle")],
    "go": [built("bench", "go", "idle")],
}


def idle_tasks(name, tasks):
    """Resident bytes of a task that waits for a timer."""
    out = run(IDLE[name] + [str(tasks)], machine.cpu_pair()[0], {"GOMAXPROCS": "1"})
    found = re.search(r"parked .* ns each +(\d+) B each|bytes_per_task ([\d.]+)", out)
    if not found:
        raise Failure("no figure: " + out[-100:])
    return float(found.group(1) or found.group(2))


SKYNET = {
    "weir": [built("bench", "bench_million"), "skynet"],
    "tokio-ct": [built("bench", "tokio", "release", "skynet"), "current_thread"],
    "tokio": [built("bench", "tokio", "release", "skynet"), "multi_thread"],
    "tokio-mi-ct": [built("bench", "tokio-mimalloc", "release", "skynet"), "current_thread"],
    "tokio-mi": [built("bench", "tokio-mimalloc", "release", "skynet"), "multi_thread"],
    "go": [built("bench", "go", "skynet")],
}


def skynet(name):
    """A tree of 1,111,111 tasks: nanoseconds for each of them, median of five trees."""
    watch = machine.Watch()
    out = run(SKYNET[name], machine.cpu_pair()[0], {"GOMAXPROCS": "1", "WEIR_WORKERS": "1"})
    used = watch.stop()
    times = [float(text) for text in re.findall(r"skynet .*? ([\d.]+) ns each", out)]
    if not times:
        raise Failure("no figure: " + out[-100:])
    return {"ns": median(times), "foreign_percent": used["foreign_percent"],
            "steal_percent": used["steal_percent"]}


def room_for(tasks, bytes_each):
    """Whether the machine has twice the memory free that so many tasks take."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", machine.read("/proc/meminfo", ""))
    return bool(found) and int(found.group(1)) * 1024 > 2 * tasks * bytes_each


def resident(pid):
    return int(machine.read(f"/proc/{pid}/statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Burst:
    """RSS of servers before a burst, at its end and `wait` seconds later.

    All servers wait together, so that the wait is paid once; they are loaded one after another.
    """

    def __init__(self, programs, wait):
        self.programs, self.wait = programs, wait
        self.rows = None

    def take(self, program, _store):
        if self.rows is None:
            self.rows = self.measure()
        return {row: {"bytes": value} for row, value in self.rows[program].items()}

    def measure(self):
        with contextlib.ExitStack() as stack:
            open_servers = {name: stack.enter_context(samples.echo_server(name, 65536))
                            for name in self.programs}
            rows = {name: self.burst(server) for name, server in open_servers.items()}
            time.sleep(self.wait)
            for name, server in open_servers.items():
                rows[name][f"RSS {self.wait} s after it"] = resident(server.pid)
            return rows

    @staticmethod
    def burst(server):
        samples.echoload(server, connections=64, time=0.5, warmup=0)
        before = resident(server.pid)
        samples.echoload(server, connections=1000, size=16384, depth=4, time=1, warmup=0.2)
        return {"RSS before a burst": before, "RSS at its end": resident(server.pid)}
