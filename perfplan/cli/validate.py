"""`perfplan validate`: predictions against published measurements."""

from __future__ import annotations

from typing import Annotated

import typer

from perfplan.cli import options

__all__ = ["app"]

app = typer.Typer(name="validate", help="Score predictions against published measurements.")


@app.callback()
def validate() -> None:
    """Score predictions against published measurements."""


@app.command()
def training(
    measured: Annotated[
        list[str] | None,
        typer.Option(
            "--measured",
            metavar="FILE.csv",
            show_default=False,
            help="Measurements in the schema of training_measured.csv; may be repeated; the shipped ones unless given.",
        ),
    ] = None,
    settings: options.Settings = None,
    catalog: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
    save: options.Save = None,
) -> None:
    """Training step times, ranking, memory and feasibility against measurements, per source and overall."""
    from perfplan.catalog import Catalog
    from perfplan.report import Output, Progress
    from perfplan.report.validation import OUTCOME_COLUMNS, outcome_rows, validation_text
    from perfplan.validation.runs import validate_training

    output, source = Output(csv, json, save), Catalog(catalog or (), settings or ())
    with Progress("rows") as tick:
        result = validate_training(measured or (), catalog=source, progress=tick)
    output.emit(validation_text(result), outcome_rows(result.outcomes), OUTCOME_COLUMNS, result.as_dict())
