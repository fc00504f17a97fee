"""Bands on sources that they were not fitted on: coverage, width and what both cost together."""

import numpy as np
import pytest

from perfplan.validation.bands import band_scores, margin
from perfplan.validation.intervals import Residual, interval_score
from perfplan.validation.score import Facts, Outcome

FACTS = Facts("2024", "gpt", "bf16", 8, 1024, 64, 1e15, 300e12)


def residuals(source, middle, n=200, unlike=False):
    rng = np.random.default_rng(len(source))
    return [Residual(source, "ampere", False, "pretrain", "", 0.0, x, unlike) for x in rng.normal(middle, 0.1, n)]


def test_a_value_inside_costs_the_width_and_outside_ten_times_the_distance():
    assert interval_score(-0.1, 0.2, 0.2) == pytest.approx(0.3)
    assert interval_score(-0.1, 0.2, 0.25) == pytest.approx(0.3 + 10 * 0.05)
    assert interval_score(-0.1, 0.2, -0.2) == pytest.approx(0.3 + 10 * 0.1)


def test_sources_alike_are_covered_and_an_odd_one_is_not():
    found = {one.name: one for one in band_scores(residuals("a", 0) + residuals("bb", 0) + residuals("odd", 2))}
    assert found["odd"].coverage < 0.05 and found["odd"].score > 10
    alike = {one.name: one for one in band_scores(residuals("a", 0) + residuals("bb", 0))}
    assert alike["a"].coverage == pytest.approx(0.8, abs=0.08)
    assert alike["a"].half_width == pytest.approx(0.128, abs=0.03)
    assert alike["overall"].rows == 400


def test_jobs_unlike_the_bands_get_a_wider_one():
    rows = residuals("a", 0) + residuals("bb", 0, unlike=True)
    found = {one.name: one for one in band_scores(rows)}
    assert found["bb"].half_width == pytest.approx(2 * 0.128, abs=0.05) and found["bb"].coverage > 0.95


def test_the_margin_is_what_memory_is_under_predicted_by():
    def reading(layout, ratio):
        return Outcome("r", "lab", "lab/dense", "g", (layout,) * 9, "step_time_s", 1.0, memory_ratio=ratio,
                       state_ratio=0.5, facts=FACTS)  # fmt: skip

    assert margin([reading(i, 1 / 1.1) for i in range(5)])["margin"] == pytest.approx(0.1)
    over = margin([reading(i, 1.2) for i in range(5)])
    assert (over["margin"], over["n"]) == (0.0, 5)
