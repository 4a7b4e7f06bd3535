"""Drift: a known value, a stationary stream that raises no alarm, and a changed one that does."""

import numpy as np
import pytest

from edge.node.drift import Drift, chance, divergence


def counts(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_known_values() -> None:
    assert divergence(counts(5, 5), counts(50, 50)) == 0
    assert divergence(counts(1, 0), counts(0, 7)) == 1
    # H(3/4, 1/4) - H(1/2, 1/2) / 2 = 0.8113 - 0.5
    assert divergence(counts(2, 0), counts(1, 1)) == pytest.approx(0.31128, abs=1e-5)


def test_the_window_slides_and_a_swap_empties_it() -> None:
    drift = Drift(window=10, least=4)
    drift.reset((5, 5), 2)
    drift.add([0, 0, 0])
    assert drift.value() is None
    drift.add([0] * 10 + [1] * 10)
    assert drift.counts().tolist() == [0, 10]
    drift.reset((5, 5), 2)
    assert drift.counts().sum() == 0
    drift.reset((), 2)  # a release from before there were counts
    drift.add([0] * 10)
    assert drift.value() is None
    assert not drift.look()


def test_an_alarm_once_a_crossing() -> None:
    drift = Drift(0.1)
    drift.reset((100, 100, 100, 100), 4)
    drift.add([0, 1, 2, 3] * 250)
    assert not drift.look()
    drift.add([0] * 700)
    assert drift.look()
    assert not drift.look(), "once"
    assert drift.is_over
    drift.add([0, 1, 2, 3] * 250)
    assert not drift.look()
    assert not drift.is_over
    drift.add([1] * 700)
    assert drift.look(), "and again after it was back"


STREAMS = 12
LONG = 5000  # answers in each


@pytest.mark.parametrize(("classes", "held_out"), [(10, 100), (257, 1000)])
def test_a_stationary_stream_is_no_drift_and_without_the_test_of_chance_it_would_be(
    classes: int, held_out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alarms() -> int:
        found, generator = 0, np.random.default_rng(5)
        for _ in range(STREAMS):
            shares = generator.dirichlet(np.ones(classes))
            drift = Drift(0.02)
            drift.reset(generator.multinomial(held_out, shares).tolist(), classes)
            for _ in range(LONG // 200):
                drift.add(generator.choice(classes, 200, p=shares).tolist())
                found += drift.look()
        return found

    assert alarms() <= 2
    monkeypatch.setattr("edge.node.drift.chance", lambda one, other: 0.0)
    assert alarms() >= STREAMS // 2, "the limit alone is no protection"


def test_chance_falls_with_the_number_of_answers() -> None:
    generator = np.random.default_rng(1)
    few, many = (generator.multinomial(n, np.ones(50) / 50) for n in (200, 1000))
    reference = generator.multinomial(3000, np.ones(50) / 50)
    assert divergence(few, reference) < chance(few, reference)
    assert chance(many, reference) < chance(few, reference)
