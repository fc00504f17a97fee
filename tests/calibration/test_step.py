"""The fit of whole-step constants on made-up prices: recovery, bounds, priors, robustness."""

import numpy as np
import pytest

from perfplan.calibration.step import Free, Knob, fit_steps

WORK = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
SPEED = Free("accelerator", "speed", start=1.0, least=0.1, most=10.0, doubt=2.0)
GAP = Free("framework", "gap", start=1.0, least=0.01, most=10.0, doubt=2.0)
EVERY = np.arange(len(WORK), dtype=float)
KNOBS = [Knob(SPEED, "chip", "family", EVERY), Knob(GAP, "software", "", EVERY)]


def price(x, rows):
    return np.log(WORK[rows.astype(int)] / x[0] + x[1])


def times(speed=2.0, gap=0.3):
    return WORK / speed + gap


def fit(measured, knobs=KNOBS, how=price, weights=None):
    return fit_steps(how, measured, np.ones(len(measured)) if weights is None else weights, knobs, rounds=30)


def test_the_constants_behind_exact_times_are_found():
    assert fit(times()) == pytest.approx([2.0, 0.3], rel=0.02)


def test_one_wild_row_moves_little():
    wild = times()
    wild[3] *= 5
    assert fit(wild)[0] == pytest.approx(2.0, rel=0.1)


def test_bounds_hold():
    tight = [Knob(Free("accelerator", "speed", 1.0, 0.1, 1.5, 2.0), "chip", "family", EVERY), KNOBS[1]]
    assert fit(times(), tight)[0] <= 1.5


def test_what_no_row_decides_stays_at_its_start():
    idle = Knob(Free("framework", "idle", 3.0, 0.1, 10.0, 1.0), "software", "", EVERY)
    assert fit(times(), [*KNOBS, idle], lambda x, rows: price(x[:2], rows))[2] == pytest.approx(3.0)


def two_chips(x, rows):
    """The last row is of the second chip, whose speed is the third constant."""
    index = rows.astype(int)
    return np.log(WORK[index] / np.where(index == len(WORK) - 1, x[2], x[0]) + x[1])


@pytest.mark.parametrize(("spread", "near"), [(0.01, 2.0), (3.0, 4.0)])
def test_a_chip_with_one_row_leans_on_its_relatives(spread, near):
    kin = Free("accelerator", "speed", start=1.0, least=0.1, most=10.0, doubt=3.0, spread=spread)
    knobs = [Knob(kin, "one", "family", EVERY[:-1]), KNOBS[1], Knob(kin, "two", "family", EVERY[-1:])]
    measured = times()
    measured[-1] = WORK[-1] / 4.0 + 0.3
    assert fit(measured, knobs, two_chips)[2] == pytest.approx(near, rel=0.25)


def test_heavy_rows_decide():
    measured = np.concatenate([times()[:3], times(speed=1.0)[3:]])
    heavy = np.array([1, 1, 1, 100.0, 100, 100])
    assert fit(measured, weights=heavy)[0] == pytest.approx(1.0, rel=0.1)
