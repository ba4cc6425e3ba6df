# SPDX-License-Identifier: MIT
"""What weir has set itself, and whether this run's samples meet it.

A goal is a bound on a figure of weir's or on a ratio paired by round, judged by the median; when the
interval of the ratio holds the bound, the verdict says that noise could turn it. Beside a goal against a
rival that is missed stands what the rooflines of the same row have against that rival, where they do not
reach it either. What a run has not measured is not judged and is named. Nothing here is a measured constant: the numbers are the goals.
"""
import asked
from memory import SKYNET_PEAK, SKYNET_ROW
from pool import TAILS, TailRatio
from stats import Ratio, median

CONNECTION_BYTES_MAX = 4700
TASK_BYTES_MAX, TASKS_SECONDS_MAX = 4600, 10  # parked; to make and park a million of them
INSTRUCTIONS_MAX = 450
A2_RATE_MIN = 3e6
TOKIO_ECHO_MIN = {"64": 1.25, "1024": 1.2, "4096": 1.2}  # times weir's CPU time, by message size
KV_MIN = {"1": 1.25, "16": 1.5}  # by depth
TOUCH_MIN, SHIM_MIN = 1.5, 0.9  # times weir's time, of the best general allocator


ROOFLINES = {"uring": "the roofline", "epoll": "the epoll server"}


class Verdict:
    def __init__(self, row, must, measured, met, doubtful=False, limit=""):
        self.row, self.must, self.measured, self.met = row, must, measured, met
        self.word = ("met" if met else "missed") + (", within noise" if doubtful else "")
        self.word += "" if met else limit


class Judge:
    """Collects verdicts about one store."""

    def __init__(self, store):
        self.store, self.verdicts, self.unknown = store, [], []

    def median_of(self, group, row, program, metric):
        return median(self.store.values(group, row, program, metric).values())

    def rows(self, group):
        """What was measured, then what a whole run has and this one has not."""
        return list(dict.fromkeys([*self.store.rows(group), *asked.rows(group)]))

    def ratio(self, group, row, over, under, metric):
        """`over`'s figure over `under`'s; either may be (group, row, program) of its own."""
        def values(of):
            where = of if isinstance(of, tuple) else (group, row, of)
            return self.store.values(*where, metric)
        return Ratio(values(over), values(under))

    def tail(self, group, row, program, metric):
        """A program's percentile over weir's, of all rounds together."""
        return TailRatio(self.store.latencies(group, row, program),
                         self.store.latencies(group, row, "weir"), TAILS[metric])

    def limit(self, group, row, rival, low):
        """What the best roofline of the row has against a rival, unless that is enough."""
        found = [(self.ratio(group, row, rival, p, "cpu_us"), p) for p in ROOFLINES]
        found = [(ratio, p) for ratio, p in found if ratio.value is not None]
        if not found:
            return ""
        best, program = max(found, key=lambda one: one[0].value)
        return f"; {ROOFLINES[program]} has {best.text()}" if best.value < low else ""

    def against(self, name, group, row, rival, low):
        """Judges what a rival's CPU time is of weir's, in sight of what is possible."""
        self.add(name, f"{rival.capitalize()} needs at least {low} × weir's CPU time",
                 self.ratio(group, row, rival, "weir", "cpu_us"), low=low,
                 limit=self.limit(group, row, rival, low))

    def add(self, row, must, ratio, low=None, high=None, text="{}", limit=""):
        """Judges a ratio by the least (`low`) or the most (`high`) it may be."""
        if ratio.value is None:
            self.unknown.append(row)
            return
        bound = low if high is None else high
        met = ratio.value >= low if high is None else ratio.value <= high
        doubtful = bool(ratio.interval) and ratio.interval[0] <= bound <= ratio.interval[1]
        self.verdicts.append(Verdict(row, must, text.format(ratio.text()), met, doubtful,
                                     limit))

    def add_figure(self, row, must, value, met, unit=""):
        if value is None:
            self.unknown.append(row)
            return
        self.verdicts.append(Verdict(row, must, f"{value:,.2f}{unit}".replace(".00", ""),
                                     met(value)))

    def rivals(self, group, row, metric, without=(), tail=False):
        """The others that have the figure, the best one first: (ratio over weir's, name)."""
        others = [p for p in self.store.programs(group)
                  if not p.startswith("weir") and p not in (*ROOFLINES, *without)]
        ratios = [(self.tail(group, row, p, metric) if tail
                   else self.ratio(group, row, p, "weir", metric), p) for p in others]
        return sorted(((r, p) for r, p in ratios if r.value is not None),
                      key=lambda found: found[0].value)

    def ahead_of_all(self, name, group, row, metric, what, low=1.0, without=(), tail=False):
        found = self.rivals(group, row, metric, without, tail)
        if found:
            best, program = found[0]
            self.add(name, what, best, low=low, text=program + " {}")
        else:
            self.unknown.append(name)


def echo(judge):
    for row in judge.rows("echo"):
        size, name = row.split(" ", 1)[0], f"echo {row}"
        rate = judge.ratio("echo", row, "weir", "uring", "rate").text()
        judge.add(name, "at least 0.97 of the roofline: its CPU time over weir's",
                  judge.ratio("echo", row, "uring", "weir", "cpu_us"), low=0.97,
                  text="{}; requests/s " + rate)
        if size in TOKIO_ECHO_MIN:
            judge.against(name, "echo", row, "tokio", TOKIO_ECHO_MIN[size])
        if size == "65536":
            judge.ahead_of_all(name, "echo", row, "cpu_us", "level with the best rival", 0.97)
        else:
            judge.ahead_of_all(name, "echo", row, "cpu_us", "ahead of every other rival",
                               without=("tokio",) if size in TOKIO_ECHO_MIN else ())


def counted(judge):
    def cost(row, program):
        return judge.median_of("cost", row, program, "count")
    judge.add_figure("user-space instructions of a 64 B echo", f"at most {INSTRUCTIONS_MAX}",
                     cost("user instructions", "weir"), lambda value: value <= INSTRUCTIONS_MAX)
    judge.add("system calls of a 64 B echo", "as few as the roofline's, within 3 %",
              judge.ratio("cost", "system calls", "weir", "uring", "count"), high=1.03,
              text=f"{cost('system calls', 'weir') or 0:.3f} each, {{}} of the roofline's")
    judge.add_figure("malloc calls of a 64 B echo", "none", cost("malloc calls", "weir"),
                     lambda value: value < 0.005)


def workers(judge):
    one, two = (("workers", f"{n} worker{'s' * (n > 1)}", "weir") for n in (1, 2))
    judge.add("echo, two workers", "at least 1.9 × one worker: half of 1.9 in CPU time per request",
              judge.ratio(None, None, one, two, "cpu_us"), low=0.95)
    judge.add("echo, two workers, nothing pinned, 64 connections", "p99 no higher than Tokio's",
              judge.ratio("workers", "2 workers", "tokio", "weir", "p99_us"), low=1.0,
              text="Tokio's over weir's {}")


def servers(judge):
    for row in judge.rows("http"):
        judge.ahead_of_all(f"HTTP, {row}", "http", row, "cpu_us", "ahead of every rival")
    for row in judge.rows("kv"):
        low = KV_MIN[row.rsplit(" ", 1)[1]]
        judge.against(f"key-value, {row}", "kv", row, "redis", low)


def open_loop(judge):
    for row in ("20 k/s", "60 k/s"):
        judge.add(f"open loop, {row}", "CPU time within 3 % of the epoll server's",
                  judge.ratio("open", row, "weir", "epoll", "cpu_us"), high=1.03)
        judge.add(f"open loop, {row}", "CPU time below Tokio's",
                  judge.ratio("open", row, "tokio", "weir", "cpu_us"), low=1.0,
                  text="Tokio's over weir's {}")
    for row in judge.rows("open"):
        for metric, name in (("p99_us", "p99"), ("p99.9_us", "p99.9")):
            judge.ahead_of_all(f"open loop, {row}", "open", row, metric,
                               f"no rival's {name} lower, all rounds together", tail=True)


def fairness(judge):
    judge.add("fairness: 1,000 connections, one worker", "p99 within 1.1 of the roofline's",
              judge.ratio("echo", "64 B x 1000", "weir", "uring", "p99_us"), high=1.1)


def parked(row):
    """Its goal is seconds for a million, and memory."""
    return row.startswith("spawned and parked")


def micro(judge):
    """A line for all rows that are ahead, and one for each that is not."""
    ahead = []
    for row in (r for r in judge.store.rows("tasks") if not parked(r)):
        found = judge.rivals("tasks", row, "ns")
        if found and found[0][0].value > 1:
            ahead.append(row)
        elif found:
            judge.ahead_of_all(f"microbenchmark {row}", "tasks", row, "ns",
                               "ahead of the better of Tokio and Go")
    if ahead:
        judge.verdicts.append(Verdict(f"microbenchmarks, {len(ahead)} rows but for the above",
                                      "ahead of the better of Tokio and Go", "each is", True))
    else:
        judge.unknown.append("microbenchmarks")


def better(judge, row, *programs):
    """The ratio of the better scheduler of a rival."""
    ratios = [judge.ratio("tasks", row, p, "weir", "ns") for p in programs]
    return min(ratios, key=lambda r: r.value or float("inf"))


def skynet(judge):
    name = "skynet, 1,111,111 tasks"
    judge.add(name, "at most half of Tokio's time, its better scheduler",
              better(judge, SKYNET_ROW, "tokio", "tokio-ct"), low=2.0)
    judge.add(name, "below Tokio with mimalloc, its better scheduler",
              better(judge, SKYNET_ROW, "tokio-mi", "tokio-mi-ct"), low=1.0)
    judge.add(name, "peak memory no higher than Go's",
              judge.ratio("memory", SKYNET_PEAK, "go", "weir", "bytes"), low=1.0,
              text="Go's over weir's {}")


def spawn_alloc(judge):
    judge.add("A2 spawn and alloc", "at least 2.5 × Tokio, its better scheduler",
              better(judge, "spawn_alloc_A2", "tokio", "tokio-ct"), low=2.5)
    judge.add("A2 spawn and alloc", "at least 2 × Tokio with mimalloc, its better scheduler",
              better(judge, "spawn_alloc_A2", "tokio-mi", "tokio-mi-ct"), low=2.0)
    ns = judge.median_of("tasks", "spawn_alloc_A2", "weir", "ns")
    judge.add_figure("A2 spawn and alloc", f"above {A2_RATE_MIN / 1e6:.0f} M operations/s",
                     ns and 1e3 / ns, lambda value: value * 1e6 > A2_RATE_MIN, " M/s")


def alloc_loops(judge):
    """The worst loop of each kind stands for all of them. One block live is A1, the rest is A3."""
    def kind(row):
        many = any(word in row for word in ("live", "elsewhere", "holes"))
        return "A3" if many else "A1 with memset" if "memset" in row else "A1"
    kinds = (("weir", "A1", TOUCH_MIN), ("weir", "A1 with memset", 1.0), ("weir", "A3", 1.0),
             ("weir-malloc", "A1", SHIM_MIN), ("weir-malloc", "A1 with memset", SHIM_MIN))
    for program, wanted, low in kinds:
        worst = None
        for row in (r for r in judge.store.rows("alloc") if kind(r) == wanted):
            best = min((judge.ratio("alloc", row, p, program, "ns") for p in
                        judge.store.programs("alloc") if not p.startswith("weir")),
                       key=lambda r: r.value or float("inf"), default=None)
            if best and best.value and (worst is None or best.value < worst[0].value):
                worst = best, row
        name = f"{wanted}, {program}"
        must = f"the best general allocator takes at least {low} × as long"
        if worst:
            judge.add(name, must, worst[0], low=low, text="worst: " + worst[1] + " {}")
        else:
            judge.unknown.append(name)
    ns = judge.median_of("alloc", "1-5 KB memset", "weir", "ns")
    judge.add_figure("A1 with memset, weir: 1-5 KB", "above 3 M operations/s", ns and 1e3 / ns,
                     lambda value: value > 3, " M/s")


def parked_tasks(judge):
    for row in [r for r in judge.store.rows("memory") if r.startswith("idle task")] or ["idle tasks"]:
        judge.add_figure(row, f"at most {TASK_BYTES_MAX:,} bytes, page tables too",
                         judge.median_of("memory", row, "weir", "bytes"),
                         lambda value: value <= TASK_BYTES_MAX)
    for row in (r for r in judge.store.rows("tasks") if parked(r)):
        ns = judge.median_of("tasks", row, "weir", "ns")
        judge.add_figure(row, f"a million in under {TASKS_SECONDS_MAX} s", ns and ns / 1e3,
                         lambda value: value < TASKS_SECONDS_MAX, " s a million")


def memory(judge):
    rows = [row for row in judge.store.rows("memory") if row.startswith("idle connection")]
    for row in rows or ["idle connections"]:
        name = row.split(", the most", 1)[0] + ")" * (", the most" in row)
        judge.add_figure(name, f"at most {CONNECTION_BYTES_MAX:,} bytes",
                         judge.median_of("memory", row, "weir", "bytes"),
                         lambda value: value <= CONNECTION_BYTES_MAX)
        judge.ahead_of_all(name, "memory", row, "bytes", "below Tokio, Go and monoio",
                           without=("glommio", "libuv", "tokio-mi"))
    judge.add("RSS after a burst", "within 5 % of the level before it, 30 s after",
              judge.ratio(None, None, ("memory", "RSS 30 s after it", "weir"),
                          ("memory", "RSS before a burst", "weir"), "bytes"), high=1.05)


def judged(store):
    """(verdicts, what was not measured)."""
    judge = Judge(store)
    for part in (echo, counted, workers, servers, open_loop, fairness, micro, skynet, spawn_alloc,
                 alloc_loops, parked_tasks, memory):
        part(judge)
    return judge.verdicts, judge.unknown
