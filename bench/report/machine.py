# SPDX-License-Identifier: MIT
"""What machine this is, and how much of it somebody else is using.

Foreign CPU time is what /proc/stat calls busy less what our own processes used: it is measured
during every sample, because a figure from a disturbed machine is not a figure.
"""
import os
import platform
import resource
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")


def first_line(command):
    """The first line a command prints, or None when there is no such command or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None


def read(path, default=None):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return default


def cpu_model():
    for line in read("/proc/cpuinfo", "").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown CPU"


def cpu_pair():
    """The CPU of the server and that of the load; the same one when there is only one."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[0], cpus[1 if len(cpus) > 1 else 0]


def allocators():
    """The versions of the general allocators, as the distribution numbers them."""
    found = first_line(["dpkg-query", "-W", "-f", "${Package} ${Version}; ", "libjemalloc2",
                        "libmimalloc2.0", "libtcmalloc-minimal4"])
    return found.rstrip("; ") if found else "unknown"


def facts(repo):
    """Name and value of what a reader needs to judge the figures, in order."""
    governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
                    "not visible (no cpufreq)")
    server, load = cpu_pair()
    hypervisor = "yes" if " hypervisor" in read("/proc/cpuinfo", "") else "no"
    return [
        ("CPU", f"{cpu_model()}, {len(os.sched_getaffinity(0))} usable"),
        ("virtual machine", hypervisor),
        ("kernel", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("governor", governor),
        ("transparent huge pages", read("/sys/kernel/mm/transparent_hugepage/enabled", "unknown")),
        ("TCP", read("/proc/sys/net/ipv4/tcp_congestion_control", "unknown")),
        ("libc", " ".join(platform.libc_ver())),
        ("allocators", allocators()),
        ("compiler", first_line([os.environ.get("CC", "cc"), "--version"]) or "unknown"),
        ("commit", first_line(["git", "-C", repo, "describe", "--always", "--dirty"]) or "unknown"),
        ("pinning", f"servers and runtimes on CPU {server}, load on CPU {load}; "
                    "the rows by workers are left to the scheduler"),
    ]


def cpu_clock(pid):
    """CPU seconds of a process, all threads, to the nanosecond."""
    return time.clock_gettime((~pid << 3) | 2)


def own_seconds():
    """CPU seconds of this process and of its children that have ended."""
    ours = resource.getrusage(resource.RUSAGE_SELF)
    theirs = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ours.ru_utime + ours.ru_stime + theirs.ru_utime + theirs.ru_stime


def busy_and_stolen():
    fields = [int(text) for text in read("/proc/stat").split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq) / TICK, steal / TICK


class Watch:
    """Measures, between its start and stop(), what a living process used and what others used.

    `beside` is a living process that takes part and is not judged: it is none of the others.
    Children that end in between must be waited for before stop(), or they count as foreign.
    """

    def __init__(self, pid=None, beside=None):
        self.pid, self.beside = pid, beside
        self.busy, self.stolen = busy_and_stolen()
        self.own = own_seconds()
        self.cpu = cpu_clock(pid) if pid else 0.0
        self.beside_cpu = cpu_clock(beside) if beside else 0.0
        self.time = time.monotonic()

    def stop(self):
        seconds = time.monotonic() - self.time
        cpu = (cpu_clock(self.pid) if self.pid else 0.0) - self.cpu
        busy, stolen = busy_and_stolen()
        beside_cpu = (cpu_clock(self.beside) if self.beside else 0.0) - self.beside_cpu
        foreign = busy - self.busy - cpu - beside_cpu - (own_seconds() - self.own)
        return {
            "seconds": seconds,
            "cpu_s": cpu,
            "foreign_percent": max(0.0, 100 * foreign / seconds),
            "steal_percent": 100 * (stolen - self.stolen) / seconds,
        }


def wait_for_quiet(patience):
    """Returns when the machine is 92 % idle, or after `patience` seconds."""
    end = time.monotonic() + patience
    cpus = os.cpu_count() or 1
    while time.monotonic() < end:
        before = busy_and_stolen()[0]
        time.sleep(0.25)
        if busy_and_stolen()[0] - before < 0.08 * 0.25 * cpus:
            return
