"""Optimizers that compute more than element-wise updates."""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula

__all__ = ["newton_schulz_flops"]


@formula("F_ns", "FLOP", source="Jordan et al. 2024 (Muon): X X^T, its square, and a product with X per iteration")
def newton_schulz_flops(parameters: Any, width: Any, iterations: Any) -> Any:
    """FLOPs of Newton-Schulz orthogonalisation over the matrices of a rank.

    A square matrix of width n takes three products of 2 n^3 per iteration, 6 n per parameter. For a matrix n x m with
    n < m it is 4 n + 2 n^2/m per parameter: with its smaller side as `width` this form is up to 1.5 times too high.

    parameters : parameters in matrices that the rank updates [1]
    width : smaller side of the matrices [1]
    iterations : iterations per step [1]

    >>> newton_schulz_flops(4096 * 4096, 4096, 5) == 5 * 3 * 2 * 4096**3
    True
    """
    return 6 * iterations * parameters * width
