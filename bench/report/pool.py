# SPDX-License-Identifier: MIT
"""The latencies of all rounds together: percentiles cannot be averaged, counts can be added.

A sample of the open loop is about a second: a standstill of the machine of 12 ms decides its p99, and
which server meets one is chance. In the rounds together it weighs a fifth of that. How much of a ratio
is chance all the same is what resampling the rounds shows: when one of five has the whole tail, the
interval is wide. Nothing is left out: every latency of every usable sample counts, of everybody.
"""
import functools
import math
import random
from collections import Counter

from stats import RESAMPLES, Ratio

TAILS = {"p99_us": 99, "p99.9_us": 99.9}


def parse(text):
    """What echoload --latencies writes: {ns: count}."""
    return {int(ns): int(count) for ns, count in (pair.split(":") for pair in text.split())}


def sum_of(samples):
    """All latencies of some samples, of which one may be there several times."""
    counts = Counter()
    for sample in samples:
        counts.update(sample)
    return counts


def percentile_us(samples, percent):
    counts = sum_of(samples)
    total = sum(counts.values())
    above = total - math.ceil(percent / 100 * total)
    for ns in sorted(counts, reverse=True):
        if counts[ns] > above:
            return ns / 1000
        above -= counts[ns]
    return None


class TailRatio(Ratio):
    """Another program's percentile over weir's, each of the same rounds; not of pairs of them."""

    def __init__(self, other, weir, percent):  # pylint: disable=super-init-not-called
        rounds = [r for r in sorted(other) if r in weir]

        @functools.cache  # five rounds can be drawn in 126 ways
        def of(chosen):
            theirs, ours = (percentile_us([side[r] for r in chosen], percent)
                            for side in (other, weir))
            return theirs / ours
        self.count = len(rounds)
        self.value = of(tuple(rounds)) if rounds else None
        self.interval = None
        if len(rounds) >= 3:
            draw = random.Random(1)
            drawn = sorted(of(tuple(sorted(draw.choices(rounds, k=len(rounds)))))
                           for _ in range(RESAMPLES))
            self.interval = drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES) - 1]
