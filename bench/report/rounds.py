# SPDX-License-Identifier: MIT
"""Rounds: every job's programs one after another, each round in another order.

A sample during which others used more than 10 % of a CPU (or the host took as much) is repeated,
at most twice, and the least disturbed try is kept: the choice never looks at the result. What is
above 25 % even then is kept in the CSV, marked, and left out of the tables. Waiting for a quiet machine has a
budget for the whole run; when that is spent nothing is repeated any more.
"""
import sys
import time

import machine
from process import Failure

REPEAT_ABOVE = 10.0
LEAVE_OUT_ABOVE = 25.0
TRIES_MAX = 3
WAIT_SECONDS_MAX = 10  # for one repeat
SOME_ROUNDS = 3  # the fewest that have an interval


class Job:
    """What is sampled once in each round for each of its programs.

    `take(program, store)` gives {row: {metric: value}}; a row of another group is (group, row).
    When `at_once` it is take(programs, store) and gives {program: that, or a Failure}. `seconds` is what
    a sample takes in all. It is taken in the first `rounds` rounds, or in every one, of the programs
    in `seldom` in the first SOME_ROUNDS: rounds belong where a ratio is near its bound. What goes on
    after take() is asked for when all rounds are over: `finish(interrupted)` gives {program: rows}.
    """

    def __init__(self, group, name, programs, take, seconds, rounds=None, finish=None,
                 at_once=False, seldom=()):
        self.group, self.name, self.programs = group, name, list(programs)
        self.take, self.seconds, self.rounds, self.finish = take, seconds, rounds, finish
        self.at_once, self.seldom = at_once, seldom

    def programs_of(self, number):
        """Those that take part in a round."""
        if self.rounds and number > self.rounds:
            return []
        return [p for p in self.programs if number <= SOME_ROUNDS or p not in self.seldom]

    def found(self, programs, store):
        """{program: rows, or a Failure}."""
        try:
            if self.at_once:
                return self.take(programs, store)
            return {program: self.take(program, store) for program in programs}
        except Failure as error:
            return {program: error for program in programs}


class Sample:
    def __init__(self, group, row, program, number, tries, figures):
        self.group, self.row, self.program, self.round = group, row, program, number
        self.latencies = figures.pop("latencies", None)  # {ns: count}, where they were asked for
        self.tries, self.figures = tries, figures
        self.disturbance = figures.get("foreign_percent", 0) + figures.get("steal_percent", 0)

    @property
    def quiet(self):
        return self.disturbance <= LEAVE_OUT_ABOVE


class Store:
    """All samples of a run."""

    def __init__(self, keep_noisy=False):
        self.keep_noisy = keep_noisy
        self.samples = []
        self.failures = {}  # (group, job, program): why there is no sample
        self.interrupted = False
        self.burst = None  # memory.Burst, with what was read after it

    def usable(self, sample):
        return sample.quiet or self.keep_noisy

    def values(self, group, row, program, metric):
        """Figures by round."""
        return {s.round: s.figures[metric] for s in self.samples
                if (s.group, s.row, s.program) == (group, row, program)
                and self.usable(s) and metric in s.figures}

    def latencies(self, group, row, program):
        """All of them, by round."""
        return {s.round: s.latencies for s in self.samples
                if (s.group, s.row, s.program) == (group, row, program)
                and self.usable(s) and s.latencies}

    def disturbance(self, group, row, program):
        """The greatest of a usable sample."""
        return max((s.disturbance for s in self.samples
                    if (s.group, s.row, s.program) == (group, row, program) and self.usable(s)),
                   default=0)

    def groups(self):
        return list(dict.fromkeys(s.group for s in self.samples))

    def rows(self, group):
        return list(dict.fromkeys(s.row for s in self.samples if s.group == group))

    def programs(self, group):
        """Weir first, the others as they were first met."""
        met = dict.fromkeys(s.program for s in self.samples if s.group == group)
        return sorted(met, key=lambda program: program != "weir")


class Progress:
    """One line on a terminal, or a line a minute elsewhere."""

    def __init__(self, expected_seconds, patience):
        self.expected = max(expected_seconds, 1.0)
        self.patience, self.patience_seconds = patience, patience.left
        self.planned_done = 0.0
        self.start = time.monotonic()
        self.last_line = 0.0

    def left(self):
        # less the waits for a quiet machine, which end when there is no patience left
        spent = time.monotonic() - self.start - (self.patience_seconds - self.patience.left)
        share = self.planned_done / self.expected
        # the plan until there is experience, then experience
        pace = spent / self.planned_done if share > 0.05 else 1.0
        return max(0.0, (self.expected - self.planned_done) * pace)

    def show(self, text):
        left = self.left()
        line = f"{text}, {int(left) // 60} min {int(left) % 60:02d} s left"
        if sys.stderr.isatty():
            print(f"\r\033[K{line[:110]}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self.last_line > 30:
            self.last_line = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    def done(self, planned_seconds):
        self.planned_done += planned_seconds

    def clear(self):
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def disturbance(found):
    """The greatest of any sample in {program: rows, or a Failure}."""
    return max((f.get("foreign_percent", 0) + f.get("steal_percent", 0) for rows in found.values()
                if not isinstance(rows, Failure) for f in rows.values()), default=0)


class Patience:
    """Seconds that may still be spent on waiting for a quiet machine and on repeats."""

    def __init__(self, seconds):
        self.left = seconds

    def wait(self):
        """False when there is none left."""
        if self.left <= 0:
            return False
        start = time.monotonic()
        machine.wait_for_quiet(min(WAIT_SECONDS_MAX, self.left))
        self.left -= time.monotonic() - start
        return True


def failures(found):
    return sum(isinstance(rows, Failure) for rows in found.values())


def take_quietly(job, programs, store, patience):
    """The least disturbed of up to TRIES_MAX tries with the fewest failures, and how many there were."""
    best, tries = None, 0
    for tries in range(1, TRIES_MAX + 1):
        start = time.monotonic()
        found = job.found(programs, store)
        if tries > 1:
            patience.left -= time.monotonic() - start
        if best is None or ((failures(found), disturbance(found))
                            < (failures(best), disturbance(best))):
            best = found
        if not failures(best) and (disturbance(best) <= REPEAT_ABOVE or not patience.wait()):
            break
    return best, tries


def samples_of(job, program, number, tries, rows):
    places = [row if isinstance(row, tuple) else (job.group, row) for row in rows]
    return [Sample(*place, program, number, tries, figures)
            for place, figures in zip(places, rows.values())]


def sample_job(job, number, store, progress, patience, rounds):
    programs = [p for p in job.programs_of(number)
                if (job.group, job.name, p) not in store.failures]
    turn = number % max(1, len(programs))
    programs = programs[turn:] + programs[:turn]
    for some in [programs] if job.at_once and programs else [[p] for p in programs]:
        progress.show(f"round {number} of {rounds}: {job.group}, {job.name}, {', '.join(some)}")
        found, tries = take_quietly(job, some, store, patience)
        for program, rows in found.items():
            if isinstance(rows, Failure):
                store.failures[job.group, job.name, program] = str(rows)
            else:
                store.samples += samples_of(job, program, number, tries, rows)
    progress.done(job.seconds * len(job.programs_of(number)))


def expected_seconds(jobs, rounds):
    return sum(job.seconds * len(job.programs_of(number))
               for job in jobs for number in range(1, rounds + 1))


def finish(jobs, store, interrupted):
    for job in (j for j in jobs if j.finish):
        for program, rows in job.finish(interrupted).items():
            store.samples += samples_of(job, program, 1, 1, rows)


def run_rounds(jobs, rounds, patience_seconds, keep_noisy):
    """All samples; those until then when the run is interrupted."""
    store = Store(keep_noisy)
    patience = Patience(patience_seconds)
    progress = Progress(expected_seconds(jobs, rounds), patience)
    try:
        for number in range(1, rounds + 1):
            for job in jobs:
                sample_job(job, number, store, progress, patience, rounds)
    except (KeyboardInterrupt, SystemExit):
        store.interrupted = True
    finally:
        finish(jobs, store, store.interrupted)
        progress.clear()
    return store
