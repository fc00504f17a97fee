"""The joint fit of a fast domain recovers its constants; the errors left out leave out what they say."""

import numpy as np
import pytest

from perfplan.calibration.links import (
    Domain,
    columns_of,
    efficiencies,
    fit_level,
    left_out_ranks,
    left_out_sizes,
    steps,
)
from perfplan.formulas.collectives import direct_all_to_all_time, ring_all_gather_time, ring_all_reduce_time

SIZES = 2.0 ** np.arange(10, 31, 2)
OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
ROWS = [(op, n, size) for op in OPS for n in (2.0, 4.0, 8.0) for size in SIZES]
COLUMNS = columns_of([op for op, _, _ in ROWS], *np.array([row[1:] for row in ROWS]).T)
TRUTH = {"launch": 5e-6, "latency": 1e-6, "fill": 0.4} | {
    f"{op}_{n}": fraction for op in ("all_reduce", "all_gather", "all_to_all")
    for n, fraction in ((2, 0.6), (4, 0.7), (8, 0.8))}
LINKS = Domain(450e9, exchange=3)


def test_steps_are_bus_over_algorithm_bandwidth():
    ranks = np.array([1.0, 2.0, 8.0])
    assert steps("all_reduce", ranks) == pytest.approx([0, 1, 1.75])
    assert steps("all_gather", ranks) == pytest.approx([0, 0.5, 0.875])
    assert steps("p2p", ranks) == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("n", [2, 4, 8])
def test_the_model_is_the_formulas(n):
    size, reached = 2.0**24, TRUTH[f"all_reduce_{n}"] * 450e9
    times = LINKS.times(columns_of(OPS, np.full(4, float(n)), np.full(4, size)), TRUTH)
    reduce, gather = (0.4 * (5e-6 + passes * (n - 1) * 1e-6) for passes in (2, 1))
    assert times[0] == pytest.approx(ring_all_reduce_time(n, 1, size, 5e-6, 1e-6, 0, reached, reduce))
    assert times[1] == times[2] == pytest.approx(ring_all_gather_time(n, 1, size, 5e-6, 1e-6, 0, reached, gather))
    assert times[3] == pytest.approx(direct_all_to_all_time(n, 1, size, 8e-6, 0, 0, reached, reached, 0.4 * 8e-6))


def test_a_joint_fit_recovers_its_constants():
    seconds = LINKS.times(COLUMNS, TRUTH)
    found = fit_level(LINKS, COLUMNS, seconds)
    assert found.constants == pytest.approx(TRUTH, rel=0.01)
    assert np.abs(left_out_sizes(LINKS, COLUMNS, seconds)).max() < 0.01


def test_reduction_in_the_switches_is_apart():
    links = Domain(450e9, exchange=3, switched=8)
    truth = {name: value for name, value in TRUTH.items() if name != "all_reduce_8"} | {"reduction": 0.6}
    found = fit_level(links, COLUMNS, links.times(COLUMNS, truth))
    assert found.constants == pytest.approx(truth, rel=0.01)


def test_ranks_left_out_come_from_their_neighbours():
    seconds = LINKS.times(COLUMNS, TRUTH)
    held = left_out_ranks(LINKS, COLUMNS, seconds)
    large = COLUMNS["bytes"] == SIZES[-1]
    four = held[large & (COLUMNS["ranks"] == 4) & (COLUMNS["op"] == 0)]
    eight = held[large & (COLUMNS["ranks"] == 8) & (COLUMNS["op"] == 0)]
    assert abs(four[0]) < 0.01  # 0.7 lies half way between 0.6 and 0.8 in log2 n
    assert eight[0] == pytest.approx(np.log(0.7 / 0.8), abs=0.02)  # beyond the last one: as at 4


def test_an_operation_that_no_fold_keeps_has_no_error():
    columns = columns_of(["all_gather", *["all_reduce"] * 4], np.full(5, 8.0), 2.0 ** np.array([10, 11, 12, 20, 26]))
    held = left_out_sizes(LINKS, columns, LINKS.times(columns, TRUTH))
    assert np.isnan(held[0]) and np.isfinite(held[1:]).all()


def test_efficiencies_are_ascending_in_ranks():
    constants = {"all_reduce_16": 0.5, "all_reduce_2": 0.4, "latency": 1.0, "all_gather_2": 0.3}
    assert list(efficiencies(constants, "all_reduce").items()) == [(2, 0.4), (16, 0.5)]
