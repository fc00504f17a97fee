"""Casts to narrow formats as operators of their own, and recipes as frameworks ship them."""

from dataclasses import replace

import pytest

from perfplan.training.estimate import estimate, kind_jobs, layer_sequence
from perfplan.training.job import constants, kernel
from perfplan.training.layout import Layout
from perfplan.training.ops import Stream, layer_ops
from perfplan.training.shape import Shape

from .jobs import job

ONE = Shape(4096, 1, 1, 0, 1, 1, 1)


def casts(precision, **more):
    mine = job(precision=precision, cluster="dgx-b200", **more)
    ops = layer_ops(mine, mine.model.kinds[0], ONE)
    return [op for op in ops if isinstance(op, Stream) and op.part.endswith("cast")]


@pytest.mark.parametrize(
    ("precision", "each"),
    [("fp8", 2 + 2), ("fp8-current", 4 + 2), ("fp8-block", 2 + 2 * (1 + 4 / 128)), ("mxfp8", 2 + 2 * (1 + 1 / 32)),
     ("nvfp4", 2 + 2 * (0.5 + 1 / 16))],
)
def test_a_cast_reads_the_operand_and_writes_two_narrow_copies(precision, each):
    first = casts(precision)[0]
    assert first.part == "qkv cast" and first.forward == each * 4096 * 4096
    assert len(casts(precision)) == 4 and not casts("bf16")


def test_frozen_weights_need_no_transposed_copy():
    assert casts("fp8", method="lora")[0].forward == 3 * 4096 * 4096


def test_current_scaling_keeps_the_outer_layers_in_bf16():
    mine = job(precision="fp8-current")
    kinds, count = layer_sequence(mine)
    assert count == 2 and kinds[0] == kinds[-1] == 1 and set(kinds[1:-1]) == {0}
    assert kind_jobs(mine)[1].recipe.gemm["forward"] == "bf16"
    times = [float(estimate(job(precision=p), Layout.parse("tp2 sp1 dp8 zero1")).step_time)
             for p in ("fp8", "fp8-current", "bf16")]
    assert times[0] < times[1] < times[2]
    off = replace(mine, recipe=replace(mine.recipe, bf16_layers=(0, 0)))
    assert times[0] < float(estimate(off, Layout.parse("tp2 sp1 dp8 zero1")).step_time) < times[1]


def test_narrow_kernels_of_engines_leave_their_casts_and_caches_behind():
    for cluster, block in (("dgx-b200", True), ("dgx-h100", False)):
        mine = job(cluster=cluster)
        chip = mine.cluster.accelerator
        plain, narrow = constants(chip, "gemm", "fp8"), kernel(mine, "gemm", "fp8")
        assert narrow.overhead == constants(chip, "gemm", "bf16").overhead < plain.overhead
        best = constants(chip, "gemm", "fp8-block") if block else plain
        assert narrow.compute == best.compute >= plain.compute
        heads = kernel(mine, "attention", "fp8")
        assert heads.half == constants(chip, "attention", "bf16").half < constants(chip, "attention", "fp8").half
        assert heads.compute == constants(chip, "attention", "fp8").compute
        assert kernel(mine, "gemm", "bf16") == constants(chip, "gemm", "bf16")
