"""Techniques on a window of two layers: the rules, the bound, and the best order with its gap."""

import pytest

from overlap.jobs import shipped
from perfplan.api import schedule_layer, training_job
from perfplan.errors import OutOfRange, UnknownName
from perfplan.overlap.blocks import Block, Recipe, Segment, Sharing, Window, build
from perfplan.overlap.graph import Graph, Op, lower_bound
from perfplan.overlap.order_milp import improved
from perfplan.overlap.serving_window import serving_window
from perfplan.overlap.simulate import list_schedule
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


WINDOWS = [
    lambda: serving("llama-3.1-70b", "tp8", "decode", 64, 1024),
    lambda: serving("llama-3.1-70b", "tp8", "prefill", 8, 1024),
    lambda: serving("deepseek-v3", "tp1 adp16 ep16", "decode", 1024, 2048, engine="sglang"),
    lambda: serving("deepseek-v3", "tp1 adp16 ep16", "prefill", 32, 4096),
    lambda: training("deepseek-v3", "ep64 dp64 mbs1"),
]


@pytest.mark.parametrize("window", WINDOWS, ids=["decode", "prefill", "experts", "experts prefill", "experts train"])
def test_the_best_is_never_worse_than_a_named_one_and_near_its_bound(window):
    made = window()
    named = [scheduled(made, name) for name in PLAIN]
    found = best(made, 60.0, named)
    assert found.time <= min(s.time for s in named) * (1 + 1e-12)
    assert found.certificate.gap <= 0.05
    assert found.time >= lower_bound(found.graph).time * (1 - 1e-9) >= found.certificate.bound * (1 - 1e-9)


def test_a_window_is_the_serving_models_layers():
    job = serving_job("llama-3.1-70b", "dgx-h100", shipped())
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
