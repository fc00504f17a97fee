"""Decode attention of one layer on one rank: the constants of the chip put into the closed forms.

`attention_decode` is the one to call: with the attention of a model, a batch and its contexts it gives seconds.
"""

from __future__ import annotations

from typing import Any

from perfplan.catalog.constants import kernel_of
from perfplan.catalog.specs import Accelerator, Attention, Kernel
from perfplan.errors import Unsupported
from perfplan.formulas import attention as forms
from perfplan.formulas.compute import kernel_time
from perfplan.formulas.core import maximum, minimum

__all__ = ["attention_decode", "cached_width", "decode_kernel", "latent_decode", "plain_decode"]

_WIDTH = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "nvfp4": 0.5 + 1 / 16, "int4": 0.5}
_QUERY = 2.0  # bytes per element of queries and outputs
_PRODUCTS = "bf16"  # queries stay in 16 bits


def cached_width(kv_dtype: str) -> float:
    """Bytes per element of a cache, scale factors included. Raises Unsupported."""
    if kv_dtype not in _WIDTH:
        raise Unsupported(f"a KV cache in {kv_dtype} is not modelled; choose one of {', '.join(_WIDTH)}")
    return _WIDTH[kv_dtype]


def _peak(chip: Accelerator, *dtypes: str) -> float:
    for dtype in dtypes:
        if dtype in chip.peak:
            return chip.peak[dtype]
    raise Unsupported(f"{chip.id} states no dense peak in {' or '.join(dtypes)}")


def decode_kernel(chip: Accelerator, kv_dtype: str, software: str = "") -> Kernel:
    """Constants of decode attention on a cache in `kv_dtype`, the engine's own where it has some."""
    return kernel_of(chip, "attention_decode", kv_dtype, software=software)


def plain_decode(chip: Accelerator, constants: Kernel, batch: Any, context: Any, heads: Any, kv_heads: Any,
                 key_width: Any, value_width: Any, *, kv_dtype: str) -> Any:
    """Time of decode attention with separate keys and values (MHA, GQA, MQA); any count may be a column [s].

    batch: queries; context: cached tokens that each sees; heads, kv_heads: on this rank; widths per head [1].
    """
    units = chip.units or 1
    width = cached_width(kv_dtype)
    traffic = forms.decode_traffic(batch, context, heads, kv_heads, key_width, value_width, width, _QUERY)
    flops = forms.attention_flops(batch * context, heads, key_width, value_width)
    peak = _peak(chip, _PRODUCTS, "fp16", "fp32")
    return forms.decode_time(
        traffic, flops, batch * kv_heads, constants.memory, chip.memory_bandwidth, units, constants.spread or units,
        constants.start, constants.ramp, constants.compute, peak, constants.overhead)


def latent_decode(chip: Accelerator, constants: Kernel, batch: Any, context: Any, heads: Any, latent: Any, rope: Any,
                  kv_dtype: str) -> Any:
    """Time of absorbed latent decode attention (MLA): the latent read once for all heads, or the products [s].

    With many heads per latent the products fill the matrix units as prefill does, so they reach its fraction of the
    peak; they and the reads overlap.
    """
    prefill = kernel_of(chip, "attention", _PRODUCTS)
    traffic = forms.latent_decode_traffic(batch, context, heads, latent, rope, cached_width(kv_dtype), _QUERY)
    flops = forms.latent_decode_flops(batch, context, heads, latent, rope)
    floor = constants.overhead + minimum(traffic / (constants.start * chip.memory_bandwidth), constants.ramp)
    return kernel_time(flops, traffic, prefill.compute, _peak(chip, _PRODUCTS, "fp16"), constants.memory,
                       chip.memory_bandwidth, floor)


def attention_decode(chip: Accelerator, attention: Attention, batch: Any, context: Any, *, tp: int = 1,
                     kv_dtype: str = "bf16", software: str = "") -> Any:
    """Time of the decode attention of one layer on one rank, the projections around it not counted [s].

    chip: from the catalog; attention: of a layer kind of a model; batch: sequences in the step (times the queries per
    sequence where drafts are checked); context: cached tokens per sequence, the mean where they differ; tp: degree that
    splits the heads (1 for data-parallel attention); kv_dtype: of the cache (bf16, fp8 ...); software: engine (trtllm,
    vllm, sglang), "" for the usual kernels. Batch and context may be NumPy columns. The clock plays no part: decode
    attention waits for memory. Raises Unsupported where the chip has no constants.

    >>> from perfplan.catalog import Catalog
    >>> model = Catalog().model("llama-3.1-8b")
    >>> chip = Catalog().accelerator("h100-sxm")
    >>> 150e-6 < attention_decode(chip, model.kinds[0].mixer, batch=32, context=4096, software="trtllm") < 250e-6
    True
    """
    constants = decode_kernel(chip, kv_dtype, software)
    if attention.kv_lora_rank:
        return latent_decode(chip, constants, batch, context, attention.heads / tp, attention.kv_lora_rank,
                             attention.qk_rope_head_dim, kv_dtype)
    seen = minimum(context, attention.window) if attention.window else context
    kv_heads = maximum(attention.kv_heads, tp) / tp
    return plain_decode(chip, constants, batch, seen, attention.heads / tp, kv_heads, attention.head_dim,
                        attention.v_head_dim, kv_dtype=kv_dtype)
