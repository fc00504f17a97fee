"""Tables for reading Hugging Face `config.json` files: names of keys, and what each architecture leaves unsaid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ALIASES", "FAMILIES", "FLATTENED", "IGNORED", "NESTED", "SPECIAL", "UNMODELLED", "Family"]

ALIASES: Mapping[str, tuple[str, ...]] = {
    "hidden": ("hidden_size", "n_embd", "d_model", "n_embed"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "kv_n_heads", "n_head_kv"),
    "head_dim": ("head_dim", "attention_head_dim"),
    "v_head_dim": ("v_head_dim",),
    "width": ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "inner_hidden_size"),
    "vocab": ("vocab_size", "padded_vocab_size"),
    "max_position": ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length"),
    "tied": ("tie_word_embeddings",),
    "attention_bias": ("attention_bias", "qkv_bias", "use_qkv_bias", "use_bias", "bias", "enable_bias"),
    "mlp_bias": ("mlp_bias",),
    "qk_norm": ("use_qk_norm", "qk_layernorm"),
    "experts": ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"),
    "top_k": ("num_experts_per_tok", "top_k_experts", "experts_per_token", "moe_top_k", "num_experts_per_token",
              "moe_k"),
    "expert_width": ("moe_intermediate_size", "expert_intermediate_size"),
    "shared_width": ("shared_expert_intermediate_size", "shared_intermediate_size", "share_expert_dim"),
    "shared_each": ("moe_shared_expert_intermediate_size",),
    "shared": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"),
    "dense_first": ("first_k_dense_replace", "moe_layer_start_index"),
    "dense_layers": ("mlp_only_layers",),
    "moe_step": ("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval"),
    "moe_frequency": ("moe_layer_freq",),
    "latent": ("moe_latent_size", "routed_expert_hidden_size"),
    "groups": ("n_group",),
    "group_limit": ("topk_group",),
    "dense_beside": ("enable_moe_block",),
    "global_head_dim": ("global_head_dim",),
    "global_kv_heads": ("num_global_key_value_heads",),
    "kv_shared": ("attention_k_eq_v",),
    "ratios": ("compress_ratios",),
    "o_lora_rank": ("o_lora_rank",),
    "o_groups": ("o_groups",),
    "streams": ("hc_mult",),
    "delta": ("linear_attn_config",),
    "sparse": ("sparse_attention_config",),
    "blocks_nas": ("block_configs",),
    "windowed_layers": ("hybrid_layer_pattern",),
    "window_kv_heads": ("swa_num_key_value_heads",),
    "window_heads": ("swa_num_attention_heads",),
    "window_head_dim": ("swa_head_dim",),
    "window_v_head_dim": ("swa_v_head_dim",),
    "layer_types": ("layer_types",),
    "window": ("sliding_window", "sliding_window_size", "attention_window_size"),
    "window_pattern": ("sliding_window_pattern", "_sliding_window_pattern"),
    "use_window": ("use_sliding_window",),
    "chunk": ("attention_chunk_size",),
    "rope_layers": ("no_rope_layers",),
    "rope_interval": ("no_rope_layer_interval",),
    "q_lora_rank": ("q_lora_rank",),
    "kv_lora_rank": ("kv_lora_rank",),
    "nope": ("qk_nope_head_dim",),
    "rope": ("qk_rope_head_dim",),
    "index_heads": ("index_n_heads",),
    "index_head_dim": ("index_head_dim",),
    "index_topk": ("index_topk",),
    "mtp": ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules"),
    "pattern": ("hybrid_override_pattern",),
    "mtp_pattern": ("mtp_hybrid_override_pattern", "mtp_layers_block_type"),
    "blocks": ("layers_block_type",),
    "moe_types": ("mlp_layer_types",),
    "indexers": ("indexer_types",),
    "mamba_heads": ("mamba_num_heads", "mamba_n_heads"),
    "mamba_head_dim": ("mamba_head_dim", "mamba_d_head"),
    "mamba_state": ("ssm_state_size", "mamba_d_state"),
    "mamba_groups": ("n_groups", "mamba_n_groups"),
    "mamba_conv": ("conv_kernel", "mamba_d_conv"),
    "mamba_chunk": ("chunk_size", "mamba_chunk_size"),
    "linear_qk_heads": ("linear_num_key_heads",),
    "linear_v_heads": ("linear_num_value_heads",),
    "linear_qk_head_dim": ("linear_key_head_dim",),
    "linear_v_head_dim": ("linear_value_head_dim",),
    "linear_conv": ("linear_conv_kernel_dim",),
    "full_interval": ("full_attention_interval",),
    "output_gate": ("attn_output_gate", "attention_output_gate", "mla_use_output_gate"),
    "dense_width": ("intermediate_size_mlp", "dense_intermediate_size"),
    "expansion": ("expansion_ratio",),
    "no_bias": ("no_bias",),
    "alibi": ("alibi",),
    "learned": ("learned_pos_emb",),
    "multi_query": ("multi_query",),
    "new_decoder": ("new_decoder_architecture",),
    "parallel": ("use_parallel_residual", "parallel_attn"),
    "projection": ("word_embed_proj_dim",),
    "attention_types": ("attn_type_list",),
}
"""What perfplan calls a dimension -> the keys that state it, first one wins."""

NESTED = ("text_config", "llm_config", "language_config")
"""Keys under which a model for images or sound keeps its language model."""

FLATTENED = ("attn_config", "ffn_config")
"""Keys whose mapping is read as if it stood one level up (MPT, DBRX)."""

_IGNORED = """
_attn_implementation _attn_implementation_autoset _name_or_path absolute_position_embedding activation
activation_function activation_situ_beta activation_situ_linear_beta add_bias_linear add_full_attention_sink_bias
add_swa_attention_sink_bias apply_query_key_layer_scaling apply_residual_connection_post_layernorm architectures
attention_dropout attention_layer_norm attention_layers attention_multiplier attention_sink attention_softmax_in_fp32
attention_value_scale attn_dropout attn_impl attn_logit_softcapping attn_pdrop attn_res_block_size attn_scale
attn_temperature_tuning attn_type attn_uses_sequence_id audio_config auto_map aux_loss_alpha bad_words_ids
begin_suppress_tokens boi_token_index bos_token_id cache_implementation chunk_size_feed_forward clip_qkv
compress_rope_theta cross_attention_hidden_size decoder_start_token_id diversity_penalty do_layer_norm_before do_sample
dropout dtype early_stopping emb_pdrop embd_pdrop embed_dropout embed_pdrop embedding_dropout embedding_multiplier
encoder_no_repeat_ngram_size eoi_token_index eos_token_id ep_size expand expert_dtype exponential_decay_length_penalty
ffn_act_fn ffn_dropout ffn_type final_logit_softcapping finetuning_task floor_scale for_llm_compressor force_bf16
forced_bos_token_id forced_eos_token_id fp32_logits fused_rms_norm gradient_checkpointing hc_eps hc_sinkhorn_iters
head_dim_rope hidden_act hidden_activation hidden_dropout hidden_dropout_prob id2label image_size image_token_id
image_token_index index_rope_interleave index_share_for_mtp_iteration index_skip_topk_offset index_topk_freq
indexer_rope_interleave init_config init_device init_method init_std initial_context_length initializer_cutoff_factor
initializer_range interpolation_factor is_decoder label2id latent_moe_use_norm layer_norm_elementwise_affine
layer_norm_eps layer_norm_epsilon layer_norm_type layerdrop layernorm_epsilon length_penalty logit_scale logit_soft_cap
logits_scaling low_precision_layernorm mamba_conv_bias mamba_dt_rank mamba_expand mamba_hidden_act mamba_proj_bias
mamba_ssm_cache_dtype mamba_ssm_dtype masked_softmax_fusion max_length max_window_layers min_length mla_use_nope
mlp_hidden_act mm_tokens_per_image model_type moe_capacity moe_jitter_eps
moe_loss_weight moe_normalize_expert_weights moe_renormalize moe_router_activation_func moe_router_dtype
moe_router_scaling_factor moe_shared_expert_overlap moe_use_aux_free mrope_section mtp_num_layers
mtp_transformer_layers mtp_use_dedicated_embeddings multi_modal_projector_bias mup_width_multiplier
no_repeat_ngram_size norm_eps norm_epsilon norm_topk_prob norm_type normalization_function num_beam_groups num_beams
num_expert_group num_hash_layers num_logits_to_keep num_return_sequences offset_alibi original_max_position_embeddings
output_attentions output_gate_type output_hidden_states output_router_logits output_router_logits_in_eval output_scores
pad_token_id partial_rotary_factor partial_rotary_factors patch_size pdrop position_embedding_type prefix prefix_lm
pretraining_tp problem_type pruned_heads qk_head_dim qk_ln qk_norm_type qk_rope_interleave quantization
quantization_config query_pre_attn_scalar remove_bias remove_invalid_values repetition_penalty rescale_prenorm_residual
resid_pdrop residual_dropout residual_dropout_prob residual_in_fp32 residual_multiplier return_dict
return_dict_in_generate rms_norm rms_norm_eps rope rope_interleave rope_local_base_freq rope_local_theta
rope_parameters rope_pct rope_ratio rope_scaling rope_theta rope_type rotary rotary_dim rotary_emb_base rotary_pct
routed_scaling_factor router_aux_loss_coef router_dtype router_jitter_noise router_scaling_factor router_z_loss_coef
scale_attention_softmax_in_fp32 scale_attn_by_inverse_layer_idx scale_attn_weights scaling_factor scoring_func
scoring_function sep_token_id seq_aux shared_expert_gate skip_bias_add skip_bias_add_qkv slow_but_exact softmax_scale
spatial_merge_size special_tokens_map summary_activation summary_first_dropout summary_proj_to_labels summary_type
summary_use_proj suppress_tokens swa_rope_theta swiglu_alpha swiglu_limit task_specific_params temperature
tf_legacy_loss tie_encoder_decoder time_step_floor time_step_limit time_step_max time_step_min time_step_rank
token_dropping tokenizer_class tokenizer_name top_k top_p topk_method torch_dtype torchscript transformers_version
typical_p uniform_routing unk_token_id use_bfloat16 use_bidirectional_attention use_cache use_cache_kernel
use_conv_bias use_flash_attn use_gemma_norm use_grouped_topk use_mamba_kernels use_moe_gate use_moe_router_bias
use_mrope use_mtp use_routing_bias verbose video_token_id vision_config vision_end_token_id vision_feature_layer
vision_start_token_id vision_token_id visual vocab_size_per_layer_input
"""

IGNORED = frozenset(_IGNORED.split())
"""Keys that change neither a dimension nor the work of a step: token ids, dropout, scales, position scaling ..."""

UNMODELLED: Mapping[str, str] = {
    "is_encoder_decoder": "an encoder with a decoder", "cross_attention_layers": "cross-attention to images",
    "add_cross_attention": "cross-attention", "per_layer_input_width": "per-layer embeddings",
    "hidden_size_per_layer_input": "per-layer embeddings", "num_kv_shared_layers": "key/value caches shared by layers",
    "use_double_wide_mlp": "MLPs of unequal width", "zero_expert_num": "zero experts",
    "lightning_attn": "lightning attention", "use_mamba1": "Mamba-1 mixers"}
"""Keys that, when set, mean a feature that `config.json` files are not read with; a model file may still state it."""


@dataclass(frozen=True)
class Family:
    """What the code of an architecture fixes and its `config.json` does not say.

    bias, output_bias: on the attention projections; tied: default where the file is silent; defaults: dimension (a key
    of `ALIASES`) -> value of the architecture's configuration class; experts_share_width: `width` is that of an expert.
    """

    norm: str = "rms"
    positional: str = "rope"
    gated: bool = True
    parallel: bool = False
    bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    weightless_qk_norm: bool = False
    post_norm: bool = False
    output_gate: bool = False
    tied: bool = False
    experts_share_width: bool = False
    shared: int = 0
    defaults: Mapping[str, Any] = field(default_factory=dict)


GPT = Family(norm="layer", gated=False, bias=True, output_bias=True, mlp_bias=True)
QWEN3 = Family(qk_norm=True, defaults={"head_dim": 128})
QWEN_NEXT = Family(qk_norm=True, output_gate=True, defaults={
    "head_dim": 256, "full_interval": 4, "linear_conv": 4, "linear_qk_head_dim": 128, "linear_v_head_dim": 128})
GEMMA3 = Family(qk_norm=True, post_norm=True, tied=True, defaults={
    "heads": 8, "kv_heads": 4, "head_dim": 256, "vocab": 262208, "window_pattern": 6, "max_position": 131072,
    "window": 4096})
DEEPSEEK = Family()

FAMILIES: Mapping[str, Family] = {
    "llama": Family(), "mistral": Family(), "mistral3": Family(), "ministral": Family(), "yi": Family(),
    "mixtral": Family(experts_share_width=True),
    "llama4_text": Family(experts_share_width=True, shared=1, weightless_qk_norm=True), "step3p7": Family(),
    "qwen2": Family(bias=True), "qwen2_5_vl_text": Family(bias=True), "qwen2_vl": Family(bias=True),
    "qwen2_5_vl": Family(bias=True), "qwen2_moe": Family(bias=True),
    "qwen3": QWEN3, "qwen3_moe": QWEN3, "qwen3_vl_text": QWEN3, "qwen3_vl_moe_text": QWEN3,
    "qwen3_next": QWEN_NEXT, "qwen3_5_text": QWEN_NEXT, "qwen3_5_moe_text": QWEN_NEXT,
    "deepseek": DEEPSEEK, "deepseek_v2": DEEPSEEK, "deepseek_v3": DEEPSEEK, "deepseek_v32": DEEPSEEK,
    "kimi_k2": DEEPSEEK, "glm_moe_dsa": DEEPSEEK, "bailing_moe": Family(), "moonlight": DEEPSEEK,
    "gemma": Family(tied=True, defaults={"head_dim": 256}),
    "gemma2": Family(post_norm=True, tied=True, defaults={"head_dim": 256, "window": 4096, "window_pattern": 2}),
    "gemma3": GEMMA3, "gemma3_text": GEMMA3,
    "phi": Family(norm="layer", gated=False, parallel=True, bias=True, output_bias=True, mlp_bias=True),
    "phi3": Family(), "phimoe": Family(norm="layer", bias=True, output_bias=True, experts_share_width=True),
    "gpt_neox": Family(norm="layer", gated=False, bias=True, output_bias=True, mlp_bias=True,
                       defaults={"parallel": True}),
    "gptj": Family(norm="layer", gated=False, parallel=True, mlp_bias=True),
    "gpt2": Family(norm="layer", positional="learned", gated=False, bias=True, output_bias=True, mlp_bias=True,
                   tied=True),
    "gpt_bigcode": Family(norm="layer", positional="learned", gated=False, bias=True, output_bias=True, mlp_bias=True,
                          tied=True, defaults={"multi_query": True}),
    "opt": Family(norm="layer", positional="learned", gated=False, bias=True, output_bias=True, mlp_bias=True,
                  tied=True),
    "bloom": Family(norm="layer", positional="alibi", gated=False, bias=True, output_bias=True, mlp_bias=True,
                    tied=True),
    "falcon": Family(norm="layer", gated=False, tied=True, defaults={"parallel": True, "multi_query": True}),
    "mpt": Family(norm="layer", positional="learned", gated=False, tied=True, defaults={"expansion": 4}),
    "gpt_oss": Family(bias=True, output_bias=True, experts_share_width=True,
                      defaults={"window": 128, "window_pattern": 2}),
    "nemotron": Family(norm="layer", gated=False), "nemotron_h": Family(positional="none", gated=False),
    "glm": Family(bias=True), "glm4": Family(bias=True, post_norm=True), "glm4_moe": Family(),
    "minimax_m2": Family(qk_norm=True, experts_share_width=True),
    "olmo": Family(norm="layer"), "olmo2": Family(qk_norm=True), "olmo3": Family(qk_norm=True),
    "olmoe": Family(qk_norm=True, experts_share_width=True),
    "granite": Family(), "granitemoe": Family(experts_share_width=True, tied=True), "granitemoeshared": Family(
        experts_share_width=True, tied=True),
    "granitemoehybrid": Family(experts_share_width=True, tied=True),
    "ernie4_5": Family(tied=True), "ernie4_5_moe": Family(tied=True),
    "cohere": Family(norm="layer", parallel=True, tied=True),
    "cohere2": Family(norm="layer", parallel=True, tied=True, defaults={"window_pattern": 4}),
    "stablelm": Family(norm="layer"), "internlm2": Family(), "internlm3": Family(), "baichuan": Family(),
    "starcoder2": Family(norm="layer", gated=False, bias=True, output_bias=True, mlp_bias=True, tied=True),
    "dbrx": Family(norm="layer", experts_share_width=True), "smollm3": Family(tied=True), "seed_oss": Family(bias=True),
    "gemma4_text": Family(qk_norm=True, post_norm=True, tied=True), "deepseek_v4": Family(),
    "deepseek_ref": Family(), "kimi_linear": Family(positional="none"), "mimo_v2_flash": Family(),
    "minimax_m3": Family(qk_norm=True, experts_share_width=True),
    "minimax_m3_vl": Family(qk_norm=True, experts_share_width=True), "nemotron-nas": Family(),
    "exaone": Family(), "mimo": Family(bias=True), "hunyuan_v1_dense": Family(qk_norm=True),
}
"""`model_type` of the (text) configuration -> what its code fixes."""

SPECIAL: Mapping[str, tuple[str, ...]] = {
    "kv_shared": ("gemma4_text",), "ratios": ("deepseek_v4", "deepseek_ref"),
    "o_lora_rank": ("deepseek_v4", "deepseek_ref"), "streams": ("deepseek_v4", "deepseek_ref"),
    "delta": ("kimi_linear",), "sparse": ("minimax_m3", "minimax_m3_vl"), "blocks_nas": ("nemotron-nas",),
    "windowed_layers": ("mimo_v2_flash",), "global_head_dim": ("gemma4_text",)}
"""Features that only the architectures named here are read with: elsewhere they are an error."""
