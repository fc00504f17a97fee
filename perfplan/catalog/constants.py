"""Which of an accelerator's kernel constants serve a number format, a format of the cache and an engine.

A table of constants is keyed by number format; `dtype:kv` stands for kernels that compute in one format on a cache in
another, `dtype@software` for the kernels of one engine where they differ from those of the plain key.
"""

from __future__ import annotations

from collections.abc import Iterator

from perfplan.catalog.specs import Accelerator, Kernel
from perfplan.errors import Unsupported

__all__ = ["kernel_of", "plain_dtype", "same_units", "variant"]

_NEXT = {"fp16": ("bf16",), "bf16": ("fp16",), "fp8-block": ("fp8",), "mxfp8": ("fp8-block", "fp8"),
         "mxfp4": ("nvfp4",), "tf32": ("fp32",)}
_SAME_UNITS = {"fp8-block": ("fp8",), "mxfp8": ("fp8",), "nvfp4": ("fp4",), "mxfp4": ("fp4", "nvfp4"),
               "bf16": ("fp16",), "fp16": ("bf16",), "tf32": ("fp32",)}


def same_units(dtype: str) -> tuple[str, ...]:
    """Formats whose dense peak is that of `dtype`, itself first: the same matrix units at the same rate.

    >>> same_units("mxfp8"), same_units("int8")
    (('mxfp8', 'fp8'), ('int8',))
    """
    return (dtype, *_SAME_UNITS.get(dtype, ()))


def plain_dtype(key: str) -> str:
    """The number format of a key of a table of constants.

    >>> plain_dtype("bf16:fp8@vllm")
    'bf16'
    """
    return key.partition("@")[0].partition(":")[0]


def variant(dtype: str, kv_dtype: str = "", software: str = "") -> str:
    """The key of kernels that compute in `dtype` on a cache in `kv_dtype`, of the engine `software` ("" = any).

    >>> variant("bf16", "fp8", "vllm"), variant("bf16", "bf16"), variant("fp8", software="trtllm")
    ('bf16:fp8@vllm', 'bf16', 'fp8@trtllm')
    """
    return dtype + f":{kv_dtype}" * (kv_dtype not in ("", dtype)) + f"@{software}" * bool(software)


def _keys(dtype: str, kv_dtype: str, software: str) -> Iterator[str]:
    """Keys from the most special to the most general."""
    for name in (dtype, *_NEXT.get(dtype, ())):
        for kv in (kv_dtype, ""):
            yield variant(name, kv, software)
            yield variant(name, kv)
    yield "any"


def kernel_of(chip: Accelerator, kind: str, dtype: str, kv_dtype: str = "", software: str = "") -> Kernel:
    """Constants of a kernel kind: those of the engine and the cache's format if there are any, else of the format.

    Decode attention is looked up by the format of the cache, and by 16 bits where that has none. Raises Unsupported.
    """
    table = chip.kernels.get(kind, {})
    keys = list(_keys(dtype, kv_dtype, software))
    if kind == "attention_decode":
        keys += _keys("bf16", "", software)
    for key in keys:
        if key in table:
            return table[key]
    raise Unsupported(f"{chip.id} has no constants for {kind} kernels in {dtype}; add them to its YAML")
