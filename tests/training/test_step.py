"""The step of one layout: parts that add up, trivial cases that cost nothing, directions that cannot be wrong."""

import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perfplan.errors import BadLayout, Indivisible, SpecError, Unsupported
from perfplan.training.estimate import broken_rules, estimate, model_flops
from perfplan.training.layout import Layout
from perfplan.training.plan import scaled
from perfplan.training.search import search
from perfplan.training.space import declare, restrict

from .jobs import COMMUNICATION, GIB, JOBS, job, lawful

few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def cost(mine, text):
    return estimate(mine, Layout.parse(text))


# ---------------------------------------------------------------- sums and trivial cases
@few
@given(lawful())
def test_parts_add_up_and_are_finite(drawn):
    e = estimate(*drawn)
    assert sum(e.breakdown.values()) == pytest.approx(e.step_time, rel=1e-12)
    assert sum(e.memory.values()) == e.memory_total
    assert all(math.isfinite(part) and part >= 0 for part in (*e.breakdown.values(), *e.memory.values()))
    assert e.step_time > 0 and 0 < e.mfu < 1
    assert e.fits == (e.memory_total <= e.job.cluster.accelerator.memory)


@pytest.mark.parametrize("name", JOBS)
def test_one_rank_costs_exactly_no_communication(name):
    e = estimate(replace(JOBS[name](), gpus=1), Layout())
    assert [e.breakdown[part] for part in COMMUNICATION] == [0.0] * len(COMMUNICATION)
    assert e.breakdown["bubble"] == 0 and e.breakdown["recompute"] == 0


@few
@given(lawful())
def test_an_axis_of_one_rank_costs_nothing(drawn):
    mine, layout = drawn
    e = estimate(mine, layout)
    for axis, parts in {"tp": ("tp",), "cp": ("cp",), "pp": ("pp", "bubble")}.items():
        if getattr(layout, axis) == 1:
            assert [e.breakdown[part] for part in parts] == [0.0] * len(parts)
    if layout.ep * layout.etp == 1:
        assert e.breakdown["ep"] == 0
    if layout.recompute == ():
        assert e.breakdown["recompute"] == 0 and e.memory["recompute buffer"] == 0
    if layout.shard_weights == 1 and layout.shard_gradients == 1:
        assert e.breakdown["sharding"] == 0 and e.memory["gathered weights"] == 0


# ---------------------------------------------------------------- directions
# Directions of compute are asserted where nothing may hide behind it: with the shipped overlaps one second of compute
# hides communication of several axes at once, so faster compute can expose more than it saves.
NOTHING_HIDES = dict.fromkeys(("tp", "cp", "dp", "fsdp", "pp", "ep"), 0.0)


def is_no_slower(mine, better, layout):
    bare, bare_better = (replace(each, overlap=NOTHING_HIDES) for each in (mine, better))
    assert estimate(bare_better, layout).step_time <= estimate(bare, layout).step_time * (1 + 1e-12)


@few
@given(lawful(), st.sampled_from(["peak FLOP/s", "memory bandwidth"]), st.floats(1.0, 8.0))
def test_faster_arithmetic_and_memory_never_slow_a_step(drawn, number, factor):
    mine, layout = drawn
    is_no_slower(mine, replace(mine, cluster=scaled(mine.cluster, {number: factor})), layout)


@few
@given(lawful(), st.floats(1.0, 8.0))
def test_faster_links_never_slow_a_step(drawn, factor):
    mine, layout = drawn
    links = {"fast-domain bandwidth": factor, "network bandwidth": factor}
    better = replace(mine, cluster=scaled(mine.cluster, links))
    is_no_slower(mine, better, layout)
    assert estimate(better, layout).step_time <= estimate(mine, layout).step_time * (1 + 1e-12)


@few
@given(lawful(), st.floats(0.1, 1.0))
def test_lower_latency_never_slows_a_step(drawn, factor):
    mine, layout = drawn
    is_no_slower(
        mine, replace(mine, cluster=scaled(mine.cluster, {"latencies": factor, "kernel overheads": factor})), layout
    )


@few
@given(lawful(("experts", "latent")), st.floats(1.0, 3.0), st.floats(1.0, 3.0))
def test_more_skew_is_slower_and_larger(drawn, one, other):
    mine, layout = drawn
    even, skewed = (replace(mine, routing_skew=skew) for skew in sorted((one, other)))
    is_no_slower(skewed, even, layout)
    assert estimate(even, layout).memory_total <= estimate(skewed, layout).memory_total


def test_skew_means_nothing_without_experts():
    assert cost(replace(job(), routing_skew=3.0), "tp2 sp1 dp8").step_time == cost(job(), "tp2 sp1 dp8").step_time


@few
@given(lawful())
def test_recompute_costs_time_and_saves_activations(drawn):
    mine, layout = drawn
    mine = replace(mine, overlap=NOTHING_HIDES)
    none, selective, full = (estimate(mine, replace(layout, recompute=r)) for r in ((), ("core_attn",), ("full",)))
    assert none.breakdown["recompute"] == 0 <= selective.breakdown["recompute"] <= full.breakdown["recompute"]
    assert none.step_time <= selective.step_time * (1 + 1e-12) <= full.step_time * (1 + 2e-12)
    assert full.memory["activations"] < none.memory["activations"]
    assert selective.memory["activations"] <= none.memory["activations"]


@pytest.mark.parametrize("module", ["mlp", "layernorm", "core_attn"])
def test_each_module_can_be_recomputed(module):
    none, one = cost(job(), "dp16 zero1"), cost(job(), f"dp16 zero1 rc={module}")
    assert one.memory["activations"] < none.memory["activations"] and one.breakdown["recompute"] > 0


@few
@given(lawful())
def test_wider_shards_hold_less_state(drawn):
    mine, layout = drawn
    plain = replace(layout, shard_weights=1, shard_gradients=1, shard_optimizer=1)
    zero1 = replace(plain, shard_optimizer=0)
    some, none = estimate(mine, zero1), estimate(mine, plain)
    assert some.memory["optimizer"] <= none.memory["optimizer"]
    assert some.memory_total <= none.memory_total
    if layout.pp == 1:
        zero2 = estimate(mine, replace(zero1, shard_gradients=0))
        zero3 = estimate(mine, replace(zero1, shard_gradients=0, shard_weights=0))
        assert zero3.memory["weights"] <= zero2.memory["weights"] == some.memory["weights"]
        assert zero3.memory["gradients"] == zero2.memory["gradients"] <= some.memory["gradients"]


def test_sequence_parallelism_cuts_activations():
    with_sp, without = cost(job(), "tp4 sp1 dp4 zero1"), cost(job(), "tp4 dp4 zero1")
    assert with_sp.memory["activations"] < without.memory["activations"]
    assert with_sp.memory["weights"] == without.memory["weights"]


def test_context_parallelism_divides_activations_and_widens_the_shards():
    whole, half = cost(job(), "dp8 zero1"), cost(job(), "cp2 dp8 zero1")
    assert half.memory["activations"] == pytest.approx(whole.memory["activations"] / 2, rel=1e-3)
    assert half.memory["optimizer"] == pytest.approx(whole.memory["optimizer"] / 2)


def test_interleaving_shrinks_the_bubble_and_grows_the_activations():
    steps = [cost(job(batch=64), f"tp2 sp1 pp4 vpp{v} dp2 zero1") for v in (1, 2, 4, 8)]
    bubbles = [e.breakdown["bubble"] for e in steps]
    assert bubbles == sorted(bubbles, reverse=True) and bubbles[-1] < bubbles[0] / 2
    assert steps[1].memory["activations"] > steps[0].memory["activations"]


def test_an_even_pipeline_has_the_published_bubble():
    """(p-1)/(v m) of the ideal time with equal stages: no embedding or head to speak of."""
    mine = job(batch=64)
    small = replace(mine, model=replace(mine.model, vocab=8))
    for v in (1, 2, 4):
        e = cost(small, f"pp4 vpp{v} dp4 zero1")
        ideal = sum(e.breakdown[part] for part in ("forward", "backward", "host"))
        assert e.breakdown["bubble"] == pytest.approx(ideal * 3 / (v * 16), rel=0.02)


def test_more_micro_batches_take_proportionally_longer():
    one, two = cost(job(batch=32), "tp2 sp1 dp8 zero1"), cost(job(batch=64), "tp2 sp1 dp8 zero1")
    assert two.breakdown["forward"] == pytest.approx(2 * one.breakdown["forward"])
    assert two.breakdown["optimizer"] == one.breakdown["optimizer"]
    assert two.breakdown["dp"] == one.breakdown["dp"]


# ---------------------------------------------------------------- numbers known from elsewhere
def test_llama_3_8b_state_is_18_bytes_per_parameter():
    """134.62 GiB on one rank in bf16 with fp32 gradients (8 030 261 248 parameters); final norm left out: 0.01 %."""
    e = estimate(job(gpus=1, batch=1, seq=8192), Layout())
    state = e.memory["weights"] + e.memory["gradients"] + e.memory["optimizer"]
    assert state / GIB == pytest.approx(134.62, rel=1e-4)
    assert not e.fits


def test_llama_3_8b_state_under_zero1_over_eight():
    e = cost(job(gpus=8, batch=8, seq=8192), "dp8 zero1")
    state = e.memory["weights"] + e.memory["gradients"] + e.memory["optimizer"]
    assert state / GIB == pytest.approx(56.09, rel=1e-4)


def test_llama_3_8b_activations_and_logits():
    """34.0 GiB for 32 layers at 8192 tokens (139 264 + 128 B per token and layer); 1 % for input of embedding and head.
    The loss holds the bf16 logits and their fp32 copy, 3.91 GiB: 3/2 of the copy."""
    e = estimate(job(gpus=1, batch=1, seq=8192), Layout())
    assert e.memory["activations"] / GIB == pytest.approx(34.0, rel=0.01)
    assert e.memory["logits"] / GIB == pytest.approx(3.91 * 1.5, rel=0.01)


def test_llama_3_8b_flops_per_token():
    """51.47 GFLOP per token, causal, logits included."""
    mine = job(gpus=1, batch=1, seq=8192)
    assert model_flops(mine) / 8192 / 1e9 == pytest.approx(51.47, rel=2e-3)


def test_full_recompute_keeps_the_input_of_each_layer():
    """2 s b h a layer, and one layer in flight."""
    e = cost(job(gpus=1, batch=1, seq=8192), "rc=full")
    assert e.memory["activations"] == pytest.approx(32 * 2 * 8192 * 4096, rel=0.1)
    assert e.memory["recompute buffer"] == pytest.approx(34.0 / 32 * GIB, rel=0.1)


def test_first_stage_of_an_interleaved_pipeline_holds_more():
    """Korthikanti 2022: L (1 + (p-1)/(p v)) layers' worth on the first rank, L under 1F1B."""
    mine = job("gpt3-175b", "dgx-a100", 64, 64, 2048)
    plain, woven = cost(mine, "tp8 sp1 pp8 zero1"), cost(mine, "tp8 sp1 pp8 vpp3 zero1")
    assert woven.memory["activations"] / plain.memory["activations"] == pytest.approx(1 + 7 / 24, rel=0.01)


def test_experts_and_the_rest_of_deepseek_v3_shard_over_groups_of_their_own():
    """61 layers, 58 of them with 256 experts of 3 x 7168 x 2048 parameters: 653.9e9 routed of 671.0e9 in all."""
    mine = job("deepseek-v3", "gb200-nvl72", 64, 64, 4096, "bf16", mtp=0)
    experts = 58 * 256 * 3 * 7168 * 2048
    dense = 671.03e9 - experts
    whole = cost(mine, "dp64 ep64 zero0").memory
    assert whole["weights"] == pytest.approx(2 * (dense + experts / 64), rel=2e-3)
    assert whole["gradients"] == pytest.approx(4 * (dense + experts / 64), rel=2e-3)
    shared = cost(mine, "dp64 ep16 zero1").memory
    assert shared["weights"] == pytest.approx(2 * (dense + experts / 16), rel=2e-3)
    assert shared["optimizer"] == pytest.approx(12 * (dense / 64 + experts / 16 / 4), rel=2e-3)
    halved = cost(mine, "dp64 ep16 etp4 zero1").memory
    assert halved["optimizer"] == pytest.approx(12 * (dense / 64 + experts / 64), rel=2e-3)


# ---------------------------------------------------------------- refusals
def test_a_dtype_that_the_chip_lacks_is_one_sentence():
    with pytest.raises(Unsupported, match="tpu-v5p does not have") as caught:
        job("llama-3-70b", "tpu-v5p-pod", 256, 512, 8192, "fp8")
    assert "\n" not in str(caught.value) and str(caught.value).count(". ") == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tp3", "tp=3 does not divide"),
        ("tp64", "tp=64 does not divide the 32 attention heads"),
        ("dp32", "more than the 16 accelerators"),
        ("dp5", "not a multiple of mbs*dp"),
        ("sp1", "needs tp > 1"),
        ("vpp2", "vpp > 1 needs pp > 1"),
        ("pp16 vpp4", "do not fill"),
        ("ep2 dp2", "experts"),
        ("etp2 tp2", "expert width"),
        ("cp=a2a", "need cp > 1"),
        ("pp2 dp2 zero3", "use zero1"),
        ("dp8 hsdp3", "sharding width"),
        ("pp4 vpp2 dp4 mbs4", "multiple of pp=4"),
    ],
)
def test_a_layout_that_cannot_run_is_told_why(text, said):
    with pytest.raises(Indivisible) as caught:
        cost(job(), text)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "hsdp99999999999999999999",
        "w1-g1-o9999999999",
        "tp1048576",
        "mbs1048576",
    ],
)
def test_absurd_degrees_are_refused_by_the_search_too(text):
    try:
        mine = job()
        assert search(mine, restrict(declare(mine), fix=text)).feasible == 0
    except BadLayout as refused:
        assert "\n" not in str(refused)


def test_context_parallelism_needs_a_sequence_that_splits():
    assert broken_rules(job(seq=4098), Layout.parse("cp4 dp4"))
    assert broken_rules(JOBS["hybrid"](), Layout.parse("cp2 dp4"))


@pytest.mark.parametrize(
    "more", [{"gpus": 0}, {"batch": 0}, {"seq": -1}, {"gpus": 1 << 21}, {"routing_skew": 0.5}, {"attention": "linear"}]
)
def test_absurd_jobs_are_refused(more):
    with pytest.raises(SpecError):
        job(**more)
