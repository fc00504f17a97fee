"""Activations that lie in host memory between forward and backward."""

from dataclasses import replace

import pytest

from perfplan.api import estimate_train, plan_train, training_job
from perfplan.errors import BadLayout, MissingField
from perfplan.training.estimate import estimate
from perfplan.training.layers import layer_cost
from perfplan.training.layout import Layout
from perfplan.training.network import Network
from perfplan.training.ops import Shape
from tests.training.jobs import job

JOB = {"cluster": "dgx-h100", "global_batch": 16, "seq_len": 8192}


def priced(layout, **more):
    return estimate_train("llama-3-8b", layout=f"dp8 zero1 mbs2 {layout}", **(JOB | more))


def cost(recompute, away):
    task = job(gpus=8)
    shape = Shape(task.seq_len, 1, 1, 0, 1, 1, 1)
    return layer_cost(task, Network(task.cluster, 8), task.model.kinds[0], shape, "ring", recompute, away)


@pytest.mark.parametrize("token", ["off=acts", "off=acts:20", "off=input,qkv", "off=out:4,qkv:4"])
def test_tokens_come_back(token):
    assert str(Layout.parse(f"dp4 {token}")).endswith(token)


@pytest.mark.parametrize("token", ["off=actz", "off=acts:0", "off=acts:x", "off=acts,qkv"])
def test_bad_tokens_are_one_sentence(token):
    with pytest.raises(BadLayout, match="layout token off="):
        Layout.parse(token)


def test_what_leaves_the_device_is_what_came_less():
    """Two layers are in flight; everything else of an offloaded layer is on the host."""
    here, gone, half = (cost((), away) for away in ((), (("acts", 0),), (("acts", 16),)))
    assert gone.saved == 0
    assert gone.whole == 2 * here.saved
    assert half.saved == pytest.approx(here.saved / 2)  # 16 of the 32 layers
    assert half.offload == pytest.approx(gone.offload / 2)


def test_copies_follow_the_link():
    """With a slow link that hides nothing, the step waits for two copies of what one layer keeps."""
    task = job(gpus=8)
    chip = replace(task.cluster.accelerator, host_bandwidth=1e9)
    slow = replace(task, cluster=replace(task.cluster, accelerator=chip), overlap={"offload": 0.0})
    shape = Shape(task.seq_len, 1, 1, 0, 1, 1, 1)
    got = layer_cost(slow, Network(task.cluster, 8), task.model.kinds[0], shape, "ring", (), (("acts", 0),))
    assert got.offload == pytest.approx(2 * cost((), ()).saved / (1e9 * task.framework.host_link))


def test_offloaded_tensors_are_not_recomputed():
    full, kept = cost(("full",), ()), cost(("full",), (("input", 0), ("qkv", 0)))
    assert kept.recompute < full.recompute
    assert kept.saved == 0 < full.saved
    assert cost(("full",), (("input", 0),)).recompute == full.recompute


def test_memory_goes_down_and_time_up():
    here, gone = priced("rc=none"), priced("rc=none off=acts")
    assert gone.memory_total < here.memory_total
    assert float(gone.step_time) > float(here.step_time)
    assert gone.memory["weights"] == here.memory["weights"]


def test_the_band_is_wider_and_says_why():
    here, gone = priced("rc=none"), priced("rc=none off=acts")
    assert gone.band[1] / gone.band[0] > here.band[1] / here.band[0]
    assert any("host link" in caveat for caveat in gone.caveats)
    assert not here.caveats


def test_a_plan_offloads_only_if_asked():
    plan = plan_train("llama-3-8b", gpus=8, fix="off=acts", top=3, **JOB)
    assert all("off=acts" in str(e.layout) for e in plan.estimates)
    assert not any("off=" in str(e.layout) for e in plan_train("llama-3-8b", gpus=8, top=3, **JOB).estimates)


def test_a_chip_without_a_host_link_is_an_error():
    task = training_job("llama-3.2-1b", gpus=1, cluster="mi300x", global_batch=4, seq_len=2048)
    chip = replace(task.cluster.accelerator, host_bandwidth=None)
    bare = replace(task, cluster=replace(task.cluster, accelerator=chip))
    with pytest.raises(MissingField, match="host_bandwidth"):
        estimate(bare, Layout.parse("mbs4 off=acts"))
