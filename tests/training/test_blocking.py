"""What stops an accelerator beside its kernels: blocking collectives, late hosts, heads of odd width."""

from dataclasses import replace

import pytest

from perfplan.catalog import Catalog
from perfplan.catalog.specs import Mlp
from perfplan.training.estimate import estimate
from perfplan.training.job import Job
from perfplan.training.layout import Layout

LAYERS = 24


def job(**changes):
    entries = Catalog()
    software = replace(entries.framework("megatron-2021"), launch=0.0, skew=0.0, sync=0.0)
    model = replace(entries.model("megatron-1.7b"), layers=(0,) * LAYERS, vocab=51200)
    assert all(isinstance(kind.ffn, Mlp) for kind in model.kinds)
    return Job(model, entries.cluster("dgx-a100"), 8, 64, 1024, entries.recipe("fp16"), replace(software, **changes))


def step(made, layout):
    return estimate(made, Layout.parse(layout)).breakdown


def test_every_blocking_collective_costs_its_stop():
    layout, micro_batches = "tp2 dp4 mbs4 rc=full", 4
    more = step(job(sync=1e-4), layout)["tp"] - step(job(), layout)["tp"]
    calls = 2 * 3  # two blocks, three passes, an all-reduce each
    assert more == pytest.approx(micro_batches * LAYERS * calls * 1e-4)
    assert step(job(sync=1e-4), "dp8 mbs4 rc=full")["tp"] == step(job(), "dp8 mbs4 rc=full")["tp"]


def test_sequence_parallelism_blocks_twice_where_there_was_one_all_reduce():
    plain, sp = ("tp2 dp4 mbs4 rc=full", "tp2 sp1 dp4 mbs4 rc=full")
    stops = [step(job(sync=1e-4), layout)["tp"] - step(job(), layout)["tp"] for layout in (plain, sp)]
    assert stops[1] == pytest.approx(2 * stops[0])


def test_late_hosts_show_only_where_the_host_is_what_takes_time():
    assert step(job(skew=1e-5), "tp8 dp1 mbs4 rc=full")["host"] == step(job(), "tp8 dp1 mbs4 rc=full")["host"] == 0
    slow, layout = {"launch": 2e-4}, "tp8 dp1 mbs1 rc=full"
    assert step(job(skew=1e-4, **slow), layout)["host"] > step(job(**slow), layout)["host"]


def test_a_head_of_odd_width_is_slower_than_a_wider_one_that_is_aligned():
    odd, even = job(), job()
    odd = replace(odd, model=replace(odd.model, vocab=50257))
    assert step(odd, "dp8 mbs8 rc=full")["backward"] > step(even, "dp8 mbs8 rc=full")["backward"]
