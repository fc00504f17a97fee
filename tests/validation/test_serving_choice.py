"""Choices by the prediction, on runs whose answer is known; a fit that gives back the constants it was fed."""

from dataclasses import replace

import pytest

from perfplan.catalog import Catalog
from perfplan.validation import serving_fit
from perfplan.validation.score import Outcome
from perfplan.validation.serving import Pricer
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
    found = ceiling_choice(rows)
    assert found.groups == 4, "each ceiling is a choice"
    assert found.broken == pytest.approx(1 / 4), "b breaks 20 ms and keeps the others"
    assert found.mean_regret == 0


def test_a_fit_finds_the_constants_that_made_the_runs(monkeypatch):
    catalog = Catalog()
    monkeypatch.setattr(serving_fit, "CONSTANTS", {"step": (1e-3, 1e-5, 1e-1), "sequence": (5e-5, 1e-6, 1e-2)})
    truth = Pricer(catalog, lambda engine: replace(engine, burst=0.12, step=5e-3, sequence=2e-4))
    runs = [replace(RUN, id=str(n), batch=n, metric="tpot_ms") for n in (1, 4, 16, 64)]
    made = [replace(run, value=truth.predict(run)) for run in runs]
    found = serving_fit.fit_engine(made, catalog)
    assert found["step"] == pytest.approx(5e-3, rel=0.1)
    assert found["sequence"] == pytest.approx(2e-4, rel=0.15)
