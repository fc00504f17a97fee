"""Compressed attention in training (DeepSeek-V4): pairs of the window and of the entries kept, low-rank projections."""

from dataclasses import replace

import pytest

from perfplan.catalog import Catalog
from perfplan.formulas.attention import causal_pairs, windowed_pairs
from perfplan.formulas.parameters import grouped_output_parameters
from perfplan.training.estimate import estimate
from perfplan.training.layout import Layout
from perfplan.training.ops import Gemm, layer_ops
from perfplan.training.shape import Shape
from perfplan.training.sparse import kept_pairs

from .jobs import job

MODEL = Catalog().model("deepseek-v4-flash")
KINDS = {kind.mixer.compression: kind for kind in MODEL.kinds}


def test_pairs_by_hand():
    dense, sparse = KINDS[128].mixer, KINDS[4].mixer
    window = windowed_pairs(65536, 128)
    assert kept_pairs(dense, 65536) == pytest.approx(window + causal_pairs(65536) / 128)
    assert kept_pairs(sparse, 65536) == pytest.approx(window + windowed_pairs(65536, 512))
    assert kept_pairs(sparse, 65536) < kept_pairs(replace(sparse, index_topk=0), 65536)


def test_products_are_those_of_the_weights():
    mine, a = job("deepseek-v4-flash"), KINDS[128].mixer
    ops = layer_ops(mine, KINDS[128], Shape(4096, 1, 1, 0, 1, 1, 1))
    per_row = sum(op.n * op.k for op in ops if isinstance(op, Gemm) and op.part == "attention output")
    assert per_row == grouped_output_parameters(MODEL.hidden, a.heads, a.v_head_dim, a.o_lora_rank, a.o_groups)


def test_a_step_has_a_price_and_says_what_is_simpler():
    mine = job("deepseek-v4-flash", gpus=64, batch=64)
    found = estimate(mine, Layout.parse("ep64 dp64 zero1 rc=full"))
    assert 0 < found.mfu < 1
    assert any("compressed attention" in text for text in found.caveats)
