"""Multi-token prediction and sparse attention in training, against counts that can be done by hand."""

from dataclasses import replace

import pytest

from perfplan.errors import OutOfRange, Unsupported
from perfplan.formulas.attention import attention_flops, causal_pairs, latent_decode_flops
from perfplan.training.estimate import estimate, model_flops
from perfplan.training.layers import layer_cost
from perfplan.training.layout import Layout
from perfplan.training.network import Network
from perfplan.training.ops import Core, Stream, layer_ops, pairs
from perfplan.training.search import search
from perfplan.training.shape import Shape
from perfplan.training.space import declare, restrict
from perfplan.training.sparse import absorbed, kept_pairs
from perfplan.training.stages import chunk_sizes

from .jobs import job

ONE = Shape(4096, 1, 1, 0, 1, 1, 1)


def deepseek(seq=4096, model="deepseek-v3", **more):
    return job(model, "gb200-nvl72", 64, 64, seq, **more)


# ---------------------------------------------------------------- multi-token prediction
def test_published_flops_of_nemotron_3_super_are_those_of_two_modules():
    """mbridge rows: 571 TFLOP/s at 6742 tokens/s per accelerator, 84.7 GFLOP per token."""
    mine = job("nemotron-3-super-120b-a12b", "gb200-nvl72", 64, 64, 8192)
    counted = [model_flops(replace(mine, mtp=depth)) / 64 / 8192 / 1e9 for depth in (0, 1, 2)]
    assert mine.mtp_depth == 2
    assert counted[2] == pytest.approx(571e3 / 6742, rel=0.01)
    assert counted[0] < 0.9 * 84.7 and counted[1] < 0.95 * 84.7


def test_flops_published_for_deepseek_v3_on_maxtext_have_no_module():
    """tpurec-21: 281.2 GFLOP per token with full attention at 4096 tokens; causal attention counts half of it."""
    mine = job("deepseek-v3", "tpu-v5p-pod", 64, 64, 4096)
    half = 3 * 61 * attention_flops(causal_pairs(4096), 128, 192, 128) / 4096 / 1e9
    assert mine.mtp_depth == 0
    assert model_flops(mine) / 64 / 4096 / 1e9 + half == pytest.approx(281.2, rel=0.005)


def test_a_module_is_a_projection_a_layer_and_a_head():
    base, more = (model_flops(deepseek(mtp=depth)) for depth in (0, 1))
    h, vocab = 7168, 129280
    attention = h * 1536 + 1536 * 128 * 192 + h * 576 + 512 * 128 * 256 + 128 * 128 * h
    layer = 6 * (attention + 9 * 3 * h * 2048) + 3 * attention_flops(causal_pairs(4096), 128, 192, 128) / 4096
    assert (more - base) / 64 / 4096 == pytest.approx(6 * 2 * h * h + layer + 6 * h * vocab, rel=1e-6)


def test_weights_of_a_module_lie_on_the_last_stage_with_a_copy_of_the_embedding():
    h = 7168
    attention = h * 1536 + 1536 * 128 * 192 + h * 576 + 512 * 128 * 256 + 128 * 128 * h
    module = 2 * h * h + attention + 2 * h + 3 * h + 256 * h + 3 * h * 2048 + 256 * 3 * h * 2048
    alone = [estimate(deepseek(mtp=depth), Layout.parse("dp64")).memory["weights"] for depth in (0, 1)]
    assert (alone[1] - alone[0]) / 2 == pytest.approx(module, rel=1e-3)
    mine = job("mimo-7b", "dgx-h100", 8, 16, 4096)
    split = [estimate(replace(mine, mtp=depth), Layout.parse("pp2 dp2")) for depth in (0, 1)]
    dense = mine.model.kinds[0].ffn
    a = mine.model.kinds[0].mixer
    layer = a.heads * a.head_dim * 2 * 4096 + a.kv_heads * a.head_dim * 2 * 4096 + 3 * 4096 * dense.width
    held = 2 * 4096**2 + layer + mine.model.vocab * 4096
    assert (split[1].memory["weights"] - split[0].memory["weights"]) / 2 == pytest.approx(held, rel=1e-3)
    assert split[1].breakdown["dp"] > split[0].breakdown["dp"] and split[1].step_time > split[0].step_time


def test_weights_of_repeated_modules_count_once_and_their_work_twice():
    mine = job("nemotron-3-super-120b-a12b", "gb200-nvl72", 64, 512, 8192)
    layout = Layout.parse("dp64 ep64 zero1")
    costs = [estimate(replace(mine, mtp=depth), layout) for depth in (0, 1, 2)]
    assert costs[1].memory["weights"] == costs[2].memory["weights"] > costs[0].memory["weights"]
    first, second = (costs[n + 1].breakdown["forward"] - costs[n].breakdown["forward"] for n in (0, 1))
    assert second == pytest.approx(first, rel=1e-6) and first > 0
    apart = replace(mine, model=replace(mine.model, mtp_shared=False), mtp=2)
    assert estimate(apart, layout).memory["weights"] > costs[2].memory["weights"]


def test_who_trains_modules_by_default():
    assert deepseek().mtp_depth == 1 and deepseek(method="sft").mtp_depth == 0
    assert deepseek(framework="fsdp").mtp_depth == 0 and job("llama-3-8b").mtp_depth == 0
    with pytest.raises(OutOfRange, match="mtp is 99"):
        deepseek(mtp=99)
    with pytest.raises(Unsupported, match="drop --mtp"):
        job("llama-3-8b", method="lora", mtp=1)


def test_the_last_chunk_makes_room_for_modules():
    assert chunk_sizes(61, 4, 1) == (15, 16, 16, 14) and sum(chunk_sizes(94, 8, 2)) == 94
    assert chunk_sizes(94, 8, 2)[-1] < chunk_sizes(94, 8)[-1]
    for layers in range(2, 70):
        for chunks in range(1, layers + 3):
            for tail in (1, 2):
                sizes = chunk_sizes(layers, chunks, tail)
                assert sizes is not None or chunk_sizes(layers, chunks) is None
                assert sizes is None or (sum(sizes) == layers and len(sizes) == chunks and min(sizes) >= 0)


def test_the_search_prices_modules_as_the_estimate_does():
    mine = job("mimo-7b", "dgx-h100", 16, 32, 4096)
    found = search(mine, restrict(declare(mine), "rc=none sp1 mbs1", "zero2"), 40)
    assert len({p.layout.pp for p in found.best}) > 1
    for priced in found.best:
        e = estimate(mine, priced.layout)
        assert float(e.step_time) == pytest.approx(priced.step_time, rel=1e-9)
        assert e.memory_total == pytest.approx(priced.memory, rel=1e-9)


# ---------------------------------------------------------------- sparse attention
def mixer(model="deepseek-v3.2"):
    return deepseek(model=model).model.kinds[0].mixer


@pytest.mark.parametrize("seq", [512, 2048])
def test_up_to_its_top_k_sparse_attention_is_dense_attention_and_the_indexer(seq):
    shape = replace(ONE, seq=seq)
    sparse, dense = (
        layer_ops(mine, mine.model.kinds[1], shape) for mine in (deepseek(seq, "deepseek-v3.2"), deepseek(seq)))
    own = [op for op in sparse if op.part.startswith("indexer")]
    assert [op for op in sparse if op not in own] == dense
    score = next(op for op in own if isinstance(op, Core))
    assert score.flops == 2 * seq * seq * 64 * 128


def test_the_indexer_costs_what_the_layer_costs_more():
    mine, plain = deepseek(2048, "deepseek-v3.2", mtp=0), deepseek(2048, mtp=0)
    net = Network(mine.cluster, 64)
    costs = [layer_cost(each, net, each.model.kinds[1], replace(ONE, seq=2048), "ring", ()) for each in (mine, plain)]
    assert costs[0].dense - costs[1].dense == 13_959_168
    assert costs[0].forward > costs[1].forward and costs[0].saved > costs[1].saved
    assert costs[0].expert == costs[1].expert and costs[0].tp == costs[1].tp


def test_beyond_its_top_k_the_cheaper_of_mask_and_selection_runs():
    a = mixer()
    assert kept_pairs(a, 131072) == 2048 * 2049 / 2 + (131072 - 2048) * 2048
    assert kept_pairs(a, 1024) == causal_pairs(1024)
    assert not absorbed(deepseek(4096, "deepseek-v3.2"), a) and absorbed(deepseek(32768, "deepseek-v3.2"), a)
    for seq in (2048, 2049, 8192, 16384, 131072):
        mine = deepseek(seq, "deepseek-v3.2")
        core = next(op for op in layer_ops(mine, mine.model.kinds[1], replace(ONE, seq=seq))
                    if op.part == "core attention")
        masked = attention_flops(causal_pairs(seq), 128, 192, 128)
        chosen = latent_decode_flops(1, kept_pairs(a, seq), 128, 512, 64)
        assert core.flops == (masked if seq <= 2048 else min(masked, chosen))
    assert latent_decode_flops(1, 2048, 128, 512, 64) == pytest.approx(0.570e9, rel=1e-3)


def test_time_rises_smoothly_through_the_top_k():
    times = [float(estimate(deepseek(seq, "deepseek-v3.2"), Layout.parse("dp64 ep64 zero1")).step_time) / seq
             for seq in (2047, 2048, 2049)]
    assert times[2] == pytest.approx(times[1], rel=0.01) and times[1] == pytest.approx(times[0], rel=0.01)


def test_long_sequences_gain_and_the_indexer_takes_over():
    layout, long = Layout.parse("dp64 ep64 zero1 rc=full"), 131072
    sparse, dense = (estimate(deepseek(long, model), layout) for model in ("deepseek-v3.2", "deepseek-v3"))
    assert sparse.step_time < 0.6 * dense.step_time
    mine = deepseek(long, "deepseek-v3.2")
    ops = layer_ops(mine, mine.model.kinds[1], replace(ONE, seq=long))
    flops = {op.part: op.flops for op in ops if isinstance(op, Core)}
    assert flops["indexer scores"] > 3 * flops["core attention"]
    assert any("indexer" in caveat for caveat in sparse.caveats)


def test_layers_that_reuse_a_selection_have_no_indexer():
    mine = job("glm-5.2", "gb200-nvl72", 64, 64, 32768)
    reused = [k for k in mine.model.kinds if k.mixer.index_topk and not k.mixer.index_heads]
    assert reused
    ops = layer_ops(mine, reused[0], replace(ONE, seq=32768))
    assert not any(op.part.startswith("indexer") for op in ops)
    with_one = next(k for k in mine.model.kinds if k.mixer.index_heads)
    assert any(isinstance(op, Stream) and op.part == "indexer selection"
               for op in layer_ops(mine, with_one, replace(ONE, seq=32768)))


def test_selection_by_key_heads_keeps_their_pairs():
    mine = job("minimax-m3", "gb200-nvl72", 64, 64, 32768)
    chosen = next(k.mixer for k in mine.model.kinds if k.mixer.index_topk)
    assert pairs(chosen, 32768) == kept_pairs(chosen, 32768) < causal_pairs(32768)
