# SPDX-License-Identifier: MIT
"""What a request costs in things that can be counted: instructions, system calls, mallocs.

Each is counted in a run of its own, because counting slows what is counted. They are the figures
that a busy machine hardly changes.
"""
import os
import re
import shutil
import struct
import subprocess
import tempfile

import machine
import samples
import servers
from build import built
from process import Failure, Server, run
from rounds import Sample

REQUESTS = (2000, 10000, 30000)  # warm-up, and two loads whose difference is what is counted
TRACEFS = "/sys/kernel/tracing"


def started(name, wrapper, env=None):
    where = samples.place_for("tcp")
    command, own = servers.ECHO[name](where, 1, 64)
    return Server(wrapper + command, where, machine.cpu_pair()[0], {**own, **(env or {})})


def load(server, requests):
    run([built("bench", "echoload"), "-c", "64", "-s", "64", "-n", str(requests),
         servers.address(server.address)], machine.cpu_pair()[1])


def instructions(name):
    """User-space instructions: callgrind's totals after two loads of known length.

    valgrind delivers no signal to a process that is blocked in io_uring_enter, so the totals are
    asked for through vgdb.
    """
    if not shutil.which("valgrind"):
        raise Failure("no valgrind here")
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        wrapper = ["valgrind", "-q", "--tool=callgrind", "--callgrind-out-file=" + out]
        with started(name, wrapper) as server:
            totals = []
            for i, requests in enumerate(REQUESTS):
                load(server, requests)
                run(["callgrind_control", "--dump", str(server.pid)])
                found = re.search(r"^totals: (\d+)", machine.read(f"{out}.{i + 1}", ""), re.M)
                if not found:
                    raise Failure("callgrind wrote no totals")
                totals.append(int(found.group(1)))
            server.process.kill()
    return (totals[2] - totals[1]) / (REQUESTS[2] - REQUESTS[1])


def traced(name, seconds):
    """System calls, and CQEs of a program with rings, by the kernel's tracepoints.

    It takes root, and tracefs (mounted for this alone).
    """
    with started(name, []) as server:
        command = [built("bench", "echoload"), "-c", "64", "-s", "64", "-t", str(seconds),
                   "--syscalls", "--csv-header", "-P", str(server.pid), servers.address(server.address)]
        if not os.path.exists(TRACEFS + "/events"):
            command = ["unshare", "-m", "sh", "-c",
                       f'mount -t tracefs nodev {TRACEFS} && exec "$@"', "sh", *command]
        header, line = run(command, machine.cpu_pair()[1]).splitlines()
    figures = dict(zip(header.split(","), line.split(",")))
    if not figures["syscalls"]:
        raise Failure("system calls cannot be counted here (it takes root and tracefs)")
    rows = {"system calls": {"count": float(figures["syscalls"])}}
    if figures["cqes"] and float(figures["cqes"]) > 0:
        rows["CQEs"] = {"count": float(figures["cqes"])}
    return rows


def mallocs(name):
    """Calls of libc's allocator, by a preloaded library; what a static allocator does is not seen."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "count")
        env = {"LD_PRELOAD": built("bench", "count_malloc.so"), "COUNT_MALLOC_FILE": file}
        with started(name, [], env) as server:
            counts = []
            for requests in REQUESTS:
                load(server, requests)
                with open(file, "rb") as count:
                    counts.append(struct.unpack("Q", count.read(8))[0])
    # each load opens its connections, which cancels
    return ((counts[2] - counts[1]) - (counts[1] - counts[0])) / (REQUESTS[2] - REQUESTS[1])


DERIVED = {"cpu_us": "CPU us", "switches": "context switches", "sleeps": "wake-ups"}


def from_echo(store):
    """What the echo rows measured of the same load anyway, as rows of the cost table."""
    return [Sample("cost", row, s.program, s.round, s.tries,
                   {**s.figures, "count": s.figures[metric]})
            for metric, row in DERIVED.items() for s in store.samples
            if (s.group, s.row) == ("echo", "64 B x 64") and metric in s.figures]


def own_counters(name):
    """What weir counts itself: completions (CQEs), sleeps in the kernel, switches of tasks."""
    if name != "weir":
        raise Failure("only weir prints them")
    with started(name, [], {"WEIR_VERBOSE": "1"}) as server:
        load(server, REQUESTS[2])
        server.process.terminate()
        text = server.process.communicate(timeout=10)[1].decode()
    found = {word: float(count) for count, word in
             re.findall(r"(\d+) (parks|switches|completions)\b", text)}
    return {f"{word} (weir's own count)": count / REQUESTS[2] for word, count in found.items()}
