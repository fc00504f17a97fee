"""Validation end to end with predictors that know the answer, or miss it by a known factor."""

from dataclasses import dataclass, replace

import pytest

from perfplan.errors import BadQuantity, UnknownName
from perfplan.validation.memory import analytic_errors, distinct_errors
from perfplan.validation.training import validate


@dataclass
class Guess:
    step_time: float
    fits: bool = True

    @property
    def memory(self):
        return {"weights": 30 * 2**30, "activations": 10 * 2**30}

    @property
    def band(self):
        return (self.step_time / 1.1, self.step_time * 1.1)


def constant(time, **rest):
    return lambda job, layout: Guess(time, **rest)


def test_a_perfect_prediction(catalog, row):
    result = validate([row], catalog, constant(2.0))
    assert result.overall.mape == pytest.approx(0)
    assert result.slices[0].name == "lab/dense"
    assert result.slices[0].band_coverage == 1


@pytest.mark.parametrize(
    ("metric", "value"),
    [("tokens_per_s_per_accel", 64 * 1024 / (16 * 2.0)), ("samples_per_s_total", 32.0), ("step_time_s", 2.0)],
)
def test_metrics_convert_to_the_same_step_time(catalog, row, metric, value):
    result = validate([replace(row, metric=metric, value=value)], catalog, constant(2.0))
    assert result.outcomes[0].measured_time == pytest.approx(2.0)
    assert result.outcomes[0].ratio == pytest.approx(1)


def test_a_slow_prediction_is_low_in_a_rate_and_high_in_a_time(catalog, row):
    rate = replace(row, id="lab-2", metric="samples_per_s_total", value=32.0)
    slow = validate([row, rate], catalog, constant(4.0)).outcomes
    assert [o.ratio for o in slow] == pytest.approx([2.0, 0.5])


def test_flop_metrics_use_the_convention_of_the_row(catalog, row):
    sc21 = "HARDWARE flops incl. recompute: 96*B*s*L*h^2*(1+s/(6h)+V/(16*L*h)); percent of peak vs 312"
    flops = 96 * 64 * 1024 * 24 * 1024**2 * (1 + 1 / 6 + 51200 / (16 * 24 * 1024))
    rated = replace(row, metric="tflops_per_accel", value=flops / (16 * 2.0) / 1e12, flop_convention=sc21)
    assert validate([rated], catalog, constant(2.0)).outcomes[0].measured_time == pytest.approx(2.0)
    unknown = replace(rated, flop_convention="ours")
    assert list(validate([unknown], catalog, constant(2.0)).overall.unsupported) == [
        "flop convention ours is not recognised"
    ]


def test_unknown_recompute_takes_the_first_that_fits(catalog, row):
    def predict(job, layout):
        return Guess(2.0, fits=layout.recompute == ("core_attn",))

    outcome = validate([replace(row, recompute="unknown")], catalog, predict).outcomes[0]
    assert outcome.layout_text.endswith("rc=core_attn")
    assert outcome.fits


def test_the_null_predictor_is_the_median_rate_of_its_group(catalog, row):
    rows = [replace(row, id=f"lab-{i}", value=value) for i, value in enumerate((1.0, 2.0, 4.0))]
    result = validate(rows, catalog, constant(2.0))
    assert [o.null_ratio for o in result.outcomes] == pytest.approx([2.0, 1.0, 0.5])
    assert result.overall.null_median_ape == pytest.approx(0.5)


def test_memory_and_oom_rows(catalog, row):
    rows = [
        replace(row, id="lab-2", metric="oom", value=1.0),
        replace(row, id="lab-3", metric="memory_gib_per_accel", value=50.0),
        replace(row, also_memory_gib=32.0),
    ]
    result = validate(rows, catalog, constant(2.0, fits=False)).overall
    assert (result.scored, result.oom_rate, result.fits_rate) == (3, 1.0, 0.0)
    assert result.memory_median_ape == pytest.approx((0.2 + 0.25) / 2)


def test_an_analytic_component_is_held_against_that_component(catalog, row):
    part = replace(row, metric="memory_gib_per_accel", value=12.5, note="first-stage memory component: activations")
    whole = validate([part], catalog, constant(2.0))
    assert whole.outcomes[0].predicted == pytest.approx(10) and whole.overall.memory_median_ape is None
    assert analytic_errors(whole.outcomes) == {"activations": [pytest.approx(0.2)]}
    odd = replace(part, note="memory component: buffers")
    assert "buffers" in validate([odd], catalog, constant(2.0)).outcomes[0].unsupported


def test_repeats_of_a_configuration_count_once(catalog, row):
    rows = [replace(row, id=f"lab-{i}", also_memory_gib=size) for i, size in enumerate((32.0, 50.0, 50.0))]
    rows.append(replace(row, id="lab-9", also_memory_gib=32.0, micro_batch=4))
    model, state = distinct_errors(validate(rows, catalog, constant(2.0)).outcomes)
    assert model == pytest.approx([0.2, 0.25]) and state == pytest.approx([0.4, 1 / 16])


def test_ranking_within_a_group(catalog, row):
    times = {1: 4.0, 2: 2.0, 4: 1.0, 8: 3.0}
    rows = [
        replace(row, id=f"lab-{tp}", tp=tp, pp=1, dp=16 // tp, sharding="none", micro_batch=1, value=time)
        for tp, time in times.items()
    ]
    result = validate(rows, catalog, lambda job, layout: Guess(times[layout.tp])).overall
    assert (result.groups, result.kendall_tau, result.mean_regret, result.top1_hits) == (1, 1.0, 0.0, 1)


def test_unsupported_rows_are_listed_with_their_reason(catalog, row):
    result = validate([row, replace(row, id="lab-2", offload="nvme")], catalog, constant(2.0)).overall
    assert (result.rows, result.scored) == (2, 1)
    assert result.unsupported == {"offload of nvme is not modelled yet": 1}


def test_a_broken_catalog_ends_the_run(catalog, row):
    def broken(name, /):
        raise BadQuantity("cluster.yaml: levels holds 900 where 900 GB/s belongs")

    catalog.cluster = broken
    with pytest.raises(BadQuantity, match="cluster.yaml"):
        validate([row], catalog, constant(2.0))


def test_an_unknown_accelerator_is_the_row_s_own_gap(catalog, row):
    def unknown(name, /):
        raise UnknownName(f"there is no accelerator {name!r}; did you mean b?")

    catalog.accelerator = unknown
    reasons = validate([row], catalog, constant(2.0)).overall.unsupported
    assert reasons == {"there is no accelerator 'a100-sxm-80gb'": 1}
