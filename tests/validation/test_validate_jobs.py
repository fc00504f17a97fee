"""Rows become jobs by what they say, and each gap becomes a named assumption."""

from dataclasses import replace

import pytest

from perfplan.catalog import Catalog
from perfplan.errors import PerfplanError, Unsupported
from perfplan.training.job import GRAPHS
from perfplan.validation.jobs import CaseBuilder


def build(catalog, row, **changes):
    return CaseBuilder(catalog, 51200).case(replace(row, **changes))


def test_a_complete_row(catalog, row):
    case = build(catalog, row)
    assert str(case.layouts[0]) == "tp2 sp0 cp1 pp2 vpp1 ep1 etp1 dp4 mbs2 zero1 rc=full"
    assert case.job.framework.id == "megatron-core"
    assert case.job.cluster.levels[1].bandwidth == pytest.approx(25e9)


@pytest.mark.parametrize(
    ("changes", "framework"),
    [
        ({"attention_kernel": "unfused"}, "megatron-2021"),
        ({"attention_kernel": "unknown", "precision": "fp16"}, "megatron-2021"),
        ({"sharding": "zero3", "tp": 1, "pp": 1, "dp": 16, "epoch": "", "sharding_degree": 16}, "fsdp"),
        ({"sharding": "zero3", "tp": 1, "pp": 1, "dp": 16, "sharding_degree": 16}, "megatron-core"),
        ({"hardware_id": "tpu-v5p", "fast_domain": 16}, "maxtext"),
        ({"epoch": "MLPerf Training v5.1"}, "mlperf-nemo"),
        ({"epoch": "NeMo container 26.04"}, "megatron-core"),
    ],
)
def test_the_framework_follows_from_what_the_row_says(catalog, row, changes, framework):
    case = build(catalog, row, **changes)
    assert case.job.framework.id == framework
    assert f"framework {framework}" in case.assumptions


@pytest.mark.parametrize(
    ("note", "graphs"),
    [
        ("LAYER_CUDA_GRAPH=1; grad_accum=2", GRAPHS[:-1]),
        ("MCORE_CUDA_GRAPH=0; LAYER_CUDA_GRAPH=1", GRAPHS[:-1]),
        ("cuda_graph=local/full_iteration; recipe=X", ("full_iteration",)),
        ("cuda_graph=transformer_engine/['moe_router', 'attn']; dropless", ("attn", "moe_router")),
        ("TE CUDA graph moe_router+moe_preprocess; no delayed wgrad", ("moe_router", "moe_preprocess")),
        ("MCORE_CUDA_GRAPH=0; mamba attn mlp", ()),
    ],
)
def test_cuda_graphs_are_read_from_the_note(catalog, row, note, graphs):
    assert build(catalog, row, note=note).job.graphs == graphs


def test_eight_bit_attention_where_the_row_says_so(row):
    eight = {"model_id": "gpt3-5b", "precision": "fp8", "hardware_id": "h100-sxm", "attention_kernel": "flash"}
    assert build(Catalog(), row, note="FP8_DPA=1; x", **eight).job.recipe.attention == "fp8"
    assert build(Catalog(), row, note="FP8_DPA=0; x", **eight).job.recipe.attention == "bf16"


def test_documents_of_fine_tuning_are_short_unless_the_row_says_otherwise(catalog, row):
    tuned = {"method": "sft", "attention_kernel": "flash", "precision": "bf16"}
    assert 0 < build(catalog, row, **tuned).job.packed < 1000
    assert build(catalog, row, note="packed seq 8192", **tuned).job.packed == 0
    assert build(catalog, row).job.packed == 0


@pytest.mark.parametrize(
    ("changes", "sp"),
    [
        ({"tp": 1, "dp": 8, "sp": 1}, "sp0"),
        ({"sp": 0, "overlap": "tp_overlap=1"}, "sp0"),
        ({"sp": None, "epoch": "MLPerf Training v5.1", "overlap": "tp_overlap=1"}, "sp1"),
        ({"sp": None, "epoch": "MLPerf Training v5.1", "overlap": "tp_overlap=0"}, "sp0"),
        ({"sp": None}, "sp1"),
    ],
)
def test_sequence_parallelism_needs_ranks_and_comes_with_overlap(catalog, row, changes, sp):
    assert str(build(catalog, row, **changes).layouts[0]).split()[1] == sp


def test_a_block_of_layers_is_recomputed(catalog, row):
    case = build(catalog, row, recompute="full", recompute_modules="5 layers")
    assert [str(layout).rsplit(" ", 1)[1] for layout in case.layouts] == ["rc=full:5"]


def test_dropped_tokens_pad_the_experts(catalog, row):
    assert build(catalog, row, note="tokendrop; x").job.padded_experts
    assert not build(catalog, row, note="dropless; x").job.padded_experts


def test_the_source_of_a_row_plays_no_part(catalog, row):
    mine, theirs = build(catalog, row), build(catalog, row, id="sc21-77")
    assert (mine.job, mine.layouts, mine.assumptions) == (theirs.job, theirs.layouts, theirs.assumptions)


def test_unknown_recompute_is_tried_from_the_least(catalog, row):
    case = build(catalog, row, recompute="unknown")
    assert [layout.recompute for layout in case.layouts] == [(), ("core_attn",)]
    remat = build(catalog, row, recompute="unknown", hardware_id="tpu-v5p", fast_domain=16)
    assert [layout.recompute for layout in remat.layouts] == [(), ("core_attn",), ("full",)]
    assert "recompute: the least that fits" in case.assumptions


def test_named_modules_are_kept(catalog, row):
    case = build(catalog, row, recompute="selective", recompute_modules="moe_act+layernorm")
    assert case.layouts[0].recompute == ("layernorm", "moe_act")


def test_inline_dimensions_win_over_the_catalog(catalog, row):
    case = build(catalog, row, layers=30, hidden_size=1024, attention_heads=16, ffn_hidden_size=4096, gated_mlp=0)
    assert len(case.job.model.layers) == 30
    assert any("the catalog differs in layers" in words for words in case.assumptions)


def test_a_model_without_id_is_built_from_its_dimensions(catalog, row):
    case = build(
        catalog, row, model_id="", layers=6, hidden_size=512, attention_heads=8, ffn_hidden_size=2048, gated_mlp=0
    )
    assert (case.job.model.hidden, len(case.job.model.layers), case.job.model.vocab) == (512, 6, 51200)
    assert "vocabulary 51200" in case.assumptions


def test_inline_moe_with_a_dense_prefix(catalog, row):
    case = build(
        catalog,
        row,
        model_id="new",
        layers=4,
        hidden_size=512,
        attention_heads=8,
        ffn_hidden_size=2048,
        gated_mlp=1,
        vocab_size=1000,
        tied_embeddings=0,
        experts=16,
        experts_per_token=2,
        moe_ffn_hidden_size=256,
        first_dense_layers=1,
        shared_experts=1,
    )
    model = case.job.model
    assert model.layers == (0, 1, 1, 1)
    assert (model.kinds[1].ffn.experts, model.kinds[1].ffn.shared_width) == (16, 256)


def test_pure_16_bit_state_is_a_recipe_of_its_own(catalog, row):
    assert build(catalog, row, params_dtype="bf16").job.recipe.id == "bf16-pure"
    assert build(catalog, row).job.recipe.id == "bf16"


def test_a_slice_of_a_torus(catalog, row):
    cluster = build(catalog, row, hardware_id="tpu-v5p", fast_domain=128, internode_gbps_per_accel=None).job.cluster
    assert cluster.levels[0].size == 128
    assert cluster.levels[0].dims == (8, 4, 4)


def test_overlap_flags_override_the_framework(catalog, row):
    case = build(catalog, row, overlap="tp_overlap=0;ep_overlap=1;grad_reduce_overlap=1")
    assert case.job.overlap == {"tp": 0.0, "ep": 1.0, "dp": 0.9}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "distillation"}, "method distillation"),
        ({"offload": "nvme"}, "offload of nvme"),
        ({"precision": ""}, "precision not stated"),
        ({"metric": "furlongs"}, "metric furlongs is none of"),
        ({"metric": ""}, "metric not stated"),
        ({"value": float("nan")}, "value not stated"),
        ({"seq_len": None}, "seq_len not stated"),
        ({"micro_batch": None}, "micro_batch not stated"),
        ({"n_accel": 24}, "does not multiply"),
        ({"n_accel": 15}, "does not multiply"),
        ({"micro_batch": 3}, "does not divide"),
        ({"sharding": "zero++"}, "zero\\+\\+"),
        ({"confidence": "recalled"}, "recalled"),
        (
            {"model_id": "", "attention_kind": "mla", "layers": 2, "hidden_size": 64, "attention_heads": 2},
            "mla attention",
        ),
        ({"model_id": "", "hidden_size": None}, "not in the catalog"),
    ],
)
def test_what_cannot_be_priced_says_why(catalog, row, changes, words):
    with pytest.raises(Unsupported, match=words):
        build(catalog, row, **changes)


def test_no_micro_batch_but_one_sequence_per_rank(catalog, row):
    case = build(catalog, row, micro_batch=None, global_batch=4)
    assert case.layouts[0].mbs == 1
    assert any("micro-batch 1" in words for words in case.assumptions)


def test_a_partial_shard_degree_becomes_widths(catalog, row):
    assert build(catalog, row, sharding_degree=2).layouts[0].sharding == "w1-g1-o2"
    whole = {"sharding": "hsdp", "sharding_degree": 2, "pp": 1, "dp": 8}
    assert build(catalog, row, **whole).layouts[0].sharding == "hsdp2"


def test_unknown_models_are_named(catalog, row):
    with pytest.raises(PerfplanError, match="there is no model 'nope'"):
        build(catalog, row, model_id="nope")


@pytest.mark.parametrize(
    "changes, tokens",
    [
        ({"note": "cpu_activation_offload_layers=20"}, "rc=none off=acts:20"),
        (
            {
                "recompute": "selective",
                "recompute_modules": "all but the offloaded q, k, v",
                "note": "qkv_proj_offloaded",
            },
            "rc=full off=qkv",
        ),
        (
            {
                "recompute": "selective",
                "recompute_modules": "all but decoder_layer_input=offload query_proj=offload out_proj=offload",
            },
            "rc=full off=input,out,qkv",
        ),
        ({"recompute": "full"}, "rc=full off=acts"),
        ({"offload": "optimizer_cpu"}, "rc=none off=optim"),
        ({"offload": "optimizer_cpu;activations"}, "rc=none off=acts,optim"),
    ],
)
def test_offload_of_a_row(catalog, row, changes, tokens):
    base = {"offload": "activations", "recompute": "none", "note": ""}
    case = build(catalog, row, **(base | changes))
    assert str(case.layouts[0]).endswith(tokens)


def test_sharded_weights_under_a_pipeline_are_gathered_once_a_step(catalog, row):
    case = build(catalog, row, sharding="zero3", sharding_degree=None, pp=2, dp=4)
    assert case.layouts[0].pp == 2
    assert "zero1" in str(case.layouts[0])
    assert any("gathered" in word for word in case.assumptions)


def test_hybrid_sharding_of_no_stated_degree_stays_in_a_node(catalog, row):
    case = build(catalog, row, sharding="hsdp", sharding_degree=None, tp=1, pp=1, dp=16, accel_per_node=8)
    assert "hsdp8" in str(case.layouts[0])
