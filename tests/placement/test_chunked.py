"""FSMoE's layer of a job: its prices, the best number of chunks, and the command."""

import json

import pytest

from perfplan.api import schedule_moe
from perfplan.cli.main import run
from perfplan.errors import OutOfRange, SpecError

JOB = {"cluster": "dgx-h100", "layout": "tp1 pp1 cp1 ep8 etp1 dp16", "batch": 1, "seq_len": 4096}


def test_the_largest_bound_is_what_events_take_and_the_best_is_the_least():
    found = schedule_moe("mixtral-8x7b", **JOB)
    ahead, behind = found.passes
    for one in found.passes:
        times = {row[0]: row[4] for row in one.bounds}
        assert times[one.best] == min(times.values()) and one.best in times
        for row in one.bounds:
            assert row[4] == max(row[1:4]) == pytest.approx(row[5])
    assert behind.layer.work[1] == pytest.approx(2 * ahead.layer.work[1], rel=0.2)
    assert ahead.layer.gather == (0.0, 0.0)  # an expert is not sliced
    assert found.layers == 32 and found.gradients.pieces.sum() > 0


def test_an_operation_is_its_constant_and_its_data():
    short, long = (schedule_moe("mixtral-8x7b", **{**JOB, "seq_len": n}).passes[0].layer for n in (4096, 8192))
    assert sum(long.a2a) > sum(short.a2a) and long.a2a[1] == pytest.approx(2 * short.a2a[1], rel=0.05)


def test_slices_of_an_expert_are_gathered_and_scattered():
    found = schedule_moe("mixtral-8x7b", **{**JOB, "layout": "tp2 sp1 pp1 cp1 ep4 etp2 dp8"})
    assert found.passes[0].layer.gather[1] > 0 and found.passes[0].layer.gather == found.passes[0].layer.scatter


def test_what_has_no_chunks_is_refused():
    with pytest.raises(SpecError, match="no routed experts"):
        schedule_moe("llama-3-8b", **{**JOB, "layout": "tp1 pp1 cp1 ep1 etp1 dp8"})
    with pytest.raises(SpecError, match="exchanges no tokens"):
        schedule_moe("mixtral-8x7b", **{**JOB, "layout": "tp1 pp1 cp1 ep1 etp1 dp8"})
    with pytest.raises(SpecError, match="does not run"):
        schedule_moe("mixtral-8x7b", **{**JOB, "layout": "tp1 pp1 cp1 ep16 etp1 dp16"})
    with pytest.raises(OutOfRange, match="1,2,4,8"):
        schedule_moe("mixtral-8x7b", **JOB, chunks=("0",))


def test_the_command(capsys):
    arguments = ["schedule", "moe", "mixtral-8x7b", "--cluster", "dgx-h100", "--layout", JOB["layout"], "--batch", "1",
                 "--seq-len", "4096"]  # fmt: skip
    assert run([*arguments, "--json", "--chunks", "1,2,3"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["chunks"] for row in document["bounds"]] == [1, 2, 3, 1, 2, 3]
    assert {one["pass"] for one in document["passes"]} == {"forward", "backward"}
    assert run(arguments) == 0 and "gradients of 32 layers" in capsys.readouterr().out
    assert run([*arguments, "--chunks", "x"]) == 2 and "1,2,4,8" in capsys.readouterr().err
