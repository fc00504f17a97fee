"""Bands: known quantiles, cancellation in pairs, the fallback order and its widening, and the file format."""

import math

import numpy as np
import pytest
import yaml

from perfplan.calibration.bands import (
    band,
    bands_from,
    coverage,
    fit_bands,
    load_bands,
    paired_band,
    tie_regrets,
    write_bands,
)
from perfplan.errors import BadQuantity, MissingField

WIDENING = {"family": {"value": 1.5}, "kind": {"value": 2.0}, "borrowed": {"value": 1.5}}
ENTRY = {"low": -0.1, "high": 0.2, "n": 10, "source": "test"}


def row(source="s", family="ampere", moe=False, residual=0.0, group="", predicted=0.0):
    return {"source": source, "family": family, "moe": moe, "log_predicted": predicted, "log_residual": residual,
            "group": group}


def test_band_of_normal_residuals():
    low, high = band(np.random.default_rng(1).normal(0.05, 0.1, 20000))
    assert (low, high) == pytest.approx((0.05 - 0.128, 0.05 + 0.128), abs=0.005)


def test_band_holds_four_fifths():
    residuals = np.random.default_rng(2).normal(0, 0.2, 5000)
    assert coverage(*band(residuals), residuals) == pytest.approx(0.8, abs=0.01)


def test_equal_weights_change_little_and_zero_weight_removes():
    residuals = np.random.default_rng(3).normal(0, 0.2, 2000)
    assert band(residuals, np.ones(2000)) == pytest.approx(band(residuals), abs=0.005)
    spoiled = np.append(residuals, np.full(2000, 9.0))
    assert band(spoiled, np.repeat([1.0, 0.0], 2000)) == pytest.approx(band(residuals), abs=0.005)


def test_empty_bands_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        band([])
    with pytest.raises(ValueError, match="two layouts"):
        paired_band([([0.1], [0.0]), ([0.2], [0.0])])


def test_errors_common_to_a_job_cancel_in_pairs():
    rng = np.random.default_rng(4)
    jobs = [(rng.uniform(0, 0.3, 8), rng.normal(0, 0.5) + rng.normal(0, 0.03, 8)) for _ in range(400)]
    assert paired_band(jobs) == pytest.approx(0.8416 * 0.03 * math.sqrt(2), rel=0.3)  # 80 % of a difference of normals
    assert band(np.concatenate([residuals for _, residuals in jobs]))[1] > 10 * paired_band(jobs)


def test_a_perfect_order_needs_no_gap_and_a_wrong_one_the_largest():
    assert paired_band([([0.0, 0.01, 0.02], [0.5, 0.5, 0.5])]) == pytest.approx(0.01)
    assert paired_band([([0.0, 0.1], [0.5, 0.0])]) == pytest.approx(0.1)


def test_jobs_count_equally_in_pairs():
    right = [([0.0, 0.05], [0.0, 0.0])] * 9
    wrong = [(np.linspace(0, 0.05, 50), -2 * np.linspace(0, 0.05, 50))]
    assert paired_band(right + wrong) <= 0.05


def test_what_a_tie_may_cost():
    jobs = [([0.0, 0.05, 0.2, 0.4], [0.1, 0.0, 0.0, 0.0])]  # measured 0.1, 0.05, 0.2, 0.4
    assert tie_regrets(jobs, 0.01) == [pytest.approx(math.expm1(0.05))]
    assert tie_regrets(jobs, 0.25) == [pytest.approx(math.expm1(0.15))]
    assert tie_regrets(jobs, 0.25, least=5) == []


def test_exact_slice_comes_first_and_stand_ins_are_widened():
    table = bands_from({"widening": WIDENING, "bands": {"training/dense/ampere": ENTRY, "training/dense": ENTRY,
                                                        "training": ENTRY}})
    exact = table.find("training", False, "ampere")
    assert (exact.low, exact.high, exact.caveat) == (-0.1, 0.2, "")
    family = table.find("training", False, "tpu")
    assert family.used == "training/dense" and "training/dense/tpu" in family.caveat
    assert (family.low, family.high) == pytest.approx((0.05 - 0.225, 0.05 + 0.225))
    assert table.find("training", True, "ampere").widened == 2.0


def test_borrowed_constants_widen_any_band():
    table = bands_from({"widening": WIDENING, "bands": {"training/dense": ENTRY}})
    assert table.find("training", False, "tpu", borrowed=True).widened == pytest.approx(2.25)
    exact = bands_from({"widening": WIDENING, "bands": {"training/dense/tpu": ENTRY}})
    assert "borrowed" in exact.find("training", False, "tpu", borrowed=True).caveat


def test_the_excess_of_a_phase():
    own = {"serving": ENTRY, "serving/moe": ENTRY | {"high": 0.3}, "training": ENTRY | {"high": -0.05}}
    table = bands_from({"widening": WIDENING, "bands": own})
    assert table.excess("serving", moe=True) == pytest.approx(math.expm1(0.3))
    assert table.excess("serving", moe=False) == pytest.approx(math.expm1(0.2)), "the phase stands in for the kind"
    assert table.excess("training", moe=True) == 0, "a limit is never exceeded on purpose"
    with pytest.raises(MissingField, match="no error band for first-token"):
        table.excess("first-token", moe=True)


def test_missing_slice_is_an_error_not_a_default():
    table = bands_from({"widening": WIDENING, "bands": {"training": ENTRY}})
    with pytest.raises(MissingField, match="serving/dense/ampere"):
        table.find("serving", False, "ampere")
    with pytest.raises(MissingField, match="paired"):
        table.find("training", False, "ampere", paired=True)


@pytest.mark.parametrize("data", [{}, {"widening": {"family": {"value": 1}}},
                                  {"widening": WIDENING, "bands": {"training": {"low": 0, "high": 1, "n": 3}}}])
def test_incomplete_files_are_refused(data):
    with pytest.raises(MissingField):
        bands_from(data)


def test_band_upside_down_is_refused():
    with pytest.raises(BadQuantity, match="above"):
        bands_from({"widening": WIDENING, "bands": {"training": ENTRY | {"low": 0.3}}})


def test_interval_around_a_prediction():
    table = bands_from({"widening": WIDENING, "bands": {"training": ENTRY}})
    low, high = table.find("training", True, "x").around(10.0)
    assert low < 10 < high
    assert math.log(high / low) == pytest.approx(0.6)  # twice the width of 0.3


def test_fit_and_read_back(tmp_path):
    rng = np.random.default_rng(5)
    rows = [row("a", "ampere", residual=x, group=f"g{i // 4}") for i, x in enumerate(rng.normal(0, 0.1, 400))]
    rows += [row("b", "hopper", moe=True, residual=x) for x in rng.normal(0.3, 0.1, 40)]
    path = tmp_path / "bands.yaml"
    path.write_text(yaml.safe_dump({"widening": WIDENING} | fit_bands(rows)))
    table = load_bands(path)
    assert set(table.absolute) == {"training/dense/ampere", "training/dense", "training/moe/hopper", "training/moe",
                                   "training"}
    assert set(table.paired) == {"training/dense/ampere", "training/dense", "training"}
    assert table.find("training", True, "hopper").low == pytest.approx(0.3 - 0.128, abs=0.05)
    assert table.paired["training"].n == 100 * 6
    assert table.absolute["training"].source == "residuals of a, b"


def test_small_slices_get_no_band_of_their_own():
    fitted = fit_bands([row(residual=0.1)] * 7 + [row(family="hopper", residual=0.1)] * 9)
    assert set(fitted["bands"]) == {"training/dense/hopper", "training/dense", "training"}
    assert fitted["paired"] == {}


def test_sources_count_equally():
    many, few = [row("a", residual=0.0)] * 1000, [row("b", residual=1.0)] * 10
    assert fit_bands(many + few)["bands"]["training"]["high"] == pytest.approx(1.0)


def test_rows_of_two_sources_never_form_a_pair():
    rows = [row("a", predicted=0.0, group="g")] * 5 + [row("b", residual=-1.0, predicted=0.5, group="g")] * 5
    assert fit_bands(rows)["paired"]["training"]["high"] == 0


def test_written_file_reads_back(tmp_path):
    path = tmp_path / "bands.yaml"
    serving = fit_bands([row(residual=0.2)] * 9, phase="serving")
    write_bands(path, [fit_bands([row(residual=0.1)] * 9), serving], WIDENING, {"margin": 0.05, "n": 3, "source": "s"})
    table = load_bands(path)
    assert table.margin == 0.05
    assert table.find("serving", False, "ampere").low == pytest.approx(0.2)
    assert table.widening == {"family": 1.5, "kind": 2.0, "borrowed": 1.5}


def test_unreadable_file_is_not_written(tmp_path):
    with pytest.raises(MissingField):
        write_bands(tmp_path / "bands.yaml", [], {})
    assert not (tmp_path / "bands.yaml").exists()
