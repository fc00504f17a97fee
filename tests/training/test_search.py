"""The search against brute force: the whole space walked by hand, one layout at a time, with the scalar functions."""

from dataclasses import replace
from functools import cache
from itertools import product

import pytest

from perfplan.training.estimate import broken_rules, estimate, layer_sequence
from perfplan.training.job import ORDERS
from perfplan.training.layout import Layout
from perfplan.training.rules import limits
from perfplan.training.search import search
from perfplan.training.space import Axes, declare, restrict
from perfplan.training.stages import stages

from .jobs import JOBS, KEYS, SHARDS, job, tight_job

DENSE_AXES = {"pp": (1, 2, 4), "vpp": (1, 2, 3), "mbs": (1, 4)}
MOE_AXES = {"tp": (1, 2), "cp": (1, 2), "pp": (1, 2, 3), "vpp": (1, 2), "ep": (1, 3, 4), "etp": (1, 2), "mbs": (1,)}


def small(name):
    """(job, axes) with a space of a few thousand layouts, some of which do not fit."""
    if name == "dense":
        mine = tight_job("24 GiB")
        return mine, replace(declare(mine), **DENSE_AXES)
    if name == "left over":
        mine = tight_job("24 GiB", gpus=6, batch=12)
        return mine, replace(declare(mine), pp=(1, 2, 3), vpp=(1, 2), mbs=(1, 2), cp=(1, 2), recompute=((), ("full",)))
    if name == "shards":
        mine = tight_job("12 GiB", gpus=16, batch=16)
        return mine, replace(declare(mine), tp=(1, 2), cp=(1, 2), pp=(1, 2), vpp=(1,), mbs=(1,))
    mine = tight_job("80 GiB", "deepseek-v2-lite", gpus=12, batch=24, seq=2048)
    return mine, replace(declare(mine), cp_kind=("ring", "a2a"), recompute=((), ("full",)), **MOE_AXES)


def largest_dp(mine, fields):
    """The most replicas that the accelerators allow and that split the batch evenly, 0 if there is no such number."""
    room = mine.gpus // (fields["tp"] * fields["cp"] * fields["pp"])
    lawful = (dp for dp in range(room, 0, -1) if mine.global_batch % (fields["mbs"] * dp) == 0)
    return next(lawful, 0)


def in_effect(mine, layout):
    """What tells this layout from others: its axes, and how widely dense and expert parameters are sharded."""
    dense = layout.dp * layout.cp
    experts = dense * layout.tp // (layout.ep * layout.etp) if limits(mine).experts else dense
    widths = [getattr(layout, name) for name in SHARDS]
    return (
        *(getattr(layout, key) for key in KEYS),
        *(min(w or ranks, ranks) for ranks in (dense, experts) for w in widths),
    )


@cache
def walked(name):
    """(layouts of the space, time and memory of every feasible one) by walking the product of the axes."""
    mine, axes = small(name)
    size, feasible = 0, {}
    for values in product(*(getattr(axes, key) for key in KEYS), axes.sharding):
        size += 1
        fields = dict(zip(KEYS, values, strict=False)) | dict(zip(SHARDS, values[-1], strict=True))
        dp = largest_dp(mine, fields)
        if not dp or stages(*layer_sequence(mine), fields["pp"], fields["vpp"]) is None:
            continue
        layout = Layout(**fields, dp=dp)
        if broken_rules(mine, layout) or in_effect(mine, layout) in feasible:
            continue
        feasible[in_effect(mine, layout)] = estimate(mine, layout)
    fitting = {key: (e.step_time, e.memory_total) for key, e in feasible.items() if e.fits}
    return size, fitting


@pytest.mark.parametrize("name", ["dense", "left over", "shards", "experts"])
def test_the_search_is_brute_force(name):
    mine, axes = small(name)
    size, feasible = walked(name)
    found = search(mine, axes, top=12)
    assert found.size == axes.size == size
    assert found.feasible == len(feasible) > 30
    assert found.rejected["memory"] > 0
    assert found.feasible + sum(found.rejected.values()) == found.size
    best = sorted(time for time, _ in feasible.values())[:12]
    assert [p.step_time for p in found.best] == pytest.approx(best, rel=1e-9)
    same = [feasible[in_effect(mine, p.layout)] for p in found.best]
    assert [(p.step_time, p.memory) for p in found.best] == [pytest.approx(each, rel=1e-9) for each in same]


@pytest.mark.parametrize("name", ["dense", "left over", "shards", "experts"])
def test_the_front_is_brute_force(name):
    mine, axes = small(name)
    _, feasible = walked(name)
    front, least = [], float("inf")
    for time, memory in sorted(feasible.values()):
        if memory < least * (1 - 1e-12):
            front.append((time, memory))
            least = memory
    found = search(mine, axes, top=1).front
    assert len(found) == len(front) > 1
    for point, (time, memory) in zip(found, front, strict=True):
        assert (point.step_time, point.memory) == (pytest.approx(time, rel=1e-9), pytest.approx(memory, rel=1e-9))


@pytest.mark.parametrize("top", [1, 3, 40])
def test_the_top_is_a_prefix_of_a_longer_top(top):
    mine, axes = small("dense")
    assert search(mine, axes, top).best == search(mine, axes, 40).best[:top]


def test_the_least_memory_is_known_even_if_nothing_fits():
    mine, axes = small("dense")
    tiny = replace(mine, cluster=replace(mine.cluster, accelerator=replace(mine.cluster.accelerator, memory=1e9)))
    found = search(tiny, axes)
    assert not found.feasible and not found.best and not found.front
    least = found.least_memory
    assert least is not None
    assert least.memory == pytest.approx(estimate(tiny, least.layout).memory_total, rel=1e-9)
    whole = search(mine, axes)
    assert least.memory <= min(p.memory for p in whole.front)


# ---------------------------------------------------------------- scalar estimate = search value
MODELS = {
    **JOBS,
    "deepseek-v3": lambda: job("deepseek-v3", "gb200-nvl72", 144, 288, 4096, "fp8"),
    "amd": lambda: job("llama-3-70b", "mi300x-platform", 64, 128, 8192, "fp8"),
    "odd": lambda: job("llama-3-8b", "dgx-h100", 50, 120, 8192),
    "other order": lambda: job("llama-3-70b", "dgx-h100", 64, 128, 8192, order=ORDERS[1]),
    "other order, experts": lambda: job("qwen3-30b-a3b", "dgx-h100", 32, 64, 4096, order=ORDERS[1]),
    "unfused": lambda: job("gpt3-13b", "dgx-a100", 32, 64, 2048, "fp16", attention="unfused"),
    "uneven": lambda: job("llama-3.1-405b", "dgx-h100", 512, 512, 8192, "fp8"),
}


@pytest.mark.parametrize("name", MODELS)
def test_estimate_gives_what_the_search_saw(name):
    mine = MODELS[name]()
    axes = declare(mine)
    if axes.size > 2e6:
        axes = replace(axes, vpp=(1, 2, 4), cp_kind=("ring",), etp=(1,), mbs=(1, 2))
    found = search(mine, axes, top=10)
    assert found.feasible + sum(found.rejected.values()) == found.size
    for priced in (*found.best, *found.front[:10]):
        e = estimate(mine, priced.layout)
        assert e.step_time == pytest.approx(priced.step_time, rel=1e-9)
        assert e.memory_total == pytest.approx(priced.memory, rel=1e-9)
        assert e.fits and not broken_rules(mine, priced.layout)


# ---------------------------------------------------------------- the space
def test_fixed_and_forbidden_tokens_restrict_the_space():
    axes = declare(job())
    fixed = restrict(axes, fix="tp2 sp1 zero1 rc=full cp=a2a")
    assert (fixed.tp, fixed.sp, fixed.sharding, fixed.recompute) == ((2,), (1,), ((1, 1, 0),), (("full",),))
    assert fixed.cp_kind == ("a2a",) and fixed.pp == axes.pp
    less = restrict(axes, forbid="tp4 zero3 rc=none")
    assert set(axes.tp) - set(less.tp) == {4} and (0, 0, 0) not in less.sharding and () not in less.recompute
    assert less.size < axes.size


def test_a_fixed_value_need_not_be_in_the_declared_space():
    mine = job(gpus=24, batch=24)
    found = search(mine, restrict(declare(mine), fix="pp6 hsdp2"), 3)
    assert found.size and not found.best  # hsdp shards gradients, which a pipeline does not allow
    assert search(mine, restrict(declare(mine), fix="pp6 w1-g1-o2"), 3).best[0].layout.shard_optimizer == 2


@pytest.mark.parametrize(("fix", "gpus"), [("zero1", 1), ("hsdp8", 8), ("w1-g1-o2 pp4", 8)])
def test_sharding_that_was_asked_for_is_searched_even_if_it_equals_another(fix, gpus):
    mine = job("llama-3.2-1b", gpus=gpus, batch=8, seq=2048)
    axes = restrict(declare(mine), fix=f"tp1 cp1 {fix}")
    found = search(mine, axes, 1)
    assert found.best and found.best[0].layout.dp == gpus // found.best[0].layout.pp


def test_every_best_layout_obeys_what_was_fixed():
    mine = job()
    for priced in search(mine, restrict(declare(mine), fix="tp2 zero1", forbid="rc=none pp1"), 20).best:
        layout = priced.layout
        assert (layout.tp, layout.sharding) == (2, "zero1") and layout.recompute and layout.pp > 1


def test_an_empty_axis_of_lawful_values_is_no_layout():
    mine = job()
    axes = restrict(declare(mine), fix="tp3")
    found = search(mine, axes)
    assert found.feasible == 0 and sum(found.rejected.values()) == found.size == axes.size


def test_the_size_is_the_product():
    axes = Axes((1,), (0, 1), (1,), ("ring",), (1, 2), (1,), (1,), (1,), (1, 2, 4), ((1, 1, 1),), ((),))
    assert axes.size == 12
