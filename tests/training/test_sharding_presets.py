"""Named presets of three widths, and ZeRO++: a secondary copy of the weights and quantised collectives."""

import pytest

from perfplan.api import estimate_train, plan_train
from perfplan.errors import Indivisible
from perfplan.training.layout import Layout
from perfplan.training.network import Network
from perfplan.training.sharded import shards
from perfplan.training.step import replicas

from .jobs import job

JOB = {"cluster": "dgx-h100", "global_batch": 128, "seq_len": 2048, "framework": "deepspeed"}
PARAMETERS = 8030261248


def priced(sharding, **more):
    return estimate_train("llama-3-8b", layout=f"dp64 mbs1 {sharding}", **(JOB | more))


@pytest.mark.parametrize(
    ("preset", "written"),
    [
        ("mics8", "hsdp8"),
        ("3level2-8", "w2-g8-o0"),
        ("zeropp8", "zero3 hpz8 qwz qgz"),
        ("zero3 hpz4", "zero3 hpz4"),
    ],
)
def test_presets_are_widths(preset, written):
    assert str(Layout.parse(f"dp64 {preset}")) == f"tp1 sp0 cp1 pp1 vpp1 ep1 etp1 dp64 mbs1 {written} rc=none"
    assert Layout.parse(str(Layout.parse(f"dp64 {preset}"))) == Layout.parse(f"dp64 {preset}")


def test_three_levels_of_memory():
    """2 N/d_w + 4 N/d_g + 12 N/d_o bytes per rank (training_communication.md section 11; gradients here in fp32)."""
    memory = priced("3level2-8").memory
    assert memory["weights"] == pytest.approx(2 * PARAMETERS / 2, rel=1e-3)
    assert memory["gradients"] == pytest.approx(4 * PARAMETERS / 8, rel=1e-3)
    assert memory["optimizer"] == pytest.approx(12 * PARAMETERS / 64, rel=1e-3)


def test_the_secondary_copy_takes_two_bytes_over_its_width():
    plain, copied = priced("zero3").memory, priced("zero3 hpz8").memory
    assert copied["weights"] - plain["weights"] == pytest.approx(2 * PARAMETERS / 8, rel=1e-3)
    assert {k: v for k, v in copied.items() if k != "weights"} == {k: v for k, v in plain.items() if k != "weights"}


def test_quantised_collectives_change_traffic_not_memory():
    plain = priced("zero3")
    for option in ("qwz", "qgz"):
        other = priced(f"zero3 {option}")
        assert other.memory == plain.memory
        assert other.breakdown["sharding"] < plain.breakdown["sharding"]
    assert priced("zeropp8").breakdown["sharding"] < priced("zero3 qgz").breakdown["sharding"]


def test_the_backward_gather_stays_inside_the_node():
    task = job(gpus=64, batch=128, seq=2048)
    (dense,) = shards(Network(task.cluster, 64), replicas(task, Layout.parse("dp64 zeropp8")))
    assert (dense.forward.group.ranks, dense.forward.domains) == (64, 8)
    assert (dense.backward.group.ranks, dense.backward.domains) == (8, 1)
    assert (dense.near.group.ranks, dense.near.domains) == (8, 1)
    assert (dense.far.group.ranks, dense.far.group.stride) == (8, 8)


@pytest.mark.parametrize(
    ("sharding", "words"),
    [
        ("zero1 hpz8", "hpz needs weights sharded"),
        ("zero3 hpz64", "hpz needs weights sharded"),
        ("zero1 qwz", "qwz needs sharded weights"),
        ("zero1 qgz", "qgz sharded gradients"),
    ],
)
def test_what_makes_no_sense_is_refused(sharding, words):
    with pytest.raises(Indivisible, match=words):
        priced(sharding)


def test_a_plan_takes_them_only_if_asked():
    asked = plan_train("llama-3-8b", gpus=64, fix="zeropp8", top=2, **JOB)
    assert all("zero3 hpz8 qwz qgz" in str(e.layout) for e in asked.estimates)
    assert sum(asked.rejected().layouts) + asked.searches[0][2].feasible == asked.searches[0][1].size
    assert "hpz" not in str(plan_train("llama-3-8b", gpus=64, top=1, **JOB).best.layout)
