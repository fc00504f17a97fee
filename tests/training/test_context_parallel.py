"""Context parallelism: how long the attention kernels of a ring, an all-gather and an all-to-all are."""

from dataclasses import replace

import pytest

from perfplan.training.estimate import estimate
from perfplan.training.job import kernel
from perfplan.training.layers import op_times
from perfplan.training.layout import CP_KINDS, Layout
from perfplan.training.ops import Core, layer_ops
from perfplan.training.shape import Shape

from .jobs import job

FOUR = Shape(8192, 1, 1, 0, 4, 1, 1)


def cores(mine):
    """The core attention of a layer on one of four ranks, by kind of context parallelism."""
    layers = {kind: layer_ops(mine, mine.model.kinds[0], FOUR, kind) for kind in CP_KINDS}
    return {kind: next(op for op in ops if isinstance(op, Core)) for kind, ops in layers.items()}


def test_a_ring_runs_short_kernels_and_the_others_whole_ones():
    """8192 tokens on four ranks: 2048 a hop; all-gather and all-to-all see all 8192. Their work is the same."""
    found = cores(job(seq=8192))
    assert {kind: core.length for kind, core in found.items()} == {"ring": 2048, "allgather": 8192, "a2a": 8192}
    assert found["ring"] == replace(found["a2a"], length=2048)


def test_short_kernels_reach_less_of_the_peak():
    """Rates saturate as L / (L + half), so the time beyond the launch grows by (1 + half/2048) / (1 + half/8192)."""
    mine = job(seq=8192)
    constants = kernel(mine, "attention", "bf16")
    ring, whole = (op_times(mine, cores(mine)[kind])[0] - constants.overhead for kind in ("ring", "a2a"))
    assert ring / whole == pytest.approx((1 + constants.half / 2048) / (1 + constants.half / 8192))


def test_packed_documents_are_no_longer_than_themselves():
    assert {core.length for core in cores(job(seq=8192, method="sft", packed=1024)).values()} == {1024}


def test_a_step_computes_less_time_where_kernels_see_all_keys():
    ring, whole = (
        estimate(job(seq=8192), Layout.parse(f"cp4 dp4 zero1{kind}")).breakdown for kind in ("", " cp=allgather")
    )
    assert whole["forward"] < ring["forward"] and whole["backward"] < ring["backward"]
