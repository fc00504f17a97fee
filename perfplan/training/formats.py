"""Number formats of a precision recipe: bytes per element, scale factors included."""

from __future__ import annotations

from perfplan.catalog.specs import Recipe

__all__ = ["WIDTH", "element_bytes"]

WIDTH = {
    "fp32": 4.0,
    "tf32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "fp8-block": 1.0,
    "mxfp8": 1.0,
    "int8": 1.0,
    "nvfp4": 0.5,
    "mxfp4": 0.5,
    "fp4": 0.5,
}  # bytes per element of a number format


def element_bytes(recipe: Recipe, dtype: str) -> float:
    """Bytes per element of a GEMM operand, the recipe's scale factors of narrow formats included."""
    block = recipe.scale_block
    return WIDTH[dtype] + (recipe.scale_bytes / block if block and WIDTH[dtype] <= 1 else 0.0)
