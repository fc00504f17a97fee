"""The number format in which a checkpoint is published, by what its `config.json` says of quantisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["published_format"]

_PLAIN = {"bfloat16": "bf16", "float16": "fp16"}  # engines serve checkpoints in 32 bits in 16
_MODELOPT = {"FP8": "fp8", "FP8_PB_WO": "fp8-block", "NVFP4": "nvfp4", "MXFP8": "mxfp8", "W4A16_AWQ": "int4",
             "W4A8_AWQ": "int4-fp8", "INT8_SQ": "int8", "W8A16": "int8-weight"}


def published_format(data: Mapping[str, Any]) -> str | None:
    """The format of the weights: that of `quantization_config`, else of `torch_dtype`; None where a method is unknown.

    >>> published_format({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}})
    'fp8-block'
    >>> published_format({"torch_dtype": "float16"})
    'fp16'
    """
    said = data.get("quantization_config")
    if not isinstance(said, Mapping):
        return _PLAIN.get(str(data.get("torch_dtype") or data.get("dtype")), "bf16")
    method = str(said.get("quant_method") or "").lower().replace("_", "-")
    if method == "fp8":
        return "fp8-block" if said.get("weight_block_size") else "fp8"
    if method in ("awq", "gptq", "auto-round"):
        return {4: "int4", 8: "int8-weight"}.get(_bits(said))
    if method.startswith("modelopt"):
        return _MODELOPT.get(str(said.get("quant_algo") or "").upper())
    if method == "compressed-tensors":
        return _compressed(said)
    return {"mxfp4": "mxfp4", "mxfp8": "mxfp8", "fbgemm-fp8": "fp8"}.get(method)


def _bits(said: Mapping[str, Any]) -> int:
    value = said.get("bits") or said.get("w_bit") or said.get("num_bits")
    return value if isinstance(value, int) else 0


def _compressed(said: Mapping[str, Any]) -> str | None:
    """The format of the first group of compressed-tensors: kind, bits of the weights, inputs narrow or not."""
    groups = said.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    if not isinstance(first, Mapping) or not isinstance(weights, Mapping):
        return None
    both = bool(first.get("input_activations"))
    kind, bits = str(weights.get("type")), _bits(weights)
    blocks = "-block" if weights.get("strategy") == "block" else ""
    return {("float", 8, True): f"fp8{blocks}", ("float", 8, False): f"fp8{blocks}", ("float", 4, True): "nvfp4",
            ("int", 8, True): "int8", ("int", 8, False): "int8-weight", ("int", 4, True): "int4-int8",
            ("int", 4, False): "int4"}.get((kind, bits, both))
