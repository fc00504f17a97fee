"""Choices by the prediction, on runs whose answer is known."""

from dataclasses import replace

import pytest

from perfplan.validation.score import Outcome
from perfplan.validation.serving_choice import ceiling_choice, width_choice
from perfplan.validation.serving_rows import Run

RUN = Run("a", "g", "llama-3.1-8b", "h100-sxm", "trtllm", "", "bf16", "bf16", "", 1, 1, 1, None, 1, 1, None, 100, 10, 4,
          "concurrency", None, "output_tokens_per_s_total", 1.0, "A", False, "")


def pair(predicted, **fields):
    run = replace(RUN, **fields)
    return run, Outcome(run.id, "g", "s", "g", (run.id,), run.metric, run.value, predicted, predicted / run.value)


def test_the_width_with_the_most_predicted_tokens_per_accelerator_is_taken():
    figures = ((1, 100, 110), (2, 250, 180), (4, 100, 90))
    rows = [pair(p, id=str(tp), tp=tp, accelerators=tp, value=v) for tp, p, v in figures]
    found = width_choice(rows)
    assert found.groups == 1
    assert found.mean_regret == pytest.approx(110 / 90 - 1)
    assert width_choice(rows[:2]).groups == 0, "two widths are no choice"


def test_a_ceiling_is_kept_or_counted_as_broken():
    rows = []
    for name, batch, predicted, measured in (("a", 4, 15.0, 15.0), ("b", 16, 19.0, 25.0)):
        rows += [pair(50.0, id=name, batch=batch, metric="ttft_ms", value=50.0),
                 pair(predicted, id=name, batch=batch, metric="tpot_ms", value=measured)]
    found = ceiling_choice(rows, lambda _: 0.0)
    assert (found.groups, found.refused) == (4, 0), "each ceiling is a choice"
    assert found.broken == pytest.approx(1 / 4), "b breaks 20 ms and keeps the others"
    assert found.mean_regret == 0
    careful = ceiling_choice(rows, lambda _: 0.1)
    assert (careful.groups, careful.broken) == (4, 0), "b is predicted too close to 20 ms"
    most = ceiling_choice(rows, lambda _: 0.5)
    assert (most.groups, most.refused) == (3, 1), "a too, so that nothing is chosen for 20 ms"
