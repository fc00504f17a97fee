"""The bound over all layouts and schedules: no measurement and no plan beats it, and the four parts add up."""

from dataclasses import replace

import pytest

from overlap.jobs import shipped
from perfplan.api import estimate_train, gap_serve, gap_train, plan_train, training_job
from perfplan.catalog.workloads import fixed_workload
from perfplan.errors import OutOfRange
from perfplan.overlap.physics import gap, physics
from perfplan.overlap.serving_physics import decode_gap, pool_gaps
from perfplan.serving.curves import curve
from perfplan.serving.deploy import deployment, serving_job
from perfplan.serving.layout import ServingLayout
from perfplan.training.estimate import model_flops
from perfplan.validation.rows import read_rows
from perfplan.validation.tightness import tightness
from perfplan.validation.training import dev_measurements


def job(model="llama-3-8b", gpus=64, batch=128, seq=8192, **more):
    named = {"cluster": "dgx-h100", "gpus": gpus, "global_batch": batch, "seq_len": seq}
    return training_job(model, **named, catalog=shipped(), **more)


def test_no_trusted_measurement_beats_physics():
    whole = tightness(read_rows(dev_measurements()), shipped())[-1]
    assert whole.rows > 2000 and whole.beaten == 0
    assert 0.5 < whole.most < 1.0 and whole.median > 0.1  # and it is no empty bound


def test_in_one_number_format_the_arithmetic_is_model_flops_at_the_peak():
    j = job()
    assert physics(j).floors["arithmetic"] == pytest.approx(model_flops(j) / (64 * 989.4e12), rel=1e-3)


def test_no_layout_of_a_plan_is_below_the_bound():
    plan = plan_train("llama-3-8b", cluster="dgx-h100", gpus=64, global_batch=128, seq_len=8192, catalog=shipped())
    assert all(float(e.step_time) > physics(e.job).time for e in plan.estimates)


def test_the_network_bounds_where_a_domain_is_left():
    assert 0 < physics(job()).floors["network"] < physics(job()).time
    assert physics(replace(job(), gpus=8)).floors["network"] == 0.0


def test_state_beyond_the_memory_crosses_the_host_link():
    j = job("llama-3.1-405b", gpus=8, batch=8, seq=512)
    assert physics(j).floors["host link"] > 0 and physics(j).accelerators > 8
    assert physics(job("llama-3.1-405b", gpus=512)).floors["host link"] == 0


def test_the_parts_of_a_step_add_up():
    named = {"cluster": "dgx-h100", "layout": "tp2 sp1 dp32 zero1", "global_batch": 128, "seq_len": 8192}
    estimate, found = gap_train("llama-3-8b", **named, measured="1.9 s", catalog=shipped())
    assert sum(found.parts.values()) == pytest.approx(1.9) and min(found.parts.values()) > 0
    plain = gap(estimate_train("llama-3-8b", **named, catalog=shipped()))
    assert sum(plain.parts.values()) == pytest.approx(float(estimate.step_time)) == plain.step
    assert set(plain.parts) == {"physics", "layout", "schedule"} and 0.3 < plain.share < 1
    with pytest.raises(OutOfRange, match="measured step of 0 s is none"):
        gap(estimate, 0.0)


@pytest.mark.parametrize(("model", "layout", "engine"), [("llama-3.1-70b", "tp8", "trtllm"),
                                                         ("deepseek-v3", "tp1 adp16 ep16", "sglang")])
@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_a_serving_step_splits_too_and_no_layout_beats_its_physics(model, layout, engine, phase):
    named = {"cluster": "dgx-h100", "phase": phase, "batch": 64, "context": 2048, "engine": engine}
    step, found = gap_serve(model, layout=layout, **named, measured="20 s", catalog=shipped())
    assert sum(found.parts.values()) == pytest.approx(20.0) and min(found.parts.values()) > 0
    assert found.bound.time < step.time and found.bound.reason == ("memory traffic" if phase == "decode"
                                                                   else "arithmetic")


@pytest.mark.parametrize("load", [{"concurrency": 32}, {"batch": 32}, {"rate": 1.0}])
@pytest.mark.parametrize("layout", ["tp8", "tp4 pp2"])
def test_the_decode_step_of_a_deployment_splits_into_what_adds_up(layout, load):
    job = serving_job("llama-3.1-70b", "dgx-h100", shipped())
    found = deployment(job, ServingLayout.parse(layout), 1024, 512, **load)
    split = decode_gap(found)
    assert sum(split.parts.values()) == pytest.approx(sum(map(float, found.steady.decode.values())))
    assert 0 < split.bound.time == split.parts["physics"] and min(split.parts.values()) >= 0


def test_the_decode_gap_of_a_static_batch_is_that_of_its_step():
    job = serving_job("llama-3.1-70b", "dgx-h100", shipped())
    one = decode_gap(deployment(job, ServingLayout.parse("tp8"), 1024, 512, batch=32))
    _, other = gap_serve("llama-3.1-70b", cluster="dgx-h100", layout="tp8", phase="decode", batch=32, context=1280,
                         catalog=shipped())
    assert one.parts == pytest.approx(other.parts)


def test_the_steps_of_a_planned_deployment_split_as_those_of_an_estimate():
    job = serving_job("llama-3.1-70b", "dgx-h100", shipped())
    layout = ServingLayout.parse("tp4 pp2")
    one = curve(job, layout, fixed_workload(1024, 512))
    prompt, decode = pool_gaps(one, one, 32.0)
    _, other = gap_serve("llama-3.1-70b", cluster="dgx-h100", layout="tp4 pp2", phase="decode", batch=32, context=1280,
                         catalog=shipped())
    assert decode.parts == pytest.approx(other.parts)
    assert sum(prompt.parts.values()) == pytest.approx(one.prompts[0], rel=0.02) and min(prompt.parts.values()) > 0


def test_a_deployment_that_draws_one_token_decodes_nothing_to_split():
    job = serving_job("llama-3.1-70b", "dgx-h100", shipped())
    assert decode_gap(deployment(job, ServingLayout.parse("tp8"), 1024, 1, batch=32)) is None


def test_physics_of_serving_by_hand():
    step, found = gap_serve("llama-3.1-70b", cluster="dgx-h100", layout="tp8", phase="decode", batch=64, context=1024,
                            catalog=shipped())
    matrices = (70.55e9 - 2 * 128256 * 8192) * 2  # bf16, without the two vocabulary matrices
    cached = 64 * 1024 * 80 * 2 * 8 * 128 * 2
    floors = found.bound.floors
    assert floors["memory traffic"] == pytest.approx((matrices + cached - 8 * 50e6) / (8 * 3.35e12), rel=0.01)
    assert floors["arithmetic"] == pytest.approx(64 * matrices / (8 * 989.4e12), rel=0.01)
    with pytest.raises(OutOfRange, match="phase 'decoding' is unknown; did you mean decode"):
        gap_serve("llama-3.1-70b", cluster="dgx-h100", layout="tp8", phase="decoding", batch=1, context=1)
