"""Techniques on a window of two layers: the rules, the bound, and the best order with its gap."""

import random
from functools import cache

import pytest

from overlap.jobs import shipped
from perfplan.api import schedule_layer, training_job
from perfplan.errors import OutOfRange, UnknownName, Unsupported
from perfplan.overlap.blocks import Block, Recipe, Segment, Sharing, Window, build, frequent
from perfplan.overlap.graph import Graph, Op, lower_bound
from perfplan.overlap.interval_bound import interval_bound
from perfplan.overlap.order_milp import improved
from perfplan.overlap.serving_window import serving_window
from perfplan.overlap.simulate import list_schedule, simulate
from perfplan.overlap.techniques import TECHNIQUES, best, scheduled
from perfplan.overlap.training_window import training_window
from perfplan.serving.deploy import serving_job
from perfplan.serving.layout import ServingLayout
from perfplan.serving.ops import Load, Pricing, layer_times
from perfplan.serving.step import network
from perfplan.training.layout import Layout

SHARES = Sharing()
PLAIN = [name for name, t in TECHNIQUES.items() if not t.changes and not t.ideal]


def serving(model, layout, phase, batch, context, cluster="dgx-h100", engine="trtllm"):
    job = serving_job(model, cluster, shipped(), engine=engine)
    return serving_window(job, ServingLayout.parse(layout), phase, batch, context, SHARES)


def training(model, layout, seq=4096):
    at = Layout.parse(layout)
    job = training_job(model, cluster="dgx-h100", gpus=at.world, global_batch=at.world, seq_len=seq, catalog=shipped())
    return training_window(job, at, SHARES)


def simple(compute=10.0, reduce=4.0, overhead=0.0):
    def price(part):
        product = Segment("product", "gemm", compute * part + overhead, {"sm": 1.0})
        collective = Segment("all-reduce", "all-reduce", reduce * part + overhead, {"scale-up": 1.0}, True)
        out = Segment("out", "gemm", product.time, {"sm": 1.0})
        return tuple(Block(f"block {i}", (product, out), collective) for i in range(4))

    return Window(price, 2, "simple")


def test_closed_forms_on_a_window_without_contention():
    window = simple()  # four blocks of 20 + 4
    times = {name: scheduled(window, name).time for name in TECHNIQUES}
    assert times["blocking"] == pytest.approx(window.sequential) == pytest.approx(96)
    assert times["ladder"] == pytest.approx(80 + 4)  # all but the last reduction hidden
    assert times["parallel"] == pytest.approx(80 + 8)  # one reduction for two blocks
    assert times["fused"] == pytest.approx(4 * (20 + 4 / 16))  # max(product, reduction) and one tile
    assert times["t3"] == times["fused"]
    assert times["two-batch"] == pytest.approx(80 + 2)  # only the last half of a reduction shows
    assert times["async"] == pytest.approx(4 * (20 + 4 / 8))  # the eighth chunk's reduction


def test_chunks_stop_paying_when_calls_cost():
    assert scheduled(simple(overhead=2.0), "async").recipe.chunks < 8
    assert scheduled(simple(overhead=20.0), "async").recipe.chunks == 1


WINDOWS = {
    "decode": lambda: serving("llama-3.1-70b", "tp8", "decode", 64, 1024),
    "prefill": lambda: serving("llama-3.1-70b", "tp8", "prefill", 8, 1024),
    "experts": lambda: serving("deepseek-v3", "tp1 adp16 ep16", "decode", 1024, 2048, engine="sglang"),
    "experts prefill": lambda: serving("deepseek-v3", "tp1 adp16 ep16", "prefill", 32, 4096),
}


@cache
def searched(name):
    """A window, its named techniques, and the best order, with time for all of the search."""
    made = WINDOWS[name]()
    named = [scheduled(made, technique) for technique in PLAIN]
    return made, named, best(made, 600.0, named)


@pytest.mark.parametrize("name", WINDOWS)
def test_the_best_is_never_worse_than_a_named_one_and_near_its_bound(name):
    _, named, found = searched(name)
    assert found.time <= min(s.time for s in named) * (1 + 1e-12)
    assert found.certificate.gap <= 0.05
    assert found.time >= lower_bound(found.graph).time * (1 - 1e-9) and found.time >= found.certificate.bound


def test_the_best_is_the_same_whatever_the_time_limit_that_does_not_cut_it():
    made, named, found = searched("experts")  # where all of the search runs
    again = best(made, 300.0, named)
    assert again.timeline == found.timeline and again.certificate == found.certificate
    assert "time limit" not in found.certificate.method


def test_a_search_that_the_time_limit_cuts_says_so():
    cut = best(serving("deepseek-v3", "tp1 adp16 ep16", "prefill", 32, 4096), 0.01)
    assert "stopped by the time limit after 0.01 s (the answer may differ on another" in cut.certificate.sentence()


def test_a_window_is_the_serving_models_layers():
    job = serving_job("llama-3.1-70b", "dgx-h100", shipped(), engine="trtllm")
    layout = ServingLayout.parse("tp8")
    parts = layer_times(Pricing(job, network(job, layout), Load(64.0, 1024.0), 8, 1, 1), job.model.kinds[0])
    window = serving("llama-3.1-70b", "tp8", "decode", 64, 1024)
    assert window.sequential == pytest.approx(2 * float(sum(parts.values())), rel=1e-6)


def test_a_training_window_has_weight_gradients_that_nobody_waits_for():
    at = Layout.parse("tp8 sp1 dp2 zero1 mbs2")
    job = training_job("llama-3.1-70b", cluster="dgx-h100", gpus=16, global_batch=8, seq_len=4096, catalog=shipped())
    window = training_window(job, at, SHARES)
    graph = build(window, Recipe())
    late = [op.name for op in graph.ops if "wgrad" in op.name]
    assert len(late) == 8 and not any(set(op.after) & set(late) for op in graph.ops)
    assert scheduled(window, "two-batch").time < scheduled(window, "blocking").time


def test_sharded_weights_are_gathered_ahead_and_reduced_behind():
    job = training_job("llama-3-8b", cluster="dgx-h100", gpus=64, global_batch=64, seq_len=4096, catalog=shipped())
    window = training_window(job, Layout.parse("dp64 zero3"), SHARES)
    graph = build(window, Recipe())
    kinds = [op.kind for op in graph.ops]
    assert (kinds.count("all-gather"), kinds.count("reduce-scatter")) == (4, 2)
    apart = build(window, Recipe(prefetch=0))
    name = "layer 1 attention: gather"
    assert not set(graph[name].after) and apart[name].after  # ahead: as soon as the window begins
    halves = build(window, Recipe(parts=(0.5, 0.5)))
    assert sum(op.kind == "all-gather" for op in halves.ops) == 4  # one gather for both halves
    times = {name: scheduled(window, name).time for name in ("blocking", "fsdp")}
    assert times["fsdp"] < 0.9 * times["blocking"]
    whole = training_window(job, Layout.parse("dp64 zero1"), SHARES)
    assert not any("gather" in op.name for op in build(whole, Recipe()).ops)


def test_the_milp_finds_the_order_that_list_scheduling_misses():
    ops = [  # the long chain's start looks less urgent than it is, because the link is shared
        Op("a", 2.0, {"sm": 1.0}), Op("send a", 6.0, {"scale-up": 1.0}, ("a",)),
        Op("b", 3.0, {"sm": 1.0}), Op("send b", 4.5, {"scale-up": 1.0}, ("b",)), Op("c", 0.4, {"sm": 1.0}, ("send b",)),
        Op("d", 5.0, {"sm": 1.0}),
    ]
    graph = Graph.of(ops)
    found = improved(graph, 5.0)
    assert lower_bound(graph).time <= found.time <= list_schedule(graph).time
    assert found.time == pytest.approx(12.5 + 0.4)


def test_what_cannot_be_scheduled_is_told():
    with pytest.raises(UnknownName, match="no technique 'lader'; did you mean ladder"):
        scheduled(simple(), "lader")
    with pytest.raises(OutOfRange, match="phase 'decoding' is unknown; did you mean decode"):
        schedule_layer("llama-3.1-70b", cluster="dgx-h100", layout="tp8", phase="decoding", batch=1, context=1)


# ---------------------------------------------------------------- experts
def exchanged(dispatch, experts, combine, call=0.0):
    def price(part):
        def link(name, time, resource="scale-out"):
            return Segment(name, "all-to-all", call + time * part, {resource: 1.0}, True)

        chain = (Segment("router", "gemm", 0.0, {"sm": 1.0}), link("dispatch", dispatch),
                 Segment("experts", "gemm", call + experts * part, {"sm": 1.0}), link("combine", combine))
        return (Block("experts", chain),)

    return Window(price, 1, "experts")


def test_chunks_of_experts_follow_each_other_over_link_and_arithmetic():
    graph = build(exchanged(4.0, 8.0, 2.0), Recipe(pieces=4))
    assert simulate(graph, {}).time == pytest.approx(1.0 + 8.0 + 0.5)  # experts without a gap
    assert scheduled(exchanged(4.0, 8.0, 2.0), "fsmoe").time == pytest.approx(0.5 + 8.0 + 0.25)  # 8 chunks
    assert scheduled(exchanged(4.0, 8.0, 2.0, call=9.0), "fsmoe").recipe.pieces == 1


def test_fsmoe_on_its_published_layer_is_no_slower_than_its_formula():
    slots, hidden, inner = 2.4 * 4 * 1024, 4096, 14336  # ms; 32 GPUs, es 8
    a2a, gather = (0.23515350484, 1.8543323833e-06 * slots * hidden / 8), (0.0549, 6.72388e-07 * slots * hidden)
    scatter = (0.0688, 6.70433e-07 * slots * hidden)
    work = (0.591943532, 5.6847387697e-11 * slots * hidden * inner * 3 / 8)

    def price(part):
        def link(name, cost, resource):
            return Segment(name, "all-to-all", cost[0] + cost[1] * part, {resource: 1.0}, True)

        experts = Segment("experts", "gemm", work[0] + work[1] * part, {"sm": 1.0})
        return (Block("experts", (link("dispatch", a2a, "scale-out"), link("gather", gather, "scale-up"), experts,
                                  link("scatter", scatter, "scale-up"), link("combine", a2a, "scale-out"))),)

    window = Window(price, 1, "FSMoE")
    found = scheduled(window, "fsmoe")
    whole = scheduled(window, "blocking")
    assert whole.time == pytest.approx(86.23, abs=0.01) and found.recipe.pieces == 8
    assert found.certificate.bound <= found.time <= 57.86 * 1.001


def test_tiles_fuse_both_products_of_the_experts_with_their_exchanges():
    window = exchanged(4.0, 6.0, 3.0)  # first product 4, second 2
    assert scheduled(window, "fused").time == pytest.approx(4.25 + 0.125 + 2.8125 + 0.1875)
    assert scheduled(window, "async").time == pytest.approx(13.0)


def test_weight_gradients_of_experts_wait_for_the_gradients_that_they_need():
    graph = build(training("deepseek-v3", "ep64 dp64 mbs1"), Recipe())
    assert graph["layer 1 experts backward: experts wgrad"].after == (
        "layer 1 experts backward: gradient of combine",)
    held = build(training("deepseek-v3", "ep64 dp64 mbs1"), Recipe(joined=True))
    waiting = [op for op in held.ops if "layer 1 experts backward: experts wgrad" in op.after]
    assert [op.name for op in waiting] == ["layer 1 experts backward: gradient of dispatch"]
    assert sum(op.duration for op in held.ops) == pytest.approx(sum(op.duration for op in graph.ops))
    times = {name: scheduled(training("deepseek-v3", "ep64 dp64 mbs1"), name).time
             for name in ("blocking", "shared-expert", "delayed-wgrad", "fsmoe", "two-batch")}
    assert times["blocking"] > times["shared-expert"] > times["delayed-wgrad"] > times["two-batch"]
    assert times["fsmoe"] < times["shared-expert"]


def test_slices_of_experts_use_the_links_inside_while_the_network_exchanges():
    graph = build(training("mixtral-8x7b", "ep8 etp8 dp64"), Recipe())
    assert "scale-up" not in graph["layer 0 experts: dispatch"].shares
    assert "scale-out" not in graph["layer 0 experts: gather of slices"].shares


# ---------------------------------------------------------------- other layers
@pytest.mark.parametrize(("kind", "sends"), [("", 2 * 6), (" cp=allgather", 2 * 3), (" cp=a2a", 2 * 4)])
def test_context_parallel_exchanges_of_two_layers(kind, sends):
    window = training("llama-3.1-70b", f"tp2 sp1 cp4{kind}", 32768)
    graph = build(window, Recipe())
    others = [op for op in graph.ops if "scale-up" in op.shares and "reduce-scatter and gather" not in op.name]
    assert len(others) == sends
    assert scheduled(window, "blocking").time == pytest.approx(window.sequential)
    assert scheduled(window, "async").time < scheduled(window, "blocking").time


def test_a_ring_sends_behind_the_attention_of_the_part_before():
    graph = build(training("llama-3.1-70b", "tp2 sp1 cp4", 32768), Recipe())
    where = "layer 0 attention: "
    assert graph[where + "attention 3/4"].after == (where + "attention 2/4", where + "send of keys and values 2/3")
    assert graph[where + "send of keys and values 2/3"].after == (where + "send of keys and values 1/3",)


@pytest.mark.parametrize(("model", "layout", "names"), [
    ("nemotron-h-8b", "tp2", ["layer 0 mlp", "layer 1 attention"]),
    ("falcon-40b", "tp8", ["layer 0 parallel block", "layer 1 parallel block"]),
    ("qwen3-next-80b-a3b", "tp1 adp8 ep8", [f"layer {n} {b}" for n in (0, 1) for b in ("attention", "experts")]),
])
def test_layers_with_a_state_single_blocks_and_parallel_blocks(model, layout, names):
    for phase in ("decode", "prefill"):
        window = serving(model, layout, phase, 64, 1024)
        assert [block.name for block in window.blocks()] == names
        job, place = serving_job(model, "dgx-h100", shipped(), engine="trtllm"), ServingLayout.parse(layout)
        load = Load(64 / place.adp, 1024.0) if phase == "decode" else Load(prompt=64 / place.adp * 1024, length=1024.0)
        pricing = Pricing(job, network(job, place), load, place.tp, place.adp, place.ep)
        run = [job.model.kinds[i] for i in frequent(job.model.layers, 2)]
        parts = sum(float(time) for kind in run for time in layer_times(pricing, kind).values())
        assert window.sequential == pytest.approx(parts, rel=1e-6)
        assert scheduled(window, "blocking").time == pytest.approx(window.sequential)


@pytest.mark.parametrize(("model", "layout"), [("nemotron-h-8b", "tp2 dp4"), ("falcon-40b", "tp8 sp1"),
                                               ("qwen3-next-80b-a3b", "ep8 dp8")])
def test_training_windows_of_hybrids_and_parallel_blocks(model, layout):
    window = training(model, layout)
    assert scheduled(window, "blocking").time == pytest.approx(window.sequential)
    assert scheduled(window, "two-batch").time < 1.2 * window.sequential


def test_layers_with_a_state_do_not_share_a_sequence():
    with pytest.raises(Unsupported, match="give a layout with cp1"):
        training("nemotron-h-8b", "cp2", 8192)


def test_layers_that_are_recomputed():
    plain, again = (training("llama-3.1-70b", f"tp8 sp1 rc={rc}") for rc in ("none", "core_attn"))
    assert again.sequential > plain.sequential
    with pytest.raises(Unsupported, match="recomputed whole; give a layout with rc=none"):
        training("llama-3.1-70b", "tp8 sp1 rc=full")


# ---------------------------------------------------------------- bounds
def test_what_a_chain_leaves_bounds_every_schedule():
    draws = random.Random(3)
    shares = {"gemm": {"sm": 1.0}, "send": {"scale-up": 1.0, "sm": 0.2}, "read": {"sm": 0.5, "hbm": 0.9}}
    for _ in range(60):
        ops = [Op(f"o{i}", draws.choice((0.0, 1.0, 2.0, 3.5)), shares[kind],
                  tuple(f"o{j}" for j in draws.sample(range(i), min(i, draws.randint(0, 2)))), kind=kind)
               for i, kind in enumerate(draws.choices(list(shares), k=draws.randint(3, 10)))]
        graph = Graph.of(ops)
        bound = interval_bound(graph, graph.index, 10.0) if graph.critical_path else None
        if bound is None:
            continue
        assert bound.time >= graph.critical_path * (1 - 1e-5)
        times = [list_schedule(graph, {op.name: draws.random() for op in ops}, draws.choice((1.0, 1.2, 2.0)),
                               kept=draws.choice(((), ("send",)))).time for _ in range(20)]
        assert bound.time <= min(*times, simulate(graph, {}).time)


def test_a_chain_that_others_slow_down_bounds_uneven_halves_better_than_loads():
    window = serving("deepseek-v3", "tp1 adp16 ep16", "prefill", 32, 4096)
    graph = build(window, Recipe(parts=(0.3125, 0.6875)))
    bound = interval_bound(graph, {op.name for op in graph.ops if op.micro == 1}, 60.0)
    assert lower_bound(graph).time * 1.05 < bound.time <= list_schedule(graph, room=1.2).time


def test_a_chunk_of_a_prompt_beside_decodes():
    job = serving_job("llama-3.1-70b", "dgx-h100", shipped(), engine="trtllm")
    place = ServingLayout.parse("tp8")
    mixed = serving_window(job, place, "mixed", 128, 4096, SHARES, prompt=1024)
    load = Load(128.0, 4096.0, 1024.0, 1024.0)
    parts = layer_times(Pricing(job, network(job, place), load, 8, 1, 1), job.model.kinds[0])
    assert mixed.sequential == pytest.approx(2 * float(sum(parts.values())), rel=1e-6)
    alone = serving_window(job, place, "decode", 128, 4096, SHARES).sequential
    assert alone < mixed.sequential < alone + serving("llama-3.1-70b", "tp8", "prefill", 1, 1024).sequential
    assert mixed.caveats[1].startswith("in steps of their own")
    assert scheduled(mixed, "nanoflow").time < mixed.sequential  # attention of decodes beside products
    with pytest.raises(OutOfRange, match="give --prompt"):
        serving_window(job, place, "mixed", 128, 4096, SHARES)
    with pytest.raises(OutOfRange, match="give --phase mixed"):
        serving_window(job, place, "decode", 128, 4096, SHARES, prompt=12)


def test_published_names_stand_for_their_technique():
    found = schedule_layer("llama-3.1-70b", cluster="dgx-h100", layout="tp8", phase="decode", batch=8, context=64,
                           technique=("flux", "comet", "tbo"), catalog=shipped())
    assert [row.technique.name for row in found.rows] == ["fused", "two-batch"]
