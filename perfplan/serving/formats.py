"""Number formats of served weights: bytes per weight with scales, what the matrix units compute in, what stays wide."""

from __future__ import annotations

import re
from dataclasses import dataclass

from perfplan.errors import Unsupported, offer

__all__ = ["FORMATS", "Format", "number_format"]

QUANTISED = ("attention", "indexer", "mamba", "linear_attention", "mlp", "shared", "experts", "latent")


@dataclass(frozen=True)
class Format:
    """weight: bytes per quantised weight, scales included; units: dtype that the matrix units compute in; inputs: bytes
    per element of their inputs; head, embedding: bytes per weight of the vocabulary matrices; parts: what is quantised,
    the rest has two bytes; otherwise: what products run in where the chip lacks `units`, "" = it cannot run there."""

    id: str
    weight: float
    units: str
    inputs: float = 2.0
    head: float = 2.0
    embedding: float = 2.0
    parts: tuple[str, ...] = QUANTISED
    otherwise: str = ""
    source: str = "definition"


_GGUF = "llama.cpp k-quants: q4_K 4.5 bits, q6_K 6.5625 bits; 0.6 B per layer weight makes the published file sizes"
FORMATS = {one.id: one for one in (
    Format("fp32", 4.0, "fp32", 4.0, 4.0, 4.0),
    Format("bf16", 2.0, "bf16", otherwise="fp16"),
    Format("fp16", 2.0, "fp16", otherwise="bf16"),
    Format("fp8", 1.0, "fp8", 1.0),
    Format("fp8-block", 1 + 4 / 128**2, "fp8-block", 1.0, source="one fp32 scale per block of 128 x 128 (DeepSeek-V3)"),
    Format("mxfp8", 1 + 1 / 32, "mxfp8", 1.0, source="OCP microscaling: one byte per 32 elements"),
    Format("int8", 1.0, "int8", 1.0),
    Format("int8-weight", 1.0, "fp16", source="weights alone in int8, products in 16 bits"),
    Format("int4", 0.5 + 4 / 128, "fp16", source="AWQ and GPTQ: a 16-bit scale and zero point per 128 weights"),
    Format("int4-int8", 0.5 + 4 / 128, "int8", 1.0, source="QServe W4A8: as int4, products in int8"),
    Format("q4_k_m", 0.6, "fp16", 2.0, 0.8203, 0.5625, source=_GGUF),
    Format("q8_0", 1.0625, "fp16", 2.0, 1.0625, 1.0625, source="llama.cpp: a 16-bit scale per 32 weights"),
    Format("nvfp4", 0.5625, "nvfp4", 0.5625, source="one fp8 scale per 16 weights"),
    Format("mxfp4", 0.53125, "mxfp4", 2.0, parts=("experts",), otherwise="bf16",
           source="gpt-oss: experts alone, a byte per 32 weights"),
)}
_ALIASES = {"awq": "int4", "gptq": "int4", "w4a16": "int4", "w4a8": "int4-int8", "fp4": "nvfp4", "half": "fp16",
            "w8a8": "int8", "fp8-tensor": "fp8", "fp8_block": "fp8-block"}


def number_format(name: str) -> Format:
    """The format of that name or alias; `4.25bpw` is ExLlamaV2's own format with so many bits per weight.

    >>> number_format("awq").weight, number_format("4bpw").weight
    (0.53125, 0.5)
    """
    if bits := re.fullmatch(r"(\d+(?:\.\d+)?)bpw", name):
        return Format(name, float(bits[1]) / 8, "fp16", head=0.75, otherwise="bf16",
                      source="EXL2: bits per weight as named, the LM head in 6 bits (recalled)")
    found = FORMATS.get(_ALIASES.get(name, name))
    if found is None:
        raise Unsupported(f"weights in {name!r} are not modelled{offer(name, (*FORMATS, *_ALIASES))}")
    return found
