"""`perfplan explain`: where a number comes from."""

from __future__ import annotations

from typing import Annotated

import typer

from perfplan.cli import options
from perfplan.errors import OutOfRange

__all__ = ["explain"]


def explain(
    quantity: Annotated[
        str | None, typer.Argument(metavar="QUANTITY", show_default=False, help="Name or symbol of a formula.")
    ] = None,
    list_all: Annotated[
        bool, typer.Option("--list", help="List every formula; with --csv or --json also its source.")
    ] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX.")] = False,
    csv: options.Csv = None,
    json: options.Json = False,
) -> None:
    """Show where a number comes from: symbol, expression, unit, source."""
    from perfplan.report import Output, formulas, table

    output = Output(csv, json)
    if list_all:
        rows = formulas.formula_rows()
        shown = [column for column in formulas.FORMULA_COLUMNS if column.key != "source"]
        output.emit(table(rows, shown), rows, formulas.FORMULA_COLUMNS)
    elif quantity is None:
        raise OutOfRange("explain wants the name of a quantity, or --list for all that there are")
    else:
        formula = formulas.formula_named(quantity)
        page = formulas.formula_document(formula)
        text = page["latex"] if latex else formulas.formula_text(formula)
        output.emit(text, page["parameters"], formulas.PARAMETER_COLUMNS, page)
