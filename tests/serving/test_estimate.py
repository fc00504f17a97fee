"""What a deployment delivers: identities, limits and orders that hold whatever the constants are."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfplan.catalog import Catalog
from perfplan.errors import Infeasible, OutOfRange
from perfplan.serving.deploy import deployment, serving_job
from perfplan.serving.estimate import at_rate, saturated, static_batch, steady
from perfplan.serving.layout import ServingLayout
from perfplan.serving.step import Load, decode_step, network, padded, prompt_step, step_parts, whole

CATALOG = Catalog()


def job(model="llama-3.1-8b", cluster="dgx-h100", **more):
    return serving_job(model, cluster, CATALOG, **{"engine": "trtllm", "weights": "bf16", **more})


def test_columns_agree_with_numbers():
    j, layout = job("qwen3-30b-a3b"), ServingLayout(tp=4, ep=4)
    net, batch, context = network(j, layout), np.array([1.0, 16.0, 200.0]), np.array([128.0, 4096.0, 1000.0])
    together = whole(decode_step(j, net, layout, batch, context))
    single = [whole(decode_step(j, net, layout, b, c)) for b, c in zip(batch, context, strict=True)]
    np.testing.assert_allclose(together, single)
    np.testing.assert_allclose(whole(prompt_step(j, net, layout, batch * 10, batch)),
                               [whole(prompt_step(j, net, layout, b * 10, b)) for b in batch])


def test_decode_is_never_faster_than_its_weights_and_cache():
    j, layout = job("llama-3.1-70b"), ServingLayout(tp=4)
    chip = j.cluster.accelerator
    read = 2 * 69.5e9 / 4 + 64 * 4096 * 80 * 2 * 2 * 128 * 2
    assert whole(decode_step(j, network(j, layout), layout, 64, 4096)) > read / chip.memory_bandwidth


def test_more_work_takes_longer():
    j, layout = job(), ServingLayout()
    net = network(j, layout)
    for loads in ([(1, 100), (8, 100), (64, 100)], [(8, 100), (8, 10_000), (8, 100_000)]):
        times = [whole(decode_step(j, net, layout, *load)) for load in loads]
        assert times == sorted(times)


def test_a_mixture_reads_the_experts_that_its_tokens_touch():
    j, layout = job("qwen3-235b-a22b", weights="fp8-block"), ServingLayout(tp=8, ep=8)
    net = network(j, layout)
    few, many = (step_parts(j, net, layout, Load(n, 1000))["experts"] for n in (1, 256))
    assert 3 < many / few < 20, "8 of 128 experts for one token, nearly all for 256"


def test_the_breakdown_adds_up():
    found = deployment(job(), ServingLayout(tp=2), 1000, 200, concurrency=32)
    latency = float(found.steady.ttft) + 199 * float(found.steady.tpot)
    assert sum(found.request.values()) == pytest.approx(latency)


@settings(deadline=None, max_examples=30)
@given(engine=st.sampled_from(["trtllm", "vllm", "sglang"]), users=st.floats(1, 4000), isl=st.integers(1, 20_000),
       osl=st.integers(1, 4000), dp=st.integers(1, 3), adp=st.sampled_from([1, 4]), imbalance=st.floats(1, 2),
       acceptance=st.floats(0, 0.9), drafts=st.integers(0, 3))
def test_little_s_law_holds_in_closed_loops(engine, users, isl, osl, dp, adp, imbalance, acceptance, drafts):
    layout = ServingLayout(tp=8 // adp, adp=adp, ep=8, dp=dp)
    j = replace(job("qwen3-235b-a22b", engine=engine, weights="fp8-block"), imbalance=imbalance, acceptance=acceptance,
                drafts=drafts)
    found = steady(j, layout, isl, osl, users)
    assert found.rate * (found.ttft + (osl - 1) * found.tpot) == pytest.approx(users, rel=1e-9)
    assert found.tokens_per_s == pytest.approx(found.rate * osl)


def test_a_queue_at_the_door_hides_the_server_and_the_wait_for_a_prompt():
    queue, loop = (steady(job(), ServingLayout(), 1000, 200, 64.0, queued=queued) for queued in (True, False))
    assert loop.rate < queue.rate < 1.2 * loop.rate
    assert (queue.ttft, queue.tpot) == (loop.ttft, loop.tpot)


def test_the_step_ahead_carries_no_more_prompts_than_its_budget():
    j = job()
    found = {isl: steady(j, ServingLayout(), isl, 200, 64.0) for isl in (100, 1000, 16_384)}
    ahead = {isl: one.waits["ahead"] / whole(one.prompt) for isl, one in found.items()}
    assert ahead[16_384] == pytest.approx(1)
    assert 1 < ahead[1000] < ahead[100] <= j.engine.token_budget / 100


def test_throughput_grows_and_latency_too():
    found = [steady(job(), ServingLayout(), 1000, 200, float(n)) for n in (1, 4, 16, 64)]
    assert [f.tokens_per_s for f in found] == sorted(f.tokens_per_s for f in found)
    assert [f.tpot for f in found] == sorted(f.tpot for f in found)


def test_the_cache_limits_what_is_in_flight():
    j, layout = job("llama-3.1-70b", weights="fp8"), ServingLayout()
    found = steady(j, layout, 2000, 500, 500.0)
    assert found.in_flight < 100
    assert found.binding == "cache memory"
    assert found.ttft > 1, "the others queue"


def test_a_request_that_does_not_fit():
    with pytest.raises(Infeasible, match="does not hold one request"):
        saturated(job("llama-3.1-70b"), ServingLayout(), 1000, 100)


def test_open_loop():
    j, layout = job(), ServingLayout()
    slow, fast = (at_rate(j, layout, 1000, 200, rate) for rate in (0.5, 5.0))
    assert slow.ttft < fast.ttft and slow.tpot < fast.tpot
    with pytest.raises(Infeasible, match="saturates"):
        at_rate(j, layout, 1000, 200, 1e4)


def test_a_static_batch_pays_its_prompts_first():
    found = static_batch(job(), ServingLayout(), 128, 128, 64)
    latency = 64 / found.rate
    assert found.ttft < latency
    assert found.tokens_per_s == pytest.approx(64 * 128 / latency)


def test_speculation_pays_if_drafts_are_accepted():
    plain, good, bad = (job(drafts=n, acceptance=a) for n, a in ((0, 0.0), (1, 0.9), (1, 0.0)))
    tpot = [float(steady(j, ServingLayout(), 100, 500, 1.0).tpot) for j in (plain, good, bad)]
    assert tpot[1] < tpot[0] < tpot[2]


def test_pipelines_add_stages_but_keep_the_batch_small():
    j = job("llama-3.1-70b")
    one, two = (float(steady(j, ServingLayout(tp=4, pp=n), 100, 100, 1.0).tpot) for n in (1, 2))
    assert two > one, "a single request goes through all stages"


def test_graphs_pad_batches():
    j = job(engine="vllm")
    assert padded(j, 3.0) == 4 and padded(j, 17.0) == 24 and padded(j, 1000.0) == 1000.0


def test_bad_loads():
    with pytest.raises(OutOfRange, match="one of"):
        deployment(job(), ServingLayout(), 100, 100, concurrency=1, batch=1)
    with pytest.raises(OutOfRange, match="concurrency"):
        deployment(job(), ServingLayout(), 100, 100, concurrency=0)
    with pytest.raises(OutOfRange, match="context"):
        deployment(job(), ServingLayout(), 10**7, 100, concurrency=1)


def test_what_each_assumption_costs_is_priced_by_going_without_it():
    plain = job("qwen3-30b-a3b", engine="vllm")
    skewed = job("qwen3-30b-a3b", engine="vllm", routing_skew=2.0, drafts=2, acceptance=0.6)
    layout = ServingLayout(tp=2, adp=2, ep=4)
    found = deployment(skewed, layout, 4000, 200, concurrency=64)
    less = dict(found.without)
    assert set(less) == {"experts loaded evenly", "no draft tokens"}
    assert less["experts loaded evenly"].rate > found.steady.rate > 0
    assert less["no draft tokens"].tpot > found.steady.tpot
    assert not deployment(plain, layout, 4000, 200, concurrency=64).without
    together = replace(layout, ep=1)
    same = deployment(skewed, together, 4000, 200, concurrency=64)
    assert dict(same.without)["experts loaded evenly"].rate == same.steady.rate, "every rank has a share of all"


def test_wide_accumulators_power_and_unpacking_only_slow_prompts_down():
    j, layout = job("llama-3.1-8b", "pcie-box", engine="llama_cpp", weights="q4_k_m"), ServingLayout()
    net = network(j, layout)

    def prompt(**changes):
        return whole(prompt_step(replace(j, engine=replace(j.engine, **changes)), net, layout, 512.0, 512.0))

    assert prompt(narrow=False) > prompt(), "consumer chips accumulate in 32 bits at half the rate"
    assert prompt(per_watt=1e11) > prompt() > prompt(unpack=0)
    assert prompt(per_watt=0.0) <= prompt()
    alone = [whole(decode_step(replace(j, engine=replace(j.engine, per_watt=x, unpack=y)), net, layout, 1.0, 100.0))
             for x, y in ((0.0, 0), (1e11, 32))]
    assert alone[0] == pytest.approx(alone[1]), "a decode waits for memory"


def test_narrow_products_and_caches_have_their_own_share_of_the_isolated_rate():
    layout = ServingLayout()

    def ratio(weights, load, part, **changed):
        j = job(weights=weights)
        slow = replace(j, engine=replace(j.engine, **{name: value * getattr(j.engine, name)
                                                      for name, value in changed.items()}))
        plain, other = (step_parts(one, network(one, layout), layout, load)[part] for one in (j, slow))
        return other / plain

    prompt, decode = Load(prompt=8192, length=8192), Load(64, 16384)
    assert ratio("fp8", prompt, "projections", quantised=0.5) == pytest.approx(2, rel=0.05)
    assert ratio("bf16", prompt, "projections", quantised=0.5) == 1
    assert ratio("bf16", decode, "attention", cached=0.5) == pytest.approx(2, rel=0.05)
    assert ratio("bf16", decode, "projections", cached=0.5) == 1


@pytest.mark.parametrize("users", [1, 16, 256])
def test_prompts_alone_are_served_no_faster_than_computed(users):
    found = steady(job(engine="vllm"), ServingLayout(), 1024, 1, users)
    assert found.rate * whole(found.prompt) <= 1 + 1e-9
