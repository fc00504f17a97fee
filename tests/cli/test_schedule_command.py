"""`perfplan schedule` from the command line."""

import csv
import io
import json

import pytest

from perfplan.cli.main import run

JOB = ["schedule", "pipeline", "llama-3.1-70b", "--cluster", "dgx-h100", "--global-batch", "128", "--seq-len", "4096"]
LAYOUT = ["--layout", "tp8 sp1 pp4 dp2 zero1"]


def printed(capsys, arguments):
    assert run(arguments) == 0
    return capsys.readouterr().out


def test_schedules_are_compared(capsys):
    out = printed(capsys, [*JOB, *LAYOUT, "--gantt", "--diff", "1f1b zb-h1"])
    assert "fastest that fits:" in out and "rank 3" in out and "whole timeline" in out
    assert all(len(line) <= 100 for line in out.splitlines())


def test_interleaving_in_groups_and_the_exchange_of_replicas(capsys):
    at = [*JOB, "--layout", "tp8 sp1 pp4 vpp2 dp2 zero1", "--compare", "depth-first,interleaved:8,breadth-first"]
    document = json.loads(printed(capsys, [*at, "--json"]))
    assert {row["schedule"] for row in document["schedules"]} == {"interleaved", "interleaved:8", "breadth-first"}
    shown = document["data_parallel"]["exposed_s"]
    assert shown["layer by layer, first gathered ahead"] < shown["chunk by chunk"] < shown["nothing"]
    out = printed(capsys, [*at[:-1], "interleaved:63"])
    assert "not run: schedule interleaved:63" in out and "replicas overlap" in out
    assert all(len(line) <= 100 for line in out.splitlines())


OFFLOAD = ["schedule", "offload", *JOB[2:], "--layout", "tp8 sp1 dp1 zero1"]


def test_offload_of_optimizer_state(capsys):
    out = printed(capsys, [*OFFLOAD, "--host-memory", "60GiB", "--nvme", "5GB/s"])
    assert "proven optimal by MILP" in out and "all on disk, CPU" in out and "off=optim" in out
    assert all(len(line) <= 100 for line in out.splitlines())
    rows = list(csv.DictReader(io.StringIO(printed(capsys, [*OFFLOAD, "--csv"]))))
    assert rows[-1]["choice"] == "best" and rows[-1]["fits"]
    document = json.loads(printed(capsys, [*OFFLOAD, "--json"]))
    assert document["gap"] <= 1e-6 and document["flush_exposed_s"] <= document["flush_s"]
    few = ["llama-3-8b", "--cluster", "dgx-h100", "--global-batch", "32", "--seq-len", "4096", "--layout", "dp8 zero2"]
    assert "frees -" not in (out := printed(capsys, ["schedule", "offload", *few])) and "more than that frees" in out


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        (["--host-memory", "1GiB"], 1, "give more --host-memory, a disk with --nvme"),
        (["--nvme", "5"], 2, "has no unit"),
        (["--subgroup", "0"], 2, "a subgroup of 0 parameters"),
    ],
)
def test_what_is_wrong_with_offload_is_one_sentence(capsys, more, status, says):
    assert run([*OFFLOAD, *more]) == status
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and says in err


def test_data_comes_out_as_csv_and_json(capsys):
    rows = list(csv.DictReader(io.StringIO(printed(capsys, [*JOB, *LAYOUT, "--compare", "zb-h1", "--csv"]))))
    assert [row["schedule"] for row in rows] == ["zb-h1", "1f1b"] and float(rows[0]["step_s"]) > 0
    document = json.loads(printed(capsys, [*JOB, *LAYOUT, "--compare", "1f1b", "--balance", "--json"]))
    assert document["partition"]["gap"] == 0 and document["partition"]["pipeline_layout"].startswith("Et*")
    assert len(document["partition"]["ranks"]) == 4 and document["schedules"][0]["schedule"] == "1f1b"


def test_trace_and_drawing_are_written(capsys, tmp_path):
    trace, drawing = tmp_path / "t.json", tmp_path / "t.svg"
    printed(capsys, [*JOB, *LAYOUT, "--compare", "1f1b", "--trace", str(trace), "--svg", str(drawing)])
    assert json.loads(trace.read_text())["traceEvents"] and drawing.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        (["--compare", "1f2b", *LAYOUT], 2, "no pipeline schedule '1f2b'; did you mean 1f1b"),
        (["--layout", "tp8 sp1 dp8 zero1"], 2, "one pipeline stage"),
        (["--diff", "1f1b nothing", *LAYOUT], 2, "'nothing' is none of the timelines"),
        (["--balance", *LAYOUT, "--set", "accelerator.memory=5GiB"], 1, "fits 5.00 GiB per rank"),
    ],
)
def test_what_is_wrong_is_one_sentence(capsys, more, status, says):
    assert run([*JOB, *more]) == status
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and says in err


LAYER = ["schedule", "layer", "llama-3.1-70b", "--cluster", "dgx-h100", "--layout", "tp8", "--phase", "decode"]


def test_techniques_on_a_layer(capsys, tmp_path):
    trace = tmp_path / "real.json"
    event = {"ph": "X", "cat": "kernel", "name": "nvjet", "pid": 0, "tid": 7, "ts": 10, "dur": 300}
    trace.write_text(json.dumps({"traceEvents": [event]}))
    out = printed(capsys, [*LAYER, "--batch", "64", "--technique", "blocking,ladder,best", "--gantt", "--against",
                           str(trace), "--diff", "blocking ladder", "--windows", "2"])
    assert "other model" in out and "best: " in out and "device busy" in out
    assert all(len(line) <= 100 for line in out.splitlines())
    document = json.loads(printed(capsys, [*LAYER, "--batch", "64", "--technique", "blocking,best", "--json"]))
    slow, fast = document["techniques"]
    assert fast["window_s"] <= slow["window_s"] and fast["gap"] < 0.05 and document["timelines"]["best"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--batch", "64", "--technique", "nano"], "no technique 'nano'; did you mean nanoflow"),
        (["--batch", "64", "--windows", "2"], "changes nothing without --against"),
        (["--batch", "64", "--technique", "fused", "--time-limit", "3"], "changes nothing without technique best"),
        (["--batch", "0"], "each must be at least 1"),
        (["--batch", "64", "--against", "nowhere.json"], "nowhere.json cannot be read"),
    ],
)
def test_what_is_wrong_with_a_layer_is_one_sentence(capsys, more, says):
    assert run([*LAYER, *more]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and says in err


def test_a_plan_with_schedules_chosen(capsys):
    arguments = ["plan", "train", "llama-3.1-70b", "--cluster", "dgx-h100", "--gpus", "64", "--global-batch", "64",
                 "--seq-len", "4096", "--fix", "pp4 vpp1", "--top", "2"]
    document = json.loads(printed(capsys, [*arguments, "--schedule", "auto", "--json"]))
    plain = json.loads(printed(capsys, [*arguments, "--json"]))
    assert document["layouts"] == plain["layouts"] and "schedule" not in plain
    rows = document["schedule"]["layouts"]
    assert len(rows) == 2 and all(row["step_time_s"] <= row["planned_step_time_s"] for row in rows)
    assert "schedule auto: best" in printed(capsys, [*arguments, "--schedule", "auto"])
    assert run([*arguments, "--schedule", "magic"]) == 2
    assert "--schedule 'magic' is unknown" in capsys.readouterr().err


def test_the_gap_to_physics(capsys):
    arguments = ["schedule", "gap", *JOB[2:], *LAYOUT, "--measured"]
    out = printed(capsys, [*arguments, "30 s"])
    assert "unexplained" in out and "no layout and no schedule" in out
    document = json.loads(printed(capsys, [*arguments, "30 s", "--json"]))
    assert sum(document["parts_s"].values()) == pytest.approx(30) and document["bound_by"] == "arithmetic"
    assert run([*arguments, "0 s"]) == 2 and "is none" in capsys.readouterr().err


def test_the_gap_of_a_serving_step_and_options_of_the_other_phase(capsys):
    gap = ["schedule", "gap", "llama-3.1-70b", "--cluster", "dgx-h100", "--layout", "tp8"]
    out = printed(capsys, [*gap, "--phase", "decode", "--batch", "64", "--measured", "30ms"])
    assert "64 sequences, 1024 tokens cached each" in out and "unexplained" in out
    parts = json.loads(printed(capsys, [*gap, "--phase", "decode", "--batch", "64", "--json"]))["parts_s"]
    assert list(parts) == ["physics", "layout", "schedule"]
    below = printed(capsys, [*gap, "--phase", "decode", "--batch", "64", "--measured", "1ms"])
    assert "the measurement is below the bound" in below
    for more, told in ((["--phase", "decode"], "--batch is missing"), ([], "--global-batch is missing"),
                       (["--phase", "decode", "--batch", "64", "--precision", "fp8"], "--precision belongs to"),
                       (["--phase", "trane"], "'trane' is unknown; did you mean train"),
                       (["--batch", "64"], "--batch belongs to serving")):
        assert run([*gap, *more]) == 2 and told in capsys.readouterr().err
