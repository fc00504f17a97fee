"""Measured files in, whatever their format: perfplan's CSV, profiler traces, nccl-tests output, operator tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from perfplan.calibration import operators, tables, traces

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["read_collectives", "read_experts", "read_kernels"]


def read_kernels(path: str | Path) -> pd.DataFrame:
    """Measured kernels of one file: CSV in the schema of kernels_measured.csv, a PyTorch profiler trace (.json,
    .json.gz), or an operator table (CSV or .parquet)."""
    path = Path(path)
    if traces.is_trace(path):
        return traces.read_trace(path)
    return operators.operator_kernels(path) if operators.is_operator_table(path) else tables.read_kernels(path)


def read_experts(path: str | Path) -> pd.DataFrame:
    """Measured expert layers of one file: CSV in the schema of ops_moe.csv, or an operator table."""
    path = Path(path)
    return operators.operator_experts(path) if operators.is_operator_table(path) else tables.read_experts(path)


def read_collectives(path: str | Path, op: str = "", ranks: int = 0) -> pd.DataFrame:
    """Measured collectives of one file: CSV, nccl-tests output (`op` and `ranks` where it does not say), or an
    operator table."""
    path = Path(path)
    if operators.is_operator_table(path):
        return operators.operator_collectives(path)
    return tables.read_collectives(path, op, ranks)
