"""How far a node's answers are from those that its release gives on held-out images.

The measure is the Jensen-Shannon divergence of two class distributions, in bits:

    JSD(P, Q) = H((P + Q) / 2) - (H(P) + H(Q)) / 2,    H(P) = -sum p log2 p

(Lin 1991, "Divergence Measures Based on the Shannon Entropy", IEEE Transactions on Information Theory 37). It is 0 for
equal distributions, 1 for disjoint ones, and finite where a class is missing on one side.
"""

import math
import threading
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WINDOW, LEAST = 1000, 200  # answers
DEALS = 200  # of a permutation test; fewer with so many classes that it would take long
_DRAWS = 200_000
_SURE = 3.09  # the standard normal's quantile of 0.999
_REARMED = 0.8  # of the limit: below it, the next crossing counts anew

Counts = NDArray[np.int64]


class Drift:
    """The answers of one release in a sliding window. Safe to use from several threads."""

    def __init__(self, limit: float = 0.0, *, window: int = WINDOW, least: int = LEAST) -> None:
        """`limit`: bits that count as drift; 0: none do."""
        self.limit, self.window, self.least = limit, window, least
        self._lock = threading.Lock()
        self.reset((), 1)

    def reset(self, reference: Sequence[int], classes: int) -> None:
        """Begin again with another release: how many held-out images it gives each of its K classes; () if unknown."""
        with self._lock:
            self._reference = np.array(reference, np.int64)
            self._counts = np.zeros(classes, np.int64)
            self._answers: deque[int] = deque()
            self.is_over = False  # the answers have drifted

    def add(self, answers: Sequence[int]) -> None:
        """Classes that were answered."""
        with self._lock:
            for answer in answers:
                self._answers.append(answer)
                self._counts[answer] += 1
                if len(self._answers) > self.window:
                    self._counts[self._answers.popleft()] -= 1

    def counts(self) -> Counts:
        """(K,) answers in the window, by class."""
        with self._lock:
            return self._counts.copy()

    def value(self) -> float | None:
        """The divergence in bits; None with too few answers, or a release that does not say its classes' counts."""
        counts = self.counts()
        if counts.sum() < self.least or len(self._reference) != len(counts):
            return None
        return divergence(counts, self._reference)

    def look(self) -> bool:
        """Whether the answers have drifted since the last look: true once a crossing of the limit."""
        value, was_over = self.value(), self.is_over
        if not self.limit or value is None:
            self.is_over = False
        elif value > self.limit and not was_over:
            self.is_over = value > chance(self.counts(), self._reference)
        elif value < _REARMED * self.limit:
            self.is_over = False
        return self.is_over and not was_over


def divergence(one: Counts, other: Counts) -> float:
    """Jensen-Shannon divergence of two (K,) vectors of counts, bits; neither may be all zero."""
    p, q = one / one.sum(), other / other.sum()
    return max(0.0, _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2)


def chance(one: Counts, other: Counts, *, seed: int = 0) -> float:
    """What the divergence stays below, bits, all but once in a thousand times, when both are of one distribution.

    A permutation test: the answers of both are mixed and dealt out anew, DEALS times; the quantile is that of a gamma
    distribution of the same mean and variance, by Wilson's and Hilferty's formula (1931). The large-sample chi-square
    formula is no good here: with 257 equally likely classes every second window would be above it.
    """
    mixed = one + other
    mixed = mixed[mixed > 0]
    generator = np.random.default_rng(seed)
    deals = max(20, min(DEALS, _DRAWS // len(mixed)))
    dealt = generator.multivariate_hypergeometric(mixed, int(one.sum()), size=deals)
    values = np.array([divergence(hand, mixed - hand) for hand in dealt])
    mean, variance = float(values.mean()), float(values.var())
    if variance == 0:
        return mean
    spread = variance / (9 * mean * mean)
    return float(mean * max(0.0, 1 - spread + _SURE * math.sqrt(spread)) ** 3)


def _entropy(shares: NDArray[np.float64]) -> float:
    some = shares[shares > 0]
    return float(-(some * np.log2(some)).sum())
