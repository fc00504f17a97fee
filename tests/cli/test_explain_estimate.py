"""`perfplan explain QUANTITY MODEL ...`: the tree of an estimate says what `perfplan estimate` says."""

import csv
import io
import json

import pytest

from perfplan.cli.main import run

JOB = ["llama-3-70b", "--cluster", "dgx-h100", "--global-batch", "512", "--seq-len", "8192"]
LAYOUT = ["--layout", "tp8 sp1 pp4 vpp2 dp4 mbs1 zero1"]


@pytest.fixture(scope="module")
def estimate():
    from perfplan.api import estimate_train

    return estimate_train(
        "llama-3-70b", cluster="dgx-h100", layout=LAYOUT[1], global_batch=512, seq_len=8192, precision="bf16"
    )


def tree(capsys, quantity, *more):
    assert run(["explain", quantity, *JOB, *LAYOUT, "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_step_is_the_estimate_and_adds_up(capsys, estimate):
    top, *below = tree(capsys, "step_time", "--depth", "1")
    assert top["symbol"] == "T_step" and top["value"] == pytest.approx(float(estimate.step_time))
    assert {part["name"]: part["value"] for part in top["given"]} == pytest.approx(estimate.breakdown)
    assert sum(part["value"] for part in top["given"]) == pytest.approx(top["value"])
    assert all(row["depth"] == 1 for row in below)


def test_the_memory_is_that_of_the_fullest_rank(capsys, estimate):
    top = tree(capsys, "memory", "--depth", "0")[0]
    assert top["value"] == pytest.approx(estimate.memory_total) and top["unit"] == "B"


@pytest.mark.parametrize(
    ("name", "figure"),
    [("mfu", "mfu"), ("MFU", "mfu"), ("tokens_per_s", "tokens_per_s_per_gpu"), ("throughput", "tokens_per_s_per_gpu")],
)
def test_rates_are_those_of_the_estimate_and_rest_on_its_step(capsys, estimate, name, figure):
    top, step = tree(capsys, name, "--depth", "1")[:2]
    assert top["value"] == pytest.approx(getattr(estimate, figure))
    assert step["symbol"] == "T_step" and step["value"] == pytest.approx(float(estimate.step_time))


def test_deeper_rows_reach_the_kernels_with_their_sources(capsys):
    rows = tree(capsys, "step_time", "--depth", "50")
    assert {"gemm_flops", "kernel_time", "ring_all_gather_time"} <= {row["name"] for row in rows}
    named = [row for row in rows if row["name"] not in ("total", "combination")]
    assert named and all(row["source"] and row["meaning"] and row["latex"] for row in named)


def test_text_keeps_to_the_terminal_and_latex_is_latex(capsys):
    assert run(["explain", "dp", *JOB, *LAYOUT]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("dp = ") and max(map(len, lines)) <= 100
    assert run(["explain", "T_step", *JOB, *LAYOUT, "--latex", "--depth", "2"]) == 0
    assert capsys.readouterr().out.startswith("\\begin{align*}\nT_{\\mathrm{step}} &= ")


def test_csv_has_value_unit_and_source(capsys):
    assert run(["explain", "optimizer", *JOB, *LAYOUT, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0]["unit"] == "s" and float(rows[0]["value"]) > 0 and rows[0]["source"]


def test_break_even_of_the_fast_domain(capsys):
    assert run(["explain", "step_time", *JOB, *LAYOUT, "--break-even", "fast-domain bandwidth", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["sentence"].startswith("communication-bound below a fast-domain bandwidth of ")
    assert 1e9 < found["value"] < 450e9


def test_break_even_is_where_compute_equals_communication(estimate):
    from dataclasses import replace

    from perfplan.training.estimate import estimate as price
    from perfplan.training.plan import scaled
    from perfplan.training.turning import COMPUTE, NETWORK, turning_point

    found = turning_point(estimate, "fast-domain bandwidth")
    factor = found.value / estimate.job.cluster.levels[0].bandwidth
    cluster = scaled(estimate.job.cluster, {"fast-domain bandwidth": factor})
    parts = price(replace(estimate.job, cluster=cluster), estimate.layout).breakdown
    assert sum(parts[p] for p in COMPUTE) == pytest.approx(sum(parts[p] for p in NETWORK), rel=1e-6)
    assert {*COMPUTE, *NETWORK} <= set(parts)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["dq", *JOB, *LAYOUT], "no quantity 'dq'"),
        (["dp", *JOB], "needs --layout"),
        (["ttft", "--from", "vllm", "vllm serve meta-llama/Llama-3.1-8B", "--cluster", "dgx-h100"], "--isl and --osl"),
        (["T_AG,ring", "--cluster", "dgx-h100"], "--cluster belongs to an estimate"),
        (["T_AG,ring", "--depth", "2"], "--depth belongs to an estimate"),
        (["step_time", *JOB, *LAYOUT, "--break-even", "clock"], "no hardware number 'clock'"),
        (["dp", *JOB, *LAYOUT, "--break-even", "network bandwidth"], "write step_time"),
        (["step", *JOB, *LAYOUT, "--latex", "--break-even", "network bandwidth"], "--latex does nothing beside"),
    ],
)
def test_mistakes_are_one_sentence(capsys, arguments, words):
    assert run(["explain", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err
