"""Stages of real layouts under pipeline schedules: the step model and the event simulation agree."""

import pytest

from overlap.jobs import pipeline
from perfplan.errors import OutOfRange
from perfplan.overlap.stages import compare

TALL = "tp8 sp1 pp4 dp2 zero1"


def test_the_simulated_step_of_the_layout_is_the_estimate_but_for_uneven_ends():
    for layout in (TALL, "tp8 sp1 pp4 vpp4 dp2 zero1"):
        p = pipeline("llama-3.1-70b", layout)
        own = next(row for row in compare(p) if row.name in ("1f1b", "interleaved"))
        assert own.step == pytest.approx(float(p.whole.step_time), rel=0.01)
        assert own.memory == pytest.approx(p.whole.memory_total, rel=1e-4)


def test_zero_bubble_is_faster_and_gpipe_holds_everything():
    rows = {row.name: row for row in compare(pipeline("llama-3.1-70b", TALL))}
    assert rows["zb-h1"].step < rows["1f1b"].step == pytest.approx(rows["gpipe"].step, rel=0.01)
    assert rows["zb-h2"].memory > rows["zb-h1"].memory >= rows["1f1b"].memory
    assert rows["v-min"].memory < rows["v-half"].memory < rows["1f1b"].memory
    assert rows["gpipe"].memory > 2 * rows["1f1b"].memory and not rows["gpipe"].fits
    assert rows["dualpipe"].memory > rows["dualpipev"].memory  # it holds the weights twice


def test_passes_of_a_stage_add_up_to_its_time():
    p = pipeline("deepseek-v3", "ep64 pp4 dp64 zero1", batch=2048, precision="fp8")
    passes = p.passes("1f1b", p.split("1f1b"))
    total = max(f + b + w for f, b, w in zip(passes.forward, passes.inputs, passes.weights, strict=True))
    names = ("forward", "backward", "recompute", "tp", "cp", "ep", "offload", "host", "sharding")
    assert p.micro_batches * total == pytest.approx(sum(p.whole.breakdown[name] for name in names))


def test_a_schedule_that_cannot_run_says_why():
    rows = {row.name: row for row in compare(pipeline("llama-3.1-70b", TALL, batch=12), ["dualpipe"])}
    assert "at least twice as many" in rows["dualpipe"].reason and rows["dualpipe"].ran is None


def test_one_stage_has_nothing_to_schedule():
    with pytest.raises(OutOfRange, match="one pipeline stage"):
        pipeline("llama-3.1-70b", "tp8 sp1 dp4 zero1")
