"""Delta errors and null predictors on outcomes made by hand."""

from dataclasses import replace
from math import log

import pytest

from perfplan.validation.baselines import best_rule, group_null_errors, model_choice, random_choice, with_null
from perfplan.validation.delta import delta_scores, pairs
from perfplan.validation.score import Facts, Outcome

FACTS = Facts("2024", "gpt", "bf16", 8, 1024, 64, 1e15, 300e12, tp=1, pp=1, micro_batch=1)


def outcome(name, measured, predicted, source="lab", hardware="a100", layout=(), group="g", **facts):
    return Outcome(
        name, source, f"{source}/dense", group, layout or (name,), "step_time_s", measured, predicted,
        predicted / measured, time=predicted, measured_time=measured, hardware=hardware,
        facts=replace(FACTS, **facts),
    )  # fmt: skip


def the_pair(*outcomes):
    [pair] = pairs(outcomes)
    return pair


def test_a_pair_compares_rates_per_accelerator():
    pair = the_pair(outcome("a", 10.0, 10.0), outcome("b", 6.0, 5.0, gpus=16))
    assert pair.axis == "count" and pair.change == "8 to 16"
    assert pair.measured == pytest.approx(log(10 / 12)) and pair.predicted == pytest.approx(0)
    assert pair.error == pytest.approx(log(12 / 10)) and pair.null == 0


def test_the_error_is_the_difference_of_log_errors():
    pair = the_pair(outcome("a", 10.0, 11.0), outcome("b", 4.0, 4.8, precision="fp8"))
    assert pair.axis == "precision" and pair.error == pytest.approx(log(1.2 / 1.1))


@pytest.mark.parametrize(
    ("facts", "axis"),
    [
        ({"gpus": 16, "global_batch": 128}, "count"),
        ({"gpus": 16, "global_batch": 96}, None),
        ({"model": "bert"}, "model"),
        ({"model": "bert", "global_batch": 128}, None),
        ({"model": "bert", "precision": "fp8"}, None),
        ({"epoch": "2025", "precision": "fp8"}, None),
        ({"seq_len": 2048, "precision": "fp8"}, None),
        ({"recipe": "bf16-pure"}, "precision"),
        ({"recipe": "bf16-pure", "gpus": 16}, None),
        ({}, None),
    ],
)
def test_only_one_thing_may_differ(facts, axis):
    found = pairs([outcome("a", 10.0, 10.0), outcome("b", 9.0, 9.0, **facts)])
    assert [pair.axis for pair in found] == ([axis] if axis else [])


def test_repeats_of_a_configuration_count_once():
    again = [outcome(name, time, 5.0, layout=("l",), gpus=16) for name, time in (("b", 6.0), ("c", 7.0), ("d", 5.0))]
    rows = [outcome("a", 10.0, 10.0), *again]
    [pair] = pairs(rows, once=True)
    assert (pair.first, pair.second) == ("a", "b") and pair.measured == pytest.approx(log(10 / 12))
    assert len(pairs([*rows, replace(again[0], id="e", layout=("other",))], once=True)) == 2
    assert len(pairs(rows)) == 3


def test_sources_and_rows_without_a_prediction_do_not_pair():
    one, other = outcome("a", 10.0, 10.0), outcome("b", 9.0, 9.0, precision="fp8")
    assert not pairs([one, replace(other, source="else")])
    assert not pairs([one, replace(other, time=None)])


def test_the_null_takes_its_utilisation_from_other_models():
    a100 = [outcome("a", 10.0, 9.0), outcome("b", 20.0, 9.0, model="bert")]
    h100 = [outcome("c", 4.0, 9.0, hardware="h100", peak=900e12),
            outcome("d", 5.0, 9.0, hardware="h100", peak=900e12, model="bert")]  # fmt: skip
    mine = next(pair for pair in pairs([*a100, *h100]) if (pair.first, pair.second) == ("a", "c"))
    assert mine.axis == "chip" and mine.null == pytest.approx(log(20 / 5))
    alone = the_pair(a100[0], h100[0])
    assert alone.null == pytest.approx(log(3))


def test_scores_count_sources_equally_and_signs_of_large_changes():
    rows = [outcome("a", 10.0, 10.0), outcome("b", 8.0, 9.0, precision="fp8"),
            outcome("c", 10.0, 10.0, "else"), outcome("d", 9.0, 12.0, "else", precision="fp8"),
            outcome("e", 9.8, 10.0, "else", precision="fp4")]  # fmt: skip
    by = {(score.axis, score.source): score for score in delta_scores(pairs(rows))}
    assert by["precision", "lab"].right_signs == 1
    other = by["precision", "else"]
    assert (other.pairs, other.changed, other.right_signs) == (3, 2, pytest.approx(0))
    whole = by["precision", "all"]
    assert whole.median == pytest.approx((by["precision", "lab"].median + other.median) / 2)
    assert whole.right_signs == pytest.approx(0.5) and whole.pairs == 4


def test_the_null_rate_is_the_median_of_rows_alike():
    rows = [outcome("a", 1.0, 1.0), outcome("b", 2.0, 1.0), outcome("c", 4.0, 1.0), outcome("d", 9.0, 1.0, gpus=4)]
    assert [o.null_ratio for o in with_null(rows[:3])] == pytest.approx([2.0, 1.0, 0.5])
    rate = replace(rows[0], metric="tokens_per_s_per_accel")
    assert with_null([rate, *rows[1:3]])[0].null_ratio == pytest.approx(0.5)


def layouts(predicted, measured=(10.0, 12.0, 15.0, 20.0)):
    return [outcome(str(i), m, p, layout=(i,), tp=2**i, micro_batch=8 >> i)
            for i, (m, p) in enumerate(zip(measured, predicted, strict=True))]  # fmt: skip


def test_choices_of_a_layout():
    group = layouts([3.0, 2.0, 4.0, 5.0])
    assert model_choice(group, 4).mean == pytest.approx(0.2)
    assert random_choice(group, 4).mean == pytest.approx(14.25 / 10 - 1)
    rule = best_rule(group, 4)
    assert rule.mean == 0 and rule.hits == 1 and rule.name.startswith("max micro-batch")
    assert model_choice(group, 5).groups == 0 and model_choice(group, 5).mean is None


def test_the_group_null_knows_the_median_of_the_group():
    assert group_null_errors(layouts([1, 1, 1, 1]), 4) == pytest.approx([0.35, 0.125, 0.1, 0.325])
