# SPDX-License-Identifier: MIT
"""bench/report: weir beside its rivals on this machine, and a report about it.

`make bench` and `make bench-quick` call it. Standard library only. It writes report.md,
report.html, samples.csv and the plots into build/bench/.
"""
import argparse
import os
import resource
import signal
import sys
import time

import build
import catalogue
import machine
import rounds
import write


def parse():
    parser = argparse.ArgumentParser(prog="python3 bench/report", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the core rows, about 90 seconds")
    parser.add_argument("--all", action="store_true", help="every row of everybody: hours")
    parser.add_argument("--only", metavar="TEXT", action="append", default=[],
                        help="jobs whose 'group name' contains TEXT (may be repeated)")
    parser.add_argument("--programs", metavar="LIST", help="only these, e.g. weir,tokio")
    parser.add_argument("--rounds", type=int, help="5; --quick 3")
    parser.add_argument("--seconds", type=float, help="measured time of a sample: 0.45; --quick 0.4")
    parser.add_argument("--patience", type=float,
                        help="seconds in all for repeats on a noisy machine (90; --quick 20)")
    parser.add_argument("--keep-noisy", action="store_true",
                        help="use disturbed samples too, to try things out")
    parser.add_argument("--out", default=build.built("bench"), help="where the report goes")
    parser.add_argument("--build", action="store_true", help="only build weir and the rivals")
    parser.add_argument("--keep", action="store_true",
                        help="copy the last report to bench/results, to be committed")
    parser.add_argument("--list", action="store_true", help="list the jobs and what they take")
    return parser.parse_args()


def choose_jobs(args):
    seconds = args.seconds or (0.4 if args.quick else 0.45)
    if args.quick:
        jobs = catalogue.core(seconds)
    elif args.all or args.only:
        jobs = catalogue.everything(seconds)
    else:
        jobs = catalogue.default(seconds)
    if args.only:
        jobs = [j for j in jobs if any(text in f"{j.group} {j.name}" for text in args.only)]
    if args.programs:
        wanted = args.programs.split(",")
        for job in jobs:
            job.programs = [p for p in job.programs if p in wanted]
    return [job for job in jobs if job.programs]


def rival_of(program):
    """Which rival a program belongs to: tokio-mi-ct is built as tokio-mi."""
    return program.removesuffix("-ct")


def drop_missing(jobs):
    missing = {rival.name for rival in build.ALL if rival.missing}
    for job in jobs:
        job.programs = [p for p in job.programs if rival_of(p) not in missing]
    return [job for job in jobs if job.programs]


def say(text):
    print(f"  {text} ...", file=sys.stderr, flush=True)


def raise_file_limit():
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def print_jobs(jobs, count):
    for job in jobs:
        rounds_of = sum(bool(job.programs_of(number)) for number in range(1, count + 1))
        print(f"{job.group:8} {job.name[:32]:32} {rounds_of} x {job.seconds:4.2f} s  "
              f"{' '.join(job.programs)}")
    print(f"about {rounds.expected_seconds(jobs, count) / 60:.1f} minutes, {count} rounds")


def main():
    args = parse()
    if args.keep:
        return write.keep(args.out)
    jobs = choose_jobs(args)
    count = args.rounds or (3 if args.quick else 5)
    if args.list:
        print_jobs(jobs, count)
        return 0
    if not jobs and not args.build:
        print("bench: no such job; --list names them", file=sys.stderr)
        return 1
    wanted = None if args.build else {rival_of(p) for job in jobs for p in job.programs}
    error = build.build_all(say, wanted)
    for rival in build.ALL:
        if rival.missing and rival.missing != "not asked for":
            print(f"  left out: {rival.name}: {rival.missing}", file=sys.stderr)
    if error or args.build:
        print(f"bench: {error}" if error else "bench: built", file=sys.stderr)
        return 1 if error else 0
    raise_file_limit()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers end with us
    os.chdir(build.REPO)
    start = time.time()
    patience = args.patience if args.patience is not None else (20 if args.quick else 90)
    store = rounds.run_rounds(drop_missing(jobs), count, patience, args.keep_noisy)
    facts = machine.facts(build.REPO) + [
        ("run", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(start))
         + f", {count} rounds, {(time.time() - start) / 60:.1f} minutes"),
        ("command", " ".join(["python3 bench/report", *sys.argv[1:]]))]
    write.everything(args.out, store, facts)
    return 130 if store.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
