"""Cache that is found: prefixes kept once, and host memory over its link."""

from dataclasses import replace

import pytest

from perfplan.api import plan_serve
from perfplan.catalog import Catalog
from perfplan.errors import MissingField, OutOfRange
from perfplan.formulas.serving_bounds import exposed_kv_transfer
from perfplan.serving.deploy import deployment, serving_job
from perfplan.serving.estimate import capacity, loading_time, prompt_time, steady
from perfplan.serving.layout import ServingLayout
from perfplan.serving.memory import held_sequences, sequence_cache, weights
from perfplan.serving.reuse import Reuse, reuse_of
from perfplan.serving.step import decode_step, network, whole

JOB = serving_job("llama-3.1-70b", "dgx-h100", Catalog(), engine="vllm")
TP4 = ServingLayout(tp=4)
KV = 2 * 80 * 8 * 128 * 2 / 4  # bytes of one token on one of four ranks


def found(**what):
    return replace(JOB, reuse=Reuse(**what))


def test_a_shared_prefix_is_stored_once_and_the_rest_once_a_request():
    room, isl, length = 40e9, 8000, 8192
    plain = held_sequences(JOB, TP4, room, length, isl)
    shared = held_sequences(found(hit=0.5, prefixes=4), TP4, room, length, isl)
    assert plain == pytest.approx(room / (length * KV))
    assert shared == pytest.approx((room - 4 * 4000 * KV) / ((length - 4000) * KV), rel=0.005)
    assert held_sequences(found(hit=0.5), TP4, room, length, isl) == plain, "each request keeps its own"
    assert held_sequences(found(hit=0.5, prefixes=10_000), TP4, room, length, isl) == 0
    assert capacity(found(hit=0.5, prefixes=1), TP4, isl, 200) > capacity(JOB, TP4, isl, 200)


def test_what_is_found_needs_no_computing_but_is_attended_to():
    net = network(JOB, TP4)
    whole_prompt, rest, short = (whole(prompt_time(job, net, TP4, isl)) for job, isl in (
        (JOB, 8000), (found(hit=0.75), 8000), (JOB, 2000)))
    assert short < rest < whole_prompt and rest < 0.4 * whole_prompt
    assert whole(prompt_time(found(host_hit=0.75), net, TP4, 8000)) == rest


def test_cache_from_the_host_comes_over_its_link_layer_by_layer():
    slow = found(host_hit=0.5, bandwidth=1e9)
    size = float(sequence_cache(JOB, TP4, 4000))
    assert size == pytest.approx(4000 * KV, rel=0.01)
    assert loading_time(slow, TP4, 8000, 0.2) == exposed_kv_transfer(size, 80, 1e9, 0.2) > 0.1
    assert loading_time(replace(JOB, reuse=Reuse(hit=0.5)), TP4, 8000, 0.2) == 0
    ttft = [float(steady(one, TP4, 8000, 200, 8.0).ttft) for one in (slow, found(host_hit=0.5), JOB)]
    assert ttft[1] < ttft[0], "a slow link shows in the TTFT"
    assert ttft[1] < ttft[2]


def test_the_price_is_printed():
    job = found(hit=0.3, prefixes=4, host_hit=0.4, host_memory=200 * 2**30)
    told = deployment(job, TP4, 8000, 300, rate=0.6)
    assert [words for words, _ in told.without] == ["no cache in host memory", "no prefix in the cache"]
    assert all(less.ttft > told.steady.ttft for _, less in told.without)
    text = " ".join(told.caveats)
    assert "4 prefixes of 2400 tokens, 188 MiB each, are kept once" in text
    assert "250 MiB a prompt and accelerator take 4.16 ms over 63.0 GB/s" in text
    requests = 200 * 2**30 / ((8000 * 0.3 + 300) * KV)
    assert requests == pytest.approx(969, rel=0.01) and "of the last 969 requests, 26.9 min of traffic" in text
    busy = deployment(found(host_hit=0.9, bandwidth=1e8), TP4, 8000, 300, rate=0.6)
    assert any("MORE THAN IT CARRIES" in caveat for caveat in busy.caveats)


def test_a_plan_with_found_cache_serves_more():
    wanted = {"cluster": "dgx-h100", "gpus": 8, "isl": 8000, "osl": 200, "rate": "1/s", "kinds": ("aggregated",),
              "objective": "goodput"}
    plain, hits = plan_serve("llama-3.1-70b", **wanted), plan_serve("llama-3.1-70b", host_hit=0.6, **wanted)
    once = plan_serve("llama-3.1-70b", prefix_hit=0.6, prefixes=2, **wanted)
    assert plain.best.goodput < min(hits.best.goodput, once.best.goodput)
    rooms = [{str(c.layout): c.room for c in one.curves} for one in (plain, hits, once)]
    assert rooms[0]["tp4"] == rooms[1]["tp4"] < 0.6 * rooms[2]["tp4"], "host memory holds what waits, not what runs"
    flip = next(flip for flip in hits.flips if flip.change == "no cache in host memory")
    assert flip.goodput < hits.best.goodput
    assert any("come from host memory" in caveat for caveat in hits.caveats)


def test_experts_in_host_memory_are_read_over_its_link():
    moe = serving_job("qwen3-235b-a22b", "h100-pcie", Catalog(), engine="vllm", weights="fp8-block")
    away = replace(moe, host_experts=0.9)
    layout, net = ServingLayout(), network(moe, ServingLayout())
    step, plain = (decode_step(job, net, layout, 1, 600) for job in (away, moe))
    read = 0.9 * 94 * 8 * 3 * 4096 * 1536 * moe.weights.weight
    assert step["offload"] == pytest.approx(read / moe.cluster.accelerator.host_bandwidth)
    assert step["experts"] < plain["experts"] and "offload" not in plain
    assert weights(moe, layout) > 200e9
    assert weights(away, layout) < 40e9
    faster = replace(away, reuse=Reuse(bandwidth=400e9))
    assert decode_step(faster, net, layout, 1, 600)["offload"] == pytest.approx(read / 400e9)
    found = deployment(away, layout, 500, 200, batch=1)
    assert found.steady.binding == "offload" and not found.without, "without it nothing fits"
    with pytest.raises(OutOfRange, match="share from 0 to 1"):
        replace(moe, host_experts=1.5)
    with pytest.raises(OutOfRange, match="no routed experts"):
        replace(JOB, host_experts=0.5)
    with pytest.raises(OutOfRange, match="changes nothing without"):
        replace(JOB, reuse=Reuse(bandwidth=1e9))


@pytest.mark.parametrize("what, words", [
    ({"prefix_hit": 1.0}, "prefix hit of 1 is outside"), ({"prefix_hit": 0.5, "host_hit": 0.5}, "leave nothing"),
    ({"prefixes": 3}, "without --prefix-hit"), ({"host_memory": "1 GiB"}, "without --host-hit")])
def test_bad_input_is_one_sentence(what, words):
    with pytest.raises(OutOfRange, match=words):
        reuse_of(**what)


def test_a_chip_without_a_host_link_in_the_catalog():
    chip = replace(JOB.cluster.accelerator, host_bandwidth=None)
    job = replace(found(host_hit=0.5), cluster=replace(JOB.cluster, accelerator=chip))
    with pytest.raises(MissingField, match="--host-bandwidth"):
        steady(job, TP4, 8000, 200, 8.0)
    assert steady(replace(job, reuse=Reuse(host_hit=0.5, bandwidth=5e10)), TP4, 8000, 200, 8.0).ttft > 0
