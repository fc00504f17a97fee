"""The step under a placement, its bound, the verdict, and the command."""

import json
from dataclasses import replace

import numpy as np
import pytest

from perfplan.catalog import Catalog
from perfplan.cli.main import run
from perfplan.placement.routing import from_trace, from_transitions
from perfplan.placement.step import Step
from perfplan.placement.study import Request, study
from perfplan.placement.synthetic import Synthetic, generate
from perfplan.serving.deploy import serving_job

PLACE = ["place", "mixtral-8x7b", "--cluster", "dgx-h100", "--ep", "4"]


@pytest.fixture(scope="module")
def job():
    return serving_job("mixtral-8x7b", "dgx-h100", Catalog(), engine="sglang")


def balanced(layers, experts, picks, tokens=512):
    first = np.arange(tokens)[:, None, None] + np.arange(layers)[None, :, None]
    return from_trace((first + np.arange(picks)[None, None, :]) % experts, experts, "balanced routing")


def test_balanced_routing_costs_what_the_serving_model_says(job):
    even = replace(job, engine=replace(job.engine, evenness=1e6))
    step = Step(even, 4, "prefill", 8192, 0)
    routing = balanced(32, 8, 2)
    placed = np.tile(np.arange(8) // 2, (32, 1))
    assert step.time(routing, placed).step == pytest.approx(sum(step.parts.values()), rel=1e-6)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_the_bound_of_a_step_holds_and_skew_costs(job, phase):
    step = Step(job, 4, phase, 256, 1024)
    routing, even = generate(Synthetic(tokens=2000), 8, 32, 2), balanced(32, 8, 2)
    placed = np.tile(np.arange(8) // 2, (32, 1))
    found = study(step, routing, Request("latency", rounds=5))
    assert step.least(routing) <= found.best.time.step <= step.time(routing, placed).step
    assert step.time(even, placed).step < step.time(routing, placed).step
    assert found.certificate.bound == pytest.approx(found.best.time.step)  # all splits were tried
    searched = study(step, routing, Request("latency", method="search", rounds=5))
    assert searched.certificate.bound == pytest.approx(step.least(routing))
    assert found.best.time.step <= searched.best.time.step * (1 + 1e-12)


def test_verdicts(job):
    step = Step(job, 4, "prefill", 8192, 0)
    skewed = generate(Synthetic(tokens=4000), 8, 32, 2)
    assert study(step, skewed, Request("load", rounds=5)).verdict.word == "worth it"
    assert study(step, balanced(32, 8, 2), Request("load", rounds=5)).verdict.word == "not now"
    few = from_trace(skewed.trace[:16], 8, "a few tokens")
    assert study(step, few, Request("load", rounds=5)).verdict.word != "not now"
    counts = from_transitions(skewed.transitions, "counts")
    alone = study(step, counts, Request("load", rounds=5)).verdict
    assert alone.word == "too little evidence" and alone.gain is None and "one window" in alone.why


def test_the_next_window_judges_the_placement_of_the_first(job):
    """Popularity that turns round after half of the trace: what the first window gains, the second loses."""
    step = Step(job, 4, "prefill", 8192, 0)
    first = generate(Synthetic(tokens=2000, zipf=1.2, affinity=0.0), 8, 32, 2).trace
    turned = from_trace(np.concatenate([first, 7 - first]), 8, "a trace that turns round")
    steady = from_trace(np.concatenate([first, first]), 8, "a steady trace")
    changed, same = (study(step, one, Request("load", rounds=5)).verdict for one in (turned, steady))
    assert same.word == "worth it" and changed.gain < same.gain


def test_coherent_exchange_has_a_bound(job):
    step = Step(job, 4, "prefill", 8192, 0)
    routing = generate(Synthetic(tokens=2000), 8, 32, 2)
    found = study(step, routing, Request("latency", exchange="coherent", rounds=5))
    assert 0.5 * found.certificate.objective < found.certificate.bound <= found.certificate.objective
    assert found.certificate.objective == pytest.approx(found.best.coherent.step)


def test_the_command(capsys, tmp_path):
    written = tmp_path / "placed.json"
    arguments = [*PLACE, "--synthetic", "tokens=1000", "--objective", "traffic"]
    assert run([*arguments, "--json", "--write", str(written), "--form", "sglang"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["certificate"]["proven"] and len(document["gpu"]) == 32
    assert np.shape(json.loads(written.read_text())["physical_to_logical_map"]) == (32, 8)
    assert run([*arguments, "--evaluate", str(written), "--csv"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[-1].startswith("placed.json") and float(rows[-1].split(",")[1]) < float(rows[1].split(",")[1])


def test_a_memory_budget(capsys, tmp_path):
    written = tmp_path / "placed.csv"
    arguments = [*PLACE, "--synthetic", "tokens=300", "--rounds", "6"]
    assert run([*arguments, "--memory-budget", "24GiB", "--json", "--write", str(written)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert sum(document["experts_held"]) == 256 and max(document["experts_held"]) <= 73  # of 336 MiB each
    assert run([*arguments, "--evaluate", str(written), "--memory-budget", "24GiB"]) == 0
    capsys.readouterr()
    for changes, words in (
        (["--memory-budget", "1GiB"], "room for 64 each"),
        (["--memory-budget", "1MiB"], "holds no expert"),
        (["--memory-budget", "24GiB", "--write", str(written), "--form", "sglang"], "--form csv"),
        (["--evaluate", str(written)], "every GPU holds 2"),
        (["--form", "sglang"], "--form sglang changes nothing without --write"),
    ):
        assert run([*arguments, *changes]) in (1, 2)
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("changes, words", [
    (["--ep", "3", "--synthetic", "seed=1"], "1, 2, 4, 8"),
    ([], "--trace"),
    (["--synthetic", "zipf=x"], "zipf"),
    (["--synthetic", "zip=1"], "zipf"),
    (["--synthetic", "zipf=-1"], "between"),
    (["--synthetic", "seed=1", "--time-limit", "0"], "time limit"),
    (["--synthetic", "seed=1", "--balance", "0"], "at least 1"),
    (["--synthetic", "seed=1", "--objective", "speed"], "speed"),
    (["--synthetic", "seed=1", "--exchange", "both"], "both"),
    (["--synthetic", "seed=1", "--phase", "idle"], "idle"),
    (["--synthetic", "seed=1", "--method", "guess"], "guess"),
    (["--synthetic", "seed=1", "--evaluate", "/nowhere.csv"], "/nowhere.csv"),
    (["--trace", "/nowhere.csv"], "/nowhere.csv"),
])  # fmt: skip
def test_bad_input_is_one_sentence(capsys, changes, words):
    status = run([*PLACE, *changes])
    out, err = capsys.readouterr()
    assert status == 2 and out == "" and err.count("\n") == 1 and words in err and "defect" not in err


def test_a_model_without_experts_is_refused(capsys):
    assert run(["place", "llama-3-8b", "--cluster", "dgx-h100", "--ep", "4", "--synthetic", "seed=1"]) == 2
    assert "no routed experts" in capsys.readouterr().err
