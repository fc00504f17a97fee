"""`perfplan reproduce`: the published figures of a system, predicted again."""

from __future__ import annotations

from typing import Annotated

import typer

from perfplan.cli import options

__all__ = ["reproduce"]


def reproduce(
    system: Annotated[
        str | None,
        typer.Argument(
            metavar="SYSTEM", show_default=False, help="Technique or system of the catalog; all of them unless given."
        ),
    ] = None,
    settings: options.Settings = None,
    catalog: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
) -> None:
    """Predict the published figures of a system again, and say which come out within their stated tolerance."""
    from perfplan.catalog import Catalog
    from perfplan.report import Output
    from perfplan.report.validation import CHECK_COLUMNS, check_rows, checks_text
    from perfplan.validation.runs import reproduce_published

    checks = reproduce_published(system, catalog=Catalog(catalog or (), settings or ()))
    Output(csv, json).emit(checks_text(checks), check_rows(checks), CHECK_COLUMNS)
