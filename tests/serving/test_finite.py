"""Tests of finitely many requests: their limits are the endless stream, the burst and the single request."""

import pytest

from perfplan.catalog import Catalog
from perfplan.errors import OutOfRange
from perfplan.serving.deploy import serving_job
from perfplan.serving.estimate import prompt_time, saturated
from perfplan.serving.finite import finite_test
from perfplan.serving.layout import ServingLayout
from perfplan.serving.step import decode_step, network, whole

JOB, ONE = serving_job("llama-3.1-8b", "dgx-h100", Catalog(), engine="trtllm-0.14", weights="bf16"), ServingLayout()


def test_one_request_is_its_prompt_and_its_steps():
    found, net = finite_test(JOB, ONE, 1000, 200, 1), network(JOB, ONE)
    assert found.ttft == pytest.approx(JOB.engine.first + whole(prompt_time(JOB, net, ONE, 1000)), rel=0.2)
    assert found.tpot == pytest.approx(whole(decode_step(JOB, net, ONE, 1.0, 1100)), rel=0.02)


def test_of_a_burst_the_mean_request_waits_for_half_of_the_prompts():
    found = finite_test(JOB, ONE, 467, 16, 500)
    prompts = 500 * whole(found.prompt)
    assert found.ttft == pytest.approx(prompts / 2, rel=0.05)
    assert 500 / found.rate == pytest.approx(prompts + 15 * whole(found.decode), rel=1e-6)
    assert found.tpot > prompts / 2 / 15, "the other half passes while it decodes"


def test_a_long_slow_test_delivers_what_is_offered():
    found = finite_test(JOB, ONE, 467, 256, 5000, 4.0)
    assert found.rate == pytest.approx(4.0, rel=0.01)
    assert found.tokens_per_s == pytest.approx(found.rate * 256)


@pytest.mark.parametrize("layout", [ServingLayout(), ServingLayout(tp=2), ServingLayout(dp=2)])
def test_more_load_never_shortens_latencies(layout):
    found = [finite_test(JOB, layout, 467, 256, 500, rate) for rate in (0.5, 2, 8, 16, 64, float("inf"))]
    for name in ("tpot", "rate"):
        values = [getattr(one, name) for one in found]
        assert values == sorted(values)
    assert found[0].ttft < found[-2].ttft <= found[-1].ttft


def test_no_test_beats_a_saturated_deployment_for_long():
    endless = saturated(JOB, ONE, 467, 256)
    assert finite_test(JOB, ONE, 467, 256, 100_000).rate < 1.1 * endless.rate


def test_replicas_share_the_requests():
    assert finite_test(JOB, ServingLayout(dp=4), 467, 256, 400).rate == pytest.approx(
        4 * finite_test(JOB, ONE, 467, 256, 100).rate)


@pytest.mark.parametrize("load", [(0, 1.0), (10, 0.0), (10, -1.0)])
def test_loads_without_meaning(load):
    with pytest.raises(OutOfRange, match="above 0"):
        finite_test(JOB, ONE, 100, 100, *load)
