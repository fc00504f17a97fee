"""The tree of quantities behind an estimate, as text, LaTeX, a table and one JSON document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from perfplan.errors import UnknownName
from perfplan.formulas.accounting import mfu_from_time, token_rate
from perfplan.formulas.core import Node, node_of, tracing
from perfplan.report.columns import Column
from perfplan.report.columns import Row as TableRow
from perfplan.serving.estimate import Steady
from perfplan.symbolic.explain import Row, find, rows, to_latex_lines, to_lines
from perfplan.training.estimate import Estimate, model_flops

__all__ = ["TREE_COLUMNS", "explained", "explained_serving", "tree_document", "tree_latex", "tree_rows", "tree_text"]

TREE_COLUMNS = (
    Column("depth"),
    Column("feeds"),
    Column("symbol"),
    Column("name"),
    Column("value"),
    Column("unit"),
    Column("expression"),
    Column("source"),
    Column("number"),
    Column("repeated"),
)
PLAIN_NAMES = {"step_time": "T_step", "step": "T_step", "memory": "M_stage"}
RATES = dict.fromkeys(("tokens_per_s_per_gpu", "tokens_per_s", "throughput"), "R_tokens") | {"mfu": "MFU"}


def explained(quantity: str, make: Callable[[], Estimate], depth: int) -> list[Row]:
    """The tree below `quantity` of the estimate that `make` computes, `depth` levels deep."""
    with tracing() as root:
        made = make()
    plain = quantity.lower().replace("-", "_").replace(" ", "_")
    if (rate := RATES.get(plain, quantity)) in RATES.values():
        return rows(find(_rates(made), rate), depth, quantity)
    return rows(_found(root, PLAIN_NAMES.get(plain, quantity)), depth, quantity)


def explained_serving(quantity: str, make: Callable[[], Steady], depth: int) -> list[Row]:
    """The tree below `quantity` of the deployment that `make` prices: ttft, tpot, tokens_per_s, requests_per_s, or any
    quantity below them."""
    with tracing() as root:
        made = make()
    plain = quantity.lower().replace("-", "_").replace(" ", "_")
    named = {"ttft": made.ttft, "tpot": made.tpot, "tokens_per_s": made.tokens_per_s, "requests_per_s": made.rate}
    found = node_of(named[plain]) if plain in named else None
    return rows(found or find(root, "T_step" if plain in ("step", "step_time") else quantity, tuple(named)), depth,
                quantity)


def _rates(made: Estimate) -> Node:
    """What follows from the step time, as `Estimate` has it: model FLOP utilisation and the rate of tokens."""
    job, world = made.job, made.layout.world
    peak = job.data_sheet_peak(job.recipe.gemm["forward"])
    flops = model_flops(job)
    with tracing() as root:
        mfu_from_time(flops, made.step_time, world, peak)
        token_rate(job.global_batch * job.seq_len, made.step_time, world)
    return root


def _found(root: Node, name: str) -> Node:
    """The quantity of that name: one of the step time if there is one (memory has parts of the same names)."""
    try:
        return find(find(root, "T_step"), name)
    except UnknownName:
        return find(root, name, ("step_time", "memory", "mfu", "tokens_per_s"))


def tree_text(tree: Sequence[Row]) -> str:
    """The tree for people."""
    return to_lines(list(tree))


def tree_latex(tree: Sequence[Row]) -> str:
    """The tree as LaTeX."""
    return to_latex_lines(list(tree))


def tree_rows(tree: Sequence[Row]) -> list[TableRow]:
    """The tree as a table, values in the SI unit that stands beside them."""
    return [
        {column.key: getattr(row, "label" if column.key == "feeds" else column.key) for column in TREE_COLUMNS}
        for row in tree
    ]


def tree_document(tree: Sequence[Row]) -> list[dict[str, Any]]:
    """The tree with the arguments of every quantity."""
    return [asdict(row) for row in tree]
