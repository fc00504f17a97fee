"""FLOPs per token of a catalog model under the conventions that published TFLOP/s and MFU figures name."""

from __future__ import annotations

import re
from collections import Counter

from perfplan.catalog.parameters import parameters
from perfplan.catalog.specs import Attention, Model
from perfplan.formulas.accounting import (
    attention_flops_per_token,
    mosaic_flops_per_token,
    sc21_flops,
    weight_flops_per_token,
)

__all__ = ["convention", "flops_per_token", "stated_peak"]

_VECTORS = ("norm", "bias", "vector", "position")


def _weights(model: Model) -> int:
    """Matrix elements that one token meets, LM head included, embedding look-up not."""
    count = parameters(model)
    skipped = sum(count.by_part.get(part, 0) for part in _VECTORS)
    return count.active - skipped - (0 if model.tied else count.by_part.get("embedding", 0))


def _attention(model: Model, attended: float) -> float:
    total = 0.0
    for index, number in Counter(model.layers).items():
        part = model.kinds[index].mixer
        if isinstance(part, Attention):
            keys = min(attended, part.window) if part.window else attended
            total += attention_flops_per_token(number, part.heads, part.head_dim, part.v_head_dim, keys)
    return total


def flops_per_token(model: Model, seq_len: int, name: str) -> float:
    """Model or hardware FLOPs per token [FLOP].

    `name`: full or causal (attention counted whole or half, no recompute), hardware (full recompute, full attention),
    sc21 and mosaic (the published expressions), or a number: FLOPs per token as the source prints them.
    """
    heads = next(kind.mixer for kind in model.kinds if isinstance(kind.mixer, Attention)) if name == "sc21" else None
    if name == "sc21" and heads is not None:
        return float(sc21_flops(1, seq_len, len(model.layers), model.hidden, model.vocab)) / seq_len
    if name == "mosaic":
        return float(mosaic_flops_per_token(parameters(model).total, len(model.layers), model.hidden, seq_len))
    if name in ("full", "causal", "hardware"):
        attended = seq_len / 2 if name == "causal" else seq_len
        once = float(weight_flops_per_token(_weights(model)) + _attention(model, attended))
        return once * (4 / 3 if name == "hardware" else 1)
    return float(name)


_CONVENTIONS = (
    (r"([\d.]+) GFLOP per token implied", ""),
    (r"96\*B\*s\*L\*h\^2", "sc21"),
    (r"72\*B\*s\*L\*h\^2", "full"),
    (r"N incl\. embeddings", "mosaic"),
    (r"(?i)hardware flops", "hardware"),
    (r"(?i)full \(non-causal\)|full attention|MFU \(model\)|MFU with attention", "full"),
    (r"(?i)causal|model flops", "causal"),
)


def convention(text: str) -> str | None:
    """The name that `flops_per_token` knows for the wording of a `flop_convention` cell, None if it is not recognised.

    >>> convention("model FLOPs, FULL (non-causal) attention (pre-PR1988); peak 197 TFLOPS/chip")
    'full'
    >>> convention("MaxText model FLOPs; 57.9 GFLOP per token implied")
    '57900000000.0'
    """
    for pattern, name in _CONVENTIONS:
        if match := re.search(pattern, text):
            return name or str(float(match[1]) * 1e9)
    return None


def stated_peak(text: str) -> float | None:
    """The peak that a `flop_convention` cell divides by [FLOP/s], None if it states none.

    >>> stated_peak("... percent of peak; peak 312") == 312e12
    True
    """
    match = re.search(r"peak (?:A100=)?(\d+)", text)
    return float(match[1]) * 1e12 if match else None
