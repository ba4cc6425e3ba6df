# SPDX-License-Identifier: MIT
"""make bench-guard: fails when a hot path executes over 3 % more instructions than it did.

bench_guard runs the paths under callgrind, three times for each driver, and the least count of a
path is what it takes: whatever a clock adds, it adds. A path that is beyond the limit is counted
six times more before it is called slower. The counts are compared with bench/baseline.csv,
where each compiler has its own: another compiler's counts say nothing, so without a baseline of
this one the paths are counted and printed and not judged.

    python3 bench/report/guard.py [--record]    --record writes this compiler's counts into it
"""
import csv
import glob
import os
import platform
import re
import shutil
import sys
import tempfile

import build
from process import Failure, run

BASELINE = os.path.join(build.REPO, "bench", "baseline.csv")
FIELDS = ["compiler", "driver", "path", "instructions"]
LIMIT_PERCENT = 3.0
RUNS = 3
BATCHES = 3  # of runs, while a path is beyond the limit


def totals(folder):
    """Path and instructions of each dump that a client request made."""
    for file in glob.glob(os.path.join(folder, "out.*")):
        with open(file, encoding="utf-8") as dump:
            text = dump.read()
        path = re.search(r"^desc: Trigger: Client Request: (\S+)$", text, re.M)
        count = re.search(r"^totals: (\d+)", text, re.M)
        if path and count:
            yield path.group(1), int(count.group(1))


def count_once(driver):
    """The compiler that made the program, and instructions per operation by path. Slices are as
    much longer as valgrind makes everything slower, or their ends would be counted, as they fall."""
    with tempfile.TemporaryDirectory() as folder:
        out = run(["valgrind", "-q", "--tool=callgrind",
                   "--callgrind-out-file=" + os.path.join(folder, "out"),
                   build.built("bench", "bench_guard")],
                  env={"WEIR_DRIVER": driver, "WEIR_WORKERS": "1",
                       "WEIR_SLICE_US": "7500"})
        lines = dict(line.split(" ", 1) for line in out.splitlines())
        compiler = lines.pop("compiler") + " " + platform.machine()
        return compiler, {path: count / int(lines[path]) for path, count in totals(folder)}


def count(driver):
    compiler, least = count_once(driver)
    for _ in range(RUNS - 1):
        for path, value in count_once(driver)[1].items():
            least[path] = min(value, least[path])
    return compiler, least


def count_in_doubt(driver):
    """As count(), and again while the baseline says that something is slower."""
    compiler, least = count(driver)
    for _ in range(BATCHES - 1):
        was = baseline_of(compiler, driver)
        if all(verdict(value, was.get(path))[1] for path, value in least.items()):
            break
        for path, value in count(driver)[1].items():
            least[path] = min(value, least[path])
    return compiler, least


def read_baseline():
    if not os.path.exists(BASELINE):
        return []
    with open(BASELINE, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def baseline_of(compiler, driver):
    return {row["path"]: float(row["instructions"]) for row in read_baseline()
            if (row["compiler"], row["driver"]) == (compiler, driver)}


def record(compiler, driver, counts):
    rows = [row for row in read_baseline()
            if (row["compiler"], row["driver"]) != (compiler, driver)]
    rows += [dict(zip(FIELDS, (compiler, driver, path, f"{value:.1f}")))
             for path, value in counts.items()]
    rows.sort(key=lambda row: (row["compiler"], row["driver"]))
    with open(BASELINE, "w", encoding="utf-8", newline="") as file:
        out = csv.DictWriter(file, FIELDS, lineterminator="\n")
        out.writeheader()
        out.writerows(rows)


def verdict(value, was):
    if was is None:
        return "not judged", True
    percent = 100 * (value - was) / was
    good = percent <= LIMIT_PERCENT
    word = "ok" if good else "SLOWER"
    if percent < -LIMIT_PERCENT:
        word = "better: record it"
    return f"{was:9.1f} {percent:+6.1f} %  {word}", good


def judge(compiler, driver, counts):
    """Prints a line for each path; false when one is beyond the limit."""
    was = baseline_of(compiler, driver)
    if not was:
        print(f"bench/baseline.csv has nothing of {compiler} on {driver}: counted, not judged")
    good = True
    for path in sorted(counts.keys() | was.keys()):
        if path not in counts:
            print(f"  {path:16} was in the baseline and did not run")
            good = False
            continue
        text, fine = verdict(counts[path], was.get(path))
        print(f"  {path:16} {counts[path]:9.1f} {text}")
        good &= fine
    return good


def main():
    if not shutil.which("valgrind"):
        print("bench-guard: no valgrind here; .ci/deps bench installs it")
        return 1
    good = True
    for driver in ("uring", "epoll"):
        try:
            compiler, counts = count_in_doubt(driver)
        except Failure as error:
            print(f"{driver}: does not run here, not judged ({error})")
            good &= driver != "epoll"  # epoll is everywhere
            continue
        print(f"{driver}, {compiler}: instructions per operation, baseline, change")
        if "--record" in sys.argv:
            record(compiler, driver, counts)
        good &= judge(compiler, driver, counts)
    print("bench-guard: " + ("ok" if good else f"a path is beyond {LIMIT_PERCENT:.0f} %"))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
