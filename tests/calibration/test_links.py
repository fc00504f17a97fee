"""Collective fits recover their constants, in the plain and in the two-piece form."""

import numpy as np
import pytest

from perfplan.calibration.links import asymptote, collective_model, efficiencies, fit_collective, steps

SIZES = 2.0 ** np.arange(10, 31, 2)
RANKS = np.repeat([2.0, 4.0, 8.0], len(SIZES))
COLUMNS = {"ranks": RANKS, "bytes": np.tile(SIZES, 3)}
TRUTH = {"launch": 5e-6, "hop": 2e-6, "efficiency_2": 0.6, "efficiency_4": 0.7, "efficiency_8": 0.75}


def test_steps_are_bus_over_algorithm_bandwidth():
    ranks = np.array([1.0, 2.0, 8.0])
    assert steps("all_reduce", ranks) == pytest.approx([0, 1, 1.75])
    assert steps("all_gather", ranks) == pytest.approx([0, 0.5, 0.875])
    assert steps("p2p", ranks) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("op", ["all_reduce", "reduce_scatter"])
def test_plain_form_is_recovered(op):
    seconds = collective_model(op, 450e9)(COLUMNS, TRUTH)
    found, held = fit_collective(op, RANKS, COLUMNS["bytes"], seconds, 450e9, emphasis=3)
    assert found.constants == pytest.approx(TRUTH, rel=0.01)
    assert held < 0.01


def test_two_piece_form_is_recovered_and_better():
    truth = TRUTH | {"lean": 0.4, "setup": 3e-5}
    seconds = collective_model("all_reduce", 450e9)(COLUMNS, truth)
    two, _ = fit_collective("all_reduce", RANKS, COLUMNS["bytes"], seconds, 450e9, two_piece=True)
    plain, _ = fit_collective("all_reduce", RANKS, COLUMNS["bytes"], seconds, 450e9)
    assert two.constants == pytest.approx(truth, rel=0.05)
    assert two.mape < plain.mape / 5


def test_efficiencies_are_ascending_in_ranks():
    assert list(efficiencies({"efficiency_16": 0.5, "efficiency_2": 0.4, "hop": 1.0}).items()) == [(2, 0.4), (16, 0.5)]


def test_asymptote_is_the_bandwidth_of_large_messages():
    seconds = collective_model("all_reduce", 450e9)({"ranks": np.full(11, 8.0), "bytes": SIZES}, TRUTH)
    assert asymptote("all_reduce", [8] * 11, list(SIZES), list(seconds)) == pytest.approx(0.75 * 450e9, rel=0.05)
