"""The catalogue of formulas as a table, and one formula as a page."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from perfplan.errors import UnknownName, offer
from perfplan.formulas.core import Formula
from perfplan.report.columns import Column, Row
from perfplan.report.text import paragraph, table
from perfplan.symbolic.declared import list_formulas, parameters, summary

__all__ = [
    "FORMULA_COLUMNS",
    "PARAMETER_COLUMNS",
    "formula_document",
    "formula_named",
    "formula_rows",
    "formula_text",
    "list_text",
    "parameter_rows",
]

FORMULA_COLUMNS = tuple(map(Column, ("topic", "name", "symbol", "unit", "meaning", "source")))
ESTIMATED = ("step_time", "memory", "mfu", "tokens_per_s", "requests_per_s", "ttft", "tpot")
PARAMETER_COLUMNS = (Column("parameter"), Column("unit"), Column("meaning"))


def formula_rows(topic: str = "") -> list[Row]:
    """Every formula, or those of a topic: topic (the module it stands in), name, symbol, unit, meaning, source."""
    rows: list[Row] = [
        {
            "topic": formula.body.__module__.rpartition(".")[2],
            "name": formula.name,
            "symbol": formula.symbol,
            "unit": formula.unit,
            "meaning": summary(formula),
            "source": formula.source,
        }
        for formula in list_formulas()
    ]
    topics = {str(row["topic"]) for row in rows}
    if topic and topic not in topics:
        raise UnknownName(f"formulas have no topic {topic!r}{offer(topic, topics)}")
    return sorted((row for row in rows if topic in ("", row["topic"])), key=lambda row: str(row["topic"]))


def list_text(rows: list[Row]) -> str:
    """Formulas for people, a table for each topic."""
    shown = [column for column in FORMULA_COLUMNS if column.key not in ("topic", "source")]
    tables = [(topic, table(list(those), shown)) for topic, those in groupby(rows, key=lambda row: row["topic"])]
    return "\n\n".join(f"{topic}\n{text}" for topic, text in tables)


def formula_named(name: str) -> Formula:
    """The formula of that name or printed symbol; UnknownName with the nearest ones."""
    known = {formula.symbol: formula for formula in list_formulas()} | {each.name: each for each in list_formulas()}
    plain = {each.lower(): each for each in reversed(known)}
    wanted = name.lower().replace("-", "_")
    wanted = name if name in known else plain.get(wanted, wanted)
    if wanted not in known:
        if wanted in ESTIMATED:
            raise UnknownName(f"{name!r} is no formula but a quantity of an estimate; name its MODEL after it, and give"
                              " the options of `perfplan estimate`")
        raise UnknownName(f"there is no formula {name!r}{offer(wanted, known)}")
    return known[wanted]


def parameter_rows(formula: Formula) -> list[Row]:
    """The parameters of a formula: name, unit, meaning."""
    declared = parameters(formula).values()
    return [{"parameter": each.name, "unit": each.unit, "meaning": each.meaning} for each in declared]


def formula_document(formula: Formula) -> dict[str, Any]:
    """All that is declared about a formula, with its expression as text and as LaTeX."""
    from perfplan.symbolic.expressions import expression, latex_name, to_latex, to_text

    code = formula.body.__code__
    body = expression(formula, code.co_varnames[: code.co_argcount]).body
    return {
        "name": formula.name,
        "symbol": formula.symbol,
        "unit": formula.unit,
        "meaning": summary(formula),
        "expression": to_text(body),
        "latex": f"{latex_name(formula.symbol)} = {to_latex(body)}",
        "source": formula.source,
        "parameters": parameter_rows(formula),
    }


def formula_text(formula: Formula) -> str:
    """One formula for people: expression, meaning, parameters, source."""
    page = formula_document(formula)
    return "\n\n".join(
        [
            f"{formula.symbol} = {page['expression']}  [{formula.unit}]",
            paragraph(page["meaning"]),
            table(page["parameters"], PARAMETER_COLUMNS),
            paragraph(f"Source: {formula.source}"),
        ]
    )
