"""Scores against hand-worked figures."""

from dataclasses import replace

import pytest

from perfplan.validation.score import Outcome, kendall_tau_b, overall, score, spearman

BASE = Outcome("a-1", "a", "a/dense", "g", (), "step_time_s", 1.0)


def timed(name: str, group: str, layout: int, measured: float, predicted: float) -> Outcome:
    return replace(
        BASE,
        id=name,
        source=name[0],
        group=group,
        layout=(layout,),
        measured=measured,
        predicted=predicted,
        ratio=predicted / measured,
        time=predicted,
        measured_time=measured,
        band=(0.9 * predicted, 1.1 * predicted),
        fits=True,
    )


GROUP = [
    timed("a-1", "g", 1, 1.0, 1.2),
    timed("a-2", "g", 2, 1.5, 1.1),
    timed("a-3", "g", 3, 2.0, 2.0),
    timed("a-4", "g", 4, 4.0, 4.4),
]


def test_errors_of_a_slice():
    result = score("a/dense", GROUP)
    errors = [0.2, 0.4 / 1.5, 0.0, 0.1]
    assert result.mape == pytest.approx(sum(errors) / 4)
    assert result.median_ape == pytest.approx((0.1 + 0.2) / 2)
    assert result.bias == pytest.approx((0.2 - 0.4 / 1.5 + 0.1) / 4)
    assert result.band_coverage == pytest.approx(0.5)  # 1.0 < 1.08 and 1.5 > 1.21 lie outside
    assert result.band_half_width == pytest.approx(0.1)
    assert result.fits_rate == 1


def test_ranking_of_a_group():
    result = score("a/dense", GROUP)
    assert result.groups == 1
    assert result.kendall_tau == pytest.approx((5 - 1) / 6)
    assert result.mean_regret == pytest.approx(0.5)  # the second layout is chosen, 1.5 s against 1.0 s
    assert result.top1_hits == 0


def test_three_layouts_are_no_ranking_group():
    result = score("a/dense", GROUP[:3] + [replace(GROUP[2], id="a-9")])
    assert result.groups == 0
    assert result.kendall_tau is None
    assert result.mean_regret is None


def test_a_tied_choice_costs_the_mean_of_the_tied_layouts():
    same = [replace(o, time=1.0) for o in GROUP]
    result = score("a/dense", same)
    assert result.mean_regret == pytest.approx((1 + 1.5 + 2 + 4) / 4 - 1)
    assert result.kendall_tau is None


def test_measured_pairs_within_two_percent_are_ties():
    assert kendall_tau_b([1, 2], [1.00, 1.01]) is None
    assert kendall_tau_b([1, 2], [1.00, 1.03]) == 1
    assert kendall_tau_b([2, 1, 3], [1.00, 1.01, 2.0]) == pytest.approx(2 / 6**0.5)


def test_spearman_against_the_closed_form():
    assert spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert spearman([1, 1, 1], [1, 2, 3]) is None


def test_unsupported_rows_are_counted_by_reason():
    rows = [*GROUP, replace(BASE, unsupported="method lora"), replace(BASE, unsupported="method lora")]
    result = score("a/dense", rows)
    assert (result.rows, result.scored, result.unsupported) == (6, 4, {"method lora": 2})


def test_nothing_scored_is_null_not_zero():
    result = score("x/moe", [replace(BASE, unsupported="no")])
    assert result.scored == 0
    assert result.mape is None
    assert result.fits_rate is None
    assert result.oom_rate is None


def test_sources_count_equally_overall():
    many = [timed(f"b-{i}", f"h{i}", i, 1.0, 1.5) for i in range(9)]
    result = overall([timed("a-1", "g", 1, 1.0, 1.0), *many])
    assert result.mape == pytest.approx((0.0 + 0.5) / 2)
    assert (result.rows, result.scored) == (10, 10)


def test_memory_and_feasibility():
    rows = [replace(BASE, oom=True, fits=True), replace(BASE, oom=True, fits=False), replace(BASE, memory_ratio=1.2)]
    result = score("a/dense", rows)
    assert result.oom_rate == pytest.approx(0.5)
    assert result.memory_median_ape == pytest.approx(0.2)
    assert result.mape is None
