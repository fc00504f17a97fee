"""Number formats of served weights: bytes per weight with scales, what the matrix units compute in, what stays wide."""

from __future__ import annotations

import re
from dataclasses import dataclass

from perfplan.errors import Unsupported, offer

__all__ = ["FORMATS", "Format", "format_name", "number_format"]

QUANTISED = ("attention", "indexer", "mamba", "linear_attention", "mlp", "shared", "experts", "latent")


@dataclass(frozen=True)
class Format:
    """weight: bytes per quantised weight, scales included; units: dtype that the matrix units compute in; inputs: bytes
    per element of their inputs; head, embedding: bytes per weight of the vocabulary matrices; parts: what is quantised;
    otherwise: what products run in where the chip lacks `units`, "" = it cannot run there; beside: format of the other
    matrices of a layer, "" = two bytes."""

    id: str
    weight: float
    units: str
    inputs: float = 2.0
    head: float = 2.0
    embedding: float = 2.0
    parts: tuple[str, ...] = QUANTISED
    otherwise: str = ""
    beside: str = ""
    source: str = "definition"

    def of(self, part: str) -> Format:
        """The format of one part of a layer."""
        if part in self.parts:
            return self
        return FORMATS[self.beside if self.beside and part in QUANTISED else "bf16"]


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
    Format("int4-fp8", 0.5 + 2 / 128, "fp8", 1.0, source="W4A8 AWQ: a 16-bit scale per 128 weights, products in fp8"),
    Format("q4_0", 0.5625, "fp16", 2.0, 0.8203, 0.5625, source="llama.cpp: a 16-bit scale per 32 weights"),
    Format("q5_k_m", 0.7109, "fp16", 2.0, 0.8203, 0.6875, source="llama.cpp k-quants: 5.69 bits (recalled)"),
    Format("q6_k", 0.8203, "fp16", 2.0, 0.8203, 0.8203, source="llama.cpp k-quants: 6.5625 bits"),
    Format("q4_k_m", 0.6, "fp16", 2.0, 0.8203, 0.5625, source=_GGUF),
    Format("q8_0", 1.0625, "fp16", 2.0, 1.0625, 1.0625, source="llama.cpp: a 16-bit scale per 32 weights"),
    Format("nvfp4", 0.5625, "nvfp4", 0.5625, source="one fp8 scale per 16 weights"),
    Format("mxfp4", 0.53125, "mxfp4", 2.0, parts=("experts",), otherwise="bf16",
           source="gpt-oss: experts alone, a byte per 32 weights"),
    Format("mxfp4-q8_0", 0.53125, "mxfp4", 2.0, 1.0625, 1.0625, ("experts",), "bf16", "q8_0",
           source="llama.cpp: experts in MXFP4, the other matrices in Q8_0 (the published 12.1 GB of gpt-oss-20b)"),
)}
_ALIASES = {other: id_ for id_, others in {
    "fp32": "float32", "bf16": "bfloat16", "fp16": "half float16",
    "fp8": "fp8-tensor fp8-e4m3 fp8-e4m3fn fp8-e5m2 e4m3 float8 fp8-per-token fp8-ptpc fp8-static fp8-dynamic w8a8-fp8",
    "fp8-block": "fp8-blockwise block-fp8 fp8-block-scaled", "int8": "w8a8 w8a8-int8 int8-sq smoothquant",
    "int8-weight": "w8a16 int8-wo", "int4": "awq gptq w4a16 int4-awq int4-gptq int4-wo awq-marlin gptq-marlin",
    "int4-int8": "w4a8", "int4-fp8": "w4afp8 w4a8-awq w4a8-fp8", "nvfp4": "fp4", "q4_k_m": "q4-k-m q4_k q4-k",
    "q5_k_m": "q5-k-m", "q6_k": "q6-k", "q8_0": "q8 q8-0", "q4_0": "q4-0"}.items() for other in others.split()}


def format_name(text: str) -> str:
    """The id of a format spelt otherwise; "" where the engine chooses, the text itself if it is none.

    >>> format_name("FP8_E4M3"), format_name("bfloat16"), format_name("auto")
    ('fp8', 'bf16', '')
    """
    known = text.lower() if text.lower() in FORMATS else text.lower().replace("_", "-")
    return "" if known in ("auto", "default", "none", "-") else _ALIASES.get(known, known)


def number_format(name: str) -> Format:
    """The format of that name or alias; `4.25bpw` is ExLlamaV2's own format with so many bits per weight.

    >>> number_format("awq").weight, number_format("4bpw").weight
    (0.53125, 0.5)
    """
    if bits := re.fullmatch(r"(\d+(?:\.\d+)?)bpw", name):
        return Format(name, float(bits[1]) / 8, "fp16", head=0.75, otherwise="bf16",
                      source="EXL2: bits per weight as named, the LM head in 6 bits (recalled)")
    found = FORMATS.get(format_name(name))
    if found is None:
        raise Unsupported(f"weights in {name!r} are not modelled{offer(name, (*FORMATS, *_ALIASES))}")
    return found
