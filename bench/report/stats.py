# SPDX-License-Identifier: MIT
"""Medians, and ratios taken within a round with a bootstrap confidence interval.

What drifts slowly on a machine is the same for both programs of a round, so it cancels in their
ratio; the median of these ratios is the figure. The interval is the 2.5th to 97.5th percentile of
that median over resampled rounds. With five rounds it is little narrower than their range, which
is the honest answer.
"""
import random

RESAMPLES = 2000


def median(values):
    ordered = sorted(values)
    if not ordered:
        return None
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def interval(values, seed=1):
    """The bootstrap interval of the median; always the same for the same values."""
    if len(values) < 3:
        return None
    draw = random.Random(seed)
    medians = sorted(median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1]


class Ratio:
    """Another program's figures over weir's, paired by round."""

    def __init__(self, other, weir):
        pairs = [other[r] / weir[r] for r in sorted(other) if r in weir and weir[r] > 0]
        self.count = len(pairs)
        self.value = median(pairs)
        self.interval = interval(pairs)

    def text(self):
        if self.value is None:
            return "-"
        if self.interval is None or self.value < 0.1:
            return f"{self.value:.{2 if self.value >= 0.1 else 4}f}"
        return f"{self.value:.2f} ({self.interval[0]:.2f}-{self.interval[1]:.2f})"

    def verdict(self, higher_is_better):
        """'ahead', 'behind' or 'level': ahead means that weir is, beyond the interval."""
        if self.value is None:
            return None
        low, high = self.interval or (self.value, self.value)
        if low <= 1 <= high:
            return "level"
        return "ahead" if (self.value > 1) != higher_is_better else "behind"
