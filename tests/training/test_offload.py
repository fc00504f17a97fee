"""Activations, optimizer state and weights that lie in host memory."""

from dataclasses import replace

import pytest

from perfplan.api import estimate_train, plan_train, training_job
from perfplan.errors import BadLayout, Indivisible, MissingField
from perfplan.training.estimate import estimate
from perfplan.training.layers import layer_cost
from perfplan.training.layout import Layout
from perfplan.training.network import Network
from perfplan.training.search import search
from perfplan.training.shape import Shape
from perfplan.training.space import declare

from .jobs import job

JOB = {"cluster": "dgx-h100", "global_batch": 16, "seq_len": 8192}


def priced(layout, **more):
    return estimate_train("llama-3-8b", layout=f"dp8 zero1 mbs2 {layout}", **(JOB | more))


def cost(recompute, away):
    task = job(gpus=8)
    shape = Shape(task.seq_len, 1, 1, 0, 1, 1, 1)
    return layer_cost(task, Network(task.cluster, 8), task.model.kinds[0], shape, "ring", recompute, away)


@pytest.mark.parametrize(
    "token", ["off=acts", "off=acts:20", "off=input,qkv", "off=out:4,qkv:4", "off=acts,optim:2,params"]
)
def test_tokens_come_back(token):
    assert str(Layout.parse(f"dp4 {token}")).endswith(token)


@pytest.mark.parametrize("token", ["off=actz", "off=acts:0", "off=acts:x", "off=acts,qkv", "off=params:2"])
def test_bad_tokens_are_one_sentence(token):
    with pytest.raises(BadLayout, match="layout token off="):
        Layout.parse(token)


def test_what_leaves_the_device_is_what_came_less():
    """Two layers are in flight; everything else of an offloaded layer is on the host."""
    here, gone, half = (cost((), away) for away in ((), (("acts", 0),), (("acts", 16),)))
    assert gone.saved == 0
    assert gone.whole == 2 * here.saved
    assert half.saved == pytest.approx(here.saved / 2)  # 16 of the 32 layers
    assert 0 < half.offload <= gone.offload / 2  # copies of 16 layers spread over 32


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


def test_optimizer_state_on_the_host():
    """1/8 of 8.03e9 parameters at the CPU's rate and their 2-byte copies up; the state has left the device."""
    here, gone = priced("rc=full"), priced("rc=full off=optim")
    owned, framework = 8030261248 / 8, here.job.framework
    update = owned / framework.host_update + 2 * owned / (63e9 * framework.host_link)
    assert gone.breakdown["optimizer"] == pytest.approx(update, rel=1e-3)
    assert gone.memory["optimizer"] == 0
    assert here.memory["optimizer"] == pytest.approx(12 * owned, rel=1e-3)
    assert gone.memory["gradients"] == here.memory["gradients"]


def test_subgroups_on_the_device_and_on_the_cpu():
    """One subgroup in K goes over the link as 12 B per parameter each way, while the CPU updates the other K - 1."""
    cpu, all_here, some = (priced(f"rc=full off=optim{k}").breakdown["optimizer"] for k in ("", ":1", ":3"))
    assert some == pytest.approx(max(2 * cpu, all_here) / 3)
    on_device = priced("rc=full").breakdown["optimizer"]
    assert all_here == pytest.approx(12 * 8030261248 / 8 / (63e9 * 0.8) + on_device, rel=1e-3)


def test_gradients_leave_behind_the_backward_pass():
    """What may not hide is exposed: 4 B per owned parameter over the link."""
    flush = 4 * 8030261248 / 8 / (63e9 * 0.8)
    assert priced("rc=full off=optim", overlap={"offload": 0.0}).breakdown["offload"] == pytest.approx(flush, rel=1e-3)


def test_weights_on_the_host():
    with pytest.raises(Indivisible, match="off=params needs sharded weights"):
        priced("rc=full off=params")
    here, gone = (
        estimate_train("llama-3-8b", layout=f"dp8 mbs2 zero3 rc=full {off}", overlap={"offload": 0.0}, **JOB)
        for off in ("", "off=params")
    )
    assert gone.memory["weights"] == 0 < gone.memory["gathered weights"]
    copies = 2 * 2 * 8030261248 / 8 / (63e9 * 0.8)  # 2 B, two passes, one micro-batch
    assert gone.breakdown["offload"] == pytest.approx(copies, rel=1e-3)
    assert here.breakdown["offload"] == 0


def test_offloads_of_a_space_are_priced_apart():
    """The search prices state on the host only in the rows that have it there."""
    task = job(gpus=8)
    both = search(task, replace(declare(task), offload=((), (("optim", 0),))), top=3)
    one = search(task, declare(task), top=3)
    assert both.size == 2 * one.size
    assert both.feasible + sum(both.rejected.values()) == both.size
    assert [p.layout for p in both.best] == [p.layout for p in one.best]
    assert both.feasible > 2 * one.feasible  # some fit only with the state on the host
