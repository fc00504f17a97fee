"""Hugging Face configurations of many architectures against the model files, and what is not such a configuration."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from perfplan.catalog import Catalog
from perfplan.catalog.huggingface import model_from_config
from perfplan.catalog.huggingface_keys import ALIASES, FAMILIES, IGNORED, UNMODELLED
from perfplan.catalog.models import model_from_yaml
from perfplan.catalog.parameters import parameters
from perfplan.catalog.specs import Attention
from perfplan.errors import (
    BadQuantity,
    CatalogError,
    Indivisible,
    MissingField,
    OutOfRange,
    PerfplanError,
    UnknownName,
    Unsupported,
)
from perfplan.serving.formats import number_format

MODELS = Path(__file__).parents[2] / "catalogs" / "models"
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32,
         "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
         "max_position_embeddings": 8192, "tie_word_embeddings": False, "rope_theta": 5e5, "torch_dtype": "bfloat16"}
V3 = {"model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
      "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
      "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 18432, "moe_intermediate_size": 2048,
      "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
      "moe_layer_freq": 1, "vocab_size": 129280, "num_nextn_predict_layers": 1, "tie_word_embeddings": False,
      "max_position_embeddings": 163840, "quantization_config": {"quant_method": "fp8"}}
CONFIGS = {
    "llama-3-8b": LLAMA,
    "mistral-7b": {"model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                   "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "sliding_window": 4096},
    "mixtral-8x7b": {"model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                     "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 32000, "sliding_window": None,
                     "num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen2.5-7b": {"model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
                   "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064,
                   "use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 28},
    "qwen3-30b-a3b": {"model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48,
                      "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144,
                      "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8, "mlp_only_layers": [],
                      "decoder_sparse_step": 1, "vocab_size": 151936},
    "qwen3-next-80b-a3b": {
        "model_type": "qwen3_next", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 16,
        "num_key_value_heads": 2, "head_dim": 256, "intermediate_size": 5120, "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512, "num_experts": 512, "num_experts_per_tok": 10, "decoder_sparse_step": 1,
        "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128,
        "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "full_attention_interval": 4, "vocab_size": 151936},
    "deepseek-v3": V3,
    "deepseek-v3.2": V3 | {"model_type": "deepseek_v32", "index_n_heads": 64, "index_head_dim": 128,
                           "index_topk": 2048},
    "deepseek-v2-lite": {
        "model_type": "deepseek_v2", "hidden_size": 2048, "num_hidden_layers": 27, "num_attention_heads": 16,
        "num_key_value_heads": 16, "q_lora_rank": None, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 10944, "moe_intermediate_size": 1408,
        "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
        "vocab_size": 102400},
    "gemma-2-2b": {"model_type": "gemma2", "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8,
                   "num_key_value_heads": 4, "head_dim": 256, "intermediate_size": 9216, "vocab_size": 256000,
                   "sliding_window": 4096},
    "gemma-3-4b": {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": {
        "model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "intermediate_size": 10240,
        "sliding_window": 1024}, "vision_config": {"hidden_size": 1152}},
    "phi-2": {"model_type": "phi", "hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32,
              "intermediate_size": 10240, "vocab_size": 51200, "partial_rotary_factor": 0.4, "qk_layernorm": False},
    "gpt-neox-20b": {"model_type": "gpt_neox", "hidden_size": 6144, "num_hidden_layers": 44, "num_attention_heads": 64,
                     "intermediate_size": 24576, "vocab_size": 50432, "use_parallel_residual": True},
    "gpt2-124m": {"architectures": ["GPT2LMHeadModel"], "n_embd": 768, "n_layer": 12, "n_head": 12,
                  "n_positions": 1024, "n_ctx": 1024, "vocab_size": 50257, "n_inner": None},
    "falcon-40b": {"model_type": "falcon", "hidden_size": 8192, "num_hidden_layers": 60, "num_attention_heads": 128,
                   "num_kv_heads": 8, "new_decoder_architecture": True, "multi_query": True, "vocab_size": 65024,
                   "bias": False, "alibi": False, "parallel_attn": True},
    "falcon-7b": {"model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
                  "num_kv_heads": 71, "new_decoder_architecture": False, "multi_query": True, "vocab_size": 65024},
    "mpt-7b": {"model_type": "mpt", "d_model": 4096, "n_layers": 32, "n_heads": 32, "max_seq_len": 2048,
               "expansion_ratio": 4, "vocab_size": 50368, "no_bias": True, "attn_config": {"alibi": False}},
    "opt-6.7b": {"model_type": "opt", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                 "ffn_dim": 16384, "vocab_size": 50272, "max_position_embeddings": 2048, "word_embed_proj_dim": 4096},
    "bloom-560m": {"model_type": "bloom", "n_embed": 1024, "n_layer": 24, "num_attention_heads": 16,
                   "vocab_size": 250880},
    "gpt-oss-20b": {"model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 24, "num_attention_heads": 64,
                    "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880, "num_local_experts": 32,
                    "num_experts_per_tok": 4, "vocab_size": 201088, "sliding_window": 128, "attention_bias": True,
                    "layer_types": ["sliding_attention", "full_attention"] * 12},
    "nemotron-h-8b": {
        "model_type": "nemotron_h", "hidden_size": 4096, "num_hidden_layers": 52, "num_attention_heads": 32,
        "num_key_value_heads": 8, "attention_head_dim": 128, "intermediate_size": 21504, "mamba_num_heads": 128,
        "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8, "conv_kernel": 4, "chunk_size": 128,
        "vocab_size": 131072, "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"},
    "glm-4.5": {"model_type": "glm4_moe", "hidden_size": 5120, "num_hidden_layers": 92, "num_attention_heads": 96,
                "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "moe_intermediate_size": 1536,
                "n_routed_experts": 160, "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
                "attention_bias": True, "use_qk_norm": True, "vocab_size": 151552},
    "llama-4-maverick": {"model_type": "llama4", "text_config": {
        "model_type": "llama4_text", "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
        "num_local_experts": 128, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
        "attention_chunk_size": 8192, "vocab_size": 202048, "use_qk_norm": False}},
    "dbrx": {"model_type": "dbrx", "d_model": 6144, "n_layers": 40, "n_heads": 48, "max_seq_len": 32768,
             "attn_config": {"kv_n_heads": 8}, "vocab_size": 100352,
             "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4}},
    "gemma-4-31b": {"model_type": "gemma4", "text_config": {
        "model_type": "gemma4_text", "hidden_size": 5376, "num_hidden_layers": 60, "num_attention_heads": 32,
        "num_key_value_heads": 16, "num_global_key_value_heads": 4, "head_dim": 256, "global_head_dim": 512,
        "attention_k_eq_v": True, "intermediate_size": 21504, "vocab_size": 262144, "sliding_window": 1024,
        "num_kv_shared_layers": 0, "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 10}},
    "deepseek-v4-flash": {
        "model_type": "deepseek_v4", "hidden_size": 4096, "num_hidden_layers": 43, "num_attention_heads": 64,
        "num_key_value_heads": 1, "head_dim": 512, "q_lora_rank": 1024, "o_lora_rank": 1024, "o_groups": 8,
        "qk_rope_head_dim": 64, "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1,
        "num_experts_per_tok": 6, "index_n_heads": 64, "index_head_dim": 128, "index_topk": 512, "hc_mult": 4,
        "sliding_window": 128, "vocab_size": 129280, "compress_ratios": [0, 0] + [4, 128] * 20 + [4, 0]},
    "mimo-v2-flash": {
        "model_type": "mimo_v2_flash", "hidden_size": 4096, "num_hidden_layers": 48, "num_attention_heads": 64,
        "num_key_value_heads": 4, "swa_num_key_value_heads": 8, "head_dim": 192, "v_head_dim": 128,
        "intermediate_size": 16384, "moe_intermediate_size": 2048, "n_routed_experts": 256, "num_experts_per_tok": 8,
        "moe_layer_freq": [0] + [1] * 47, "hybrid_layer_pattern": [0, 1, 1, 1, 1] + [0, 1, 1, 1, 1, 1] * 7 + [0],
        "sliding_window": 128, "vocab_size": 152576},
    "glm-5.2": V3 | {
        "model_type": "glm_moe_dsa", "hidden_size": 6144, "num_hidden_layers": 78, "num_attention_heads": 64,
        "q_lora_rank": 2048, "qk_nope_head_dim": 192, "v_head_dim": 256, "intermediate_size": 12288,
        "vocab_size": 154880, "index_n_heads": 32, "index_head_dim": 128, "index_topk": 2048,
        "indexer_types": ["full"] * 2 + ["full", "shared", "shared", "shared"] * 19},
}


def load(name):
    return model_from_yaml(yaml.safe_load((MODELS / f"{name}.yaml").read_text()), name)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_gives_the_same_model_as_the_file(name):
    model, wanted = model_from_config(CONFIGS[name], f"{name}/config.json"), load(name)
    got, expected = parameters(model), parameters(wanted)
    assert got.matrices == expected.matrices
    assert got.total == pytest.approx(expected.total, rel=2e-4)
    assert got.active == pytest.approx(expected.active, rel=2e-4)
    assert [type(model.kinds[index].ffn) for index in model.layers] == [
        type(wanted.kinds[index].ffn) for index in wanted.layers]
    for ours, theirs in zip(model.layers, wanted.layers, strict=True):
        mixer, other = model.kinds[ours].mixer, wanted.kinds[theirs].mixer
        assert type(mixer) is type(other)
        if isinstance(mixer, Attention):
            assert (mixer.window, mixer.chunked, mixer.kv_heads, mixer.index_topk) == (
                other.window, other.chunked, other.kv_heads, other.index_topk)


def test_there_are_tests_for_the_main_architectures():
    assert len({config.get("model_type") for config in CONFIGS.values()}) >= 16


def test_id_and_notes():
    model = model_from_config(V3, "/tmp/My DeepSeek/config.json")
    assert model.id == "my-deepseek"
    assert any("quantised (fp8)" in note for note in model.notes)
    assert model.mtp_layers == 1
    gemma = model_from_config(CONFIGS["gemma-3-4b"], "config.json")
    assert any("images" in note for note in gemma.notes)
    assert any("num_attention_heads = 8 is the default of gemma3_text" in note for note in gemma.notes)


def test_unknown_key_of_a_known_architecture_is_a_note():
    model = model_from_config(LLAMA | {"quantum_heads": 7, "eos_token_id": 2}, "config.json")
    assert any("quantum_heads" in note and "eos_token_id" not in note for note in model.notes)


def test_unknown_architecture_lists_its_strange_keys():
    config = LLAMA | {"model_type": "zeta", "architectures": ["ZetaForCausalLM"], "zeta_rank": 3}
    with pytest.raises(Unsupported, match=r"zeta is not known, nor are its keys zeta_rank; describe the model"):
        model_from_config(config, "config.json")


BAD = [
    (None, CatalogError, "language model"), ([], CatalogError, "language model"), ("x", CatalogError, "language model"),
    ({}, CatalogError, "neither model_type"), ({"name": "left-pad", "version": "1.0"}, CatalogError, "neither"),
    ({"model_type": "t5", "is_encoder_decoder": True}, Unsupported, "encoder with a decoder"),
    ({"model_type": "vit", "hidden_size": 768, "image_size": 224}, Unsupported, "vit is not known"),
    ({"model_type": "bert", "hidden_size": 768}, Unsupported, "bert is not known"),
    ({"model_type": "llama"}, MissingField, "hidden_size"),
    ({"model_type": ["llama"]}, Unsupported, "not known"),
    (LLAMA | {"num_hidden_layers": None}, MissingField, "num_hidden_layers"),
    (LLAMA | {"vocab_size": "128256"}, BadQuantity, "whole number"),
    (LLAMA | {"hidden_size": 4096.5}, BadQuantity, "hidden_size"),
    (LLAMA | {"hidden_size": -4096}, OutOfRange, "hidden_size"),
    (LLAMA | {"hidden_size": 10**30}, OutOfRange, "hidden_size"),
    (LLAMA | {"num_hidden_layers": 10**7}, OutOfRange, "layers"),
    (LLAMA | {"num_key_value_heads": 7}, Indivisible, "7 key/value heads"),
    (LLAMA | {"num_attention_heads": 33}, MissingField, "head_dim"),
    (LLAMA | {"intermediate_size": None}, MissingField, "intermediate_size"),
    (LLAMA | {"tie_word_embeddings": "no"}, BadQuantity, "true or false"),
    (LLAMA | {"layer_types": ["full_attention"]}, BadQuantity, "list of 32"),
    (LLAMA | {"layer_types": ["retention"] * 32}, Unsupported, "retention"),
    (LLAMA | {"cross_attention_layers": [3, 8]}, Unsupported, "cross-attention"),
    (CONFIGS["mixtral-8x7b"] | {"num_experts_per_tok": 9}, OutOfRange, "9 of 8 experts"),
    (CONFIGS["mixtral-8x7b"] | {"num_experts_per_tok": None}, MissingField, "num_experts_per_tok"),
    (V3 | {"moe_layer_freq": [1, 0]}, BadQuantity, "moe_layer_freq"),
    (V3 | {"mlp_only_layers": 3}, BadQuantity, "mlp_only_layers"),
    (CONFIGS["opt-6.7b"] | {"word_embed_proj_dim": 512}, Unsupported, "word_embed_proj_dim"),
    (CONFIGS["nemotron-h-8b"] | {"hybrid_override_pattern": "MQ" * 26}, Unsupported, "'Q'"),
    (CONFIGS["nemotron-h-8b"] | {"hybrid_override_pattern": "M-"}, BadQuantity, "52 layers but 2"),
    (LLAMA | {"compress_ratios": [4] * 32}, Unsupported, "compress_ratios"),
    (LLAMA | {"linear_attn_config": {"num_heads": 3}}, Unsupported, "linear_attn_config"),
    (CONFIGS["deepseek-v4-flash"] | {"compress_ratios": [4]}, BadQuantity, "compress_ratios"),
    (CONFIGS["mimo-v2-flash"] | {"hybrid_layer_pattern": [1]}, BadQuantity, "hybrid_layer_pattern"),
    (LLAMA | {"model_type": "kimi_linear", "linear_attn_config": 3}, CatalogError, "linear_attn_config"),
    (LLAMA | {"model_type": "nemotron-nas", "block_configs": [3] * 32}, BadQuantity, "block_configs"),
    (CONFIGS["nemotron-h-8b"] | {"hybrid_override_pattern": 5}, BadQuantity, "hybrid_override_pattern")]


@pytest.mark.parametrize(("config", "error", "word"), BAD, ids=[f"{word}-{i}" for i, (_, _, word) in enumerate(BAD)])
def test_bad_configurations_give_one_sentence(config, error, word):
    with pytest.raises(error) as caught:
        model_from_config(config, "some/config.json")
    message = str(caught.value)
    assert "some/config.json" in message and word in message and "\n" not in message
    assert isinstance(caught.value, PerfplanError) and caught.value.exit_code == 2


@pytest.mark.parametrize(("name", "id_"), [
    ("llama-3.1-405b", "llama-3.1-405b"), ("meta-llama/Llama-3.1-405B", "llama-3.1-405b"),
    ("meta-llama/meta-llama-3.1-405b", "llama-3.1-405b"), ("deepseek-ai/DeepSeek-R1", "deepseek-v3")])
def test_models_have_hub_names(name, id_):
    assert Catalog().model(name).id == id_


def test_a_folder_or_a_file_is_a_name_too(tmp_path):
    folder = tmp_path / "own-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    models = [Catalog().model(str(place)) for place in (folder, folder / "config.json")]
    assert [model.id for model in models] == ["own-model", "own-model"]
    assert parameters(models[0]).total == 8_030_261_248


@pytest.mark.parametrize(("name", "error", "word"), [
    ("meta-llama/Lama-3.1-405B", UnknownName, "did you mean meta-llama/Llama-3.1-405B"),
    ("lama-3.1-405b", UnknownName, "did you mean llama-3.1-405b"), ("no/such/config.json", CatalogError, "no/such")])
def test_names_of_nothing(name, error, word):
    with pytest.raises(error) as caught:
        Catalog().model(name)
    assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\x00", "{\"a\": " * 100_000, "\ufeff{}", "3"])
def test_files_that_are_no_configuration(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CatalogError) as caught:
        Catalog().model(str(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def places(data, path=()):
    """Every place in nested mappings and lists."""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        yield *path, key
        yield from places(value, (*path, key))


JUNK = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3),
                 st.lists(st.none(), max_size=2), st.dictionaries(st.text(max_size=2), st.integers(), max_size=2))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(CONFIGS)), st.data())
def test_a_spoilt_configuration_is_a_model_or_one_sentence(name, data):
    config = copy.deepcopy(CONFIGS[name])
    *path, key = data.draw(st.sampled_from(list(places(config))))
    spoilt = config
    for step in path:
        spoilt = spoilt[step]
    spoilt[key] = data.draw(JUNK)
    try:
        assert parameters(model_from_config(config, "config.json")).total > 0
    except PerfplanError as error:
        assert "config.json" in str(error) and "\n" not in str(error)


def test_tables_do_not_contradict_each_other():
    read = {key for keys in ALIASES.values() for key in keys}
    assert not read & IGNORED
    assert not set(UNMODELLED) & (read | IGNORED)
    assert all(set(family.defaults) <= set(ALIASES) for family in FAMILIES.values())


def test_configurations_are_json():
    assert json.loads(json.dumps(CONFIGS)) == CONFIGS


def test_layers_of_a_multi_token_prediction_module():
    config = next(data for data in CONFIGS.values() if data.get("model_type") == "nemotron_h")
    pattern = config.get("hybrid_override_pattern")
    letters = list(dict.fromkeys(pattern))
    model = model_from_config({**config, "num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": letters[:2]},
                              "config.json")
    assert model.mtp_block == (0, 1) and model.prediction_block == (0, 1)
    assert model_from_config(config, "config.json").mtp_block == ()


QUANTISED = {
    "fp8-block": {"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8": {"quant_method": "fp8"},
    "mxfp4": {"quant_method": "mxfp4"}, "int4": {"quant_method": "awq", "bits": 4},
    "int8-weight": {"quant_method": "gptq", "bits": 8}, "nvfp4": {"quant_method": "modelopt", "quant_algo": "NVFP4"},
    "int8": {"quant_method": "compressed-tensors", "config_groups": {"group_0": {
        "input_activations": {"num_bits": 8}, "weights": {"num_bits": 8, "type": "int"}}}},
}


@pytest.mark.parametrize("name", QUANTISED)
def test_the_format_of_a_quantised_checkpoint(name):
    config = LLAMA | {"quantization_config": QUANTISED[name]}
    model = model_from_config(config, "config.json")
    assert model.dtype == name and number_format(name).id == name
    nested = {"model_type": "mistral3", "text_config": config, "quantization_config": QUANTISED[name]}
    assert model_from_config(nested, "config.json").dtype == name


def test_a_method_that_is_not_modelled_is_told():
    model = model_from_config(LLAMA | {"quantization_config": {"quant_method": "quip"}}, "c.json")
    assert model.dtype == "bf16"
    assert any("quip" in note and "two bytes a weight are taken" in note for note in model.notes)


RECENT = {
    "granite-4.0-h-small": (32.3e9, {
        "model_type": "granitemoehybrid", "hidden_size": 4096, "num_hidden_layers": 40, "intermediate_size": 768,
        "layer_types": (["mamba"] * 5 + ["attention"] + ["mamba"] * 4) * 4, "num_attention_heads": 32,
        "num_key_value_heads": 8, "num_local_experts": 72, "num_experts_per_tok": 10, "shared_intermediate_size": 1536,
        "mamba_d_head": 64, "mamba_d_state": 128, "mamba_n_groups": 1, "mamba_n_heads": 128, "mamba_d_conv": 4,
        "vocab_size": 100352}),
    "ernie-4.5-300b-a47b": (300e9, {
        "model_type": "ernie4_5_moe", "hidden_size": 8192, "num_hidden_layers": 54, "intermediate_size": 28672,
        "num_attention_heads": 64, "num_key_value_heads": 8, "moe_num_experts": 64, "moe_k": 8,
        "moe_intermediate_size": 3584, "moe_layer_start_index": 3, "moe_layer_end_index": 53, "vocab_size": 103424,
        "tie_word_embeddings": False}),
}


@pytest.mark.parametrize("name", RECENT)
def test_recent_families_have_their_published_size(name):
    published, config = RECENT[name]
    assert parameters(model_from_config(config, "config.json")).total == pytest.approx(published, rel=0.01)
