"""`perfplan validate`: predictions against published measurements."""

from __future__ import annotations

from typing import Annotated, Any

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
    delta: Annotated[
        bool,
        typer.Option(
            "--delta",
            help="Score changes: pairs of rows that differ in accelerator count, precision, accelerator or model only.",
        ),
    ] = False,
    settings: options.Settings = None,
    catalog: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
    save: options.Save = None,
) -> None:
    """Training step times, ranking, memory and feasibility against measurements, per source and overall."""
    from perfplan.catalog import Catalog
    from perfplan.report import Output, Progress
    from perfplan.report.delta import PAIR_COLUMNS, delta_document, delta_text, pair_rows
    from perfplan.report.validation import OUTCOME_COLUMNS, outcome_rows, validation_document, validation_text
    from perfplan.validation.runs import validate_training

    output, source = Output(csv, json, save), Catalog(catalog or (), settings or ())
    with Progress("rows") as tick:
        result = validate_training(measured or (), catalog=source, progress=tick)
    if delta:
        output.emit(
            delta_text(result.outcomes), pair_rows(result.outcomes), PAIR_COLUMNS, delta_document(result.outcomes)
        )
        return
    rows = outcome_rows(result.outcomes)
    output.emit(validation_text(result), rows, OUTCOME_COLUMNS, validation_document(result))


Files = Annotated[
    list[str] | None,
    typer.Option(
        "--measured",
        metavar="FILE.csv",
        show_default=False,
        help="Measurements in the schema of the shipped files; may be repeated; the shipped ones unless given.",
    ),
]


def _single(
    validate: Any,
    measured: list[str] | None,
    settings: list[str] | None,
    folders: list[str] | None,
    output: tuple[str | None, bool, str | None],
) -> None:
    from perfplan.catalog import Catalog
    from perfplan.report import Output
    from perfplan.report.measured import measured_text
    from perfplan.report.validation import OUTCOME_COLUMNS, outcome_rows

    result = validate(measured or (), catalog=Catalog(folders or (), settings or ()))
    Output(*output).emit(measured_text(result), outcome_rows(result.outcomes), OUTCOME_COLUMNS, result.as_dict())


@app.command()
def kernels(
    measured: Files = None,
    left_out: Annotated[
        bool,
        typer.Option(
            "--left-out", help="Errors with one matrix, or head counts, left out of a new fit."
        ),
    ] = False,
    settings: options.Settings = None,
    catalog: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
    save: options.Save = None,
) -> None:
    """Single kernels: GEMM, attention, streams, launches, per file, chip, number format and kernel.

    The null is the data sheet: the slower of FLOPs over the dense peak and bytes over the memory bandwidth.
    """
    from perfplan.validation.kernels import validate_kernels

    if left_out:
        from perfplan.validation.left_out_kernels import left_out_kernels

        _left_out(left_out_kernels, measured, settings, catalog, (csv, json, save))
        return
    _single(validate_kernels, measured, settings, catalog, (csv, json, save))


@app.command()
def moe(
    measured: Files = None,
    left_out: Annotated[
        bool,
        typer.Option(
            "--left-out", help="Errors with one matrix, or one model's experts, left out of a new fit."
        ),
    ] = False,
    settings: options.Settings = None,
    catalog: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
    save: options.Save = None,
) -> None:
    """Expert layers of one rank, balanced and skewed, per file, chip, number format and distribution.

    The null is the data sheet: the slower of FLOPs over the dense peak and bytes over the memory bandwidth.
    """
    from perfplan.validation.kernels import validate_experts

    if left_out:
        from perfplan.validation.left_out_kernels import left_out_experts

        _left_out(left_out_experts, measured, settings, catalog, (csv, json, save))
        return
    _single(validate_experts, measured, settings, catalog, (csv, json, save))


@app.command()
def collectives(
    measured: Files = None,
    left_out: Annotated[
        bool,
        typer.Option(
            "--left-out", help="Errors with every third size, and with one number of ranks, left out of a new fit."
        ),
    ] = False,
    settings: options.Settings = None,
    catalog: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
    save: options.Save = None,
) -> None:
    """Collectives inside a node and between nodes, per file, chip and operation.

    The null is the data sheet: bytes over the bandwidth of the links.
    """
    from perfplan.validation.collectives import validate_collectives

    if left_out:
        from perfplan.validation.left_out import left_out_collectives

        _left_out(left_out_collectives, measured, settings, catalog, (csv, json, save))
        return
    _single(validate_collectives, measured, settings, catalog, (csv, json, save))


def _left_out(
    study: Any,
    measured: list[str] | None,
    settings: list[str] | None,
    folders: list[str] | None,
    output: tuple[str | None, bool, str | None],
) -> None:
    from perfplan.catalog import Catalog
    from perfplan.report import Output
    from perfplan.report.measured import LEFT_OUT_COLUMNS, left_out_rows
    from perfplan.report.text import table

    rows = left_out_rows(study(measured or (), catalog=Catalog(folders or (), settings or ())))
    Output(*output).emit(table(rows, LEFT_OUT_COLUMNS), rows, LEFT_OUT_COLUMNS, {"left_out": rows})


@app.command()
def serving(
    measured: Files = None,
    settings: options.Settings = None,
    catalog: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
    save: options.Save = None,
) -> None:
    """Throughput, latency and batch-1 figures of serving engines, per group, and the choice of a width by them.

    The null knows the median of its own slice.
    """
    from perfplan.validation.serving import validate_serving

    _runs(validate_serving, measured, settings, catalog, (csv, json, save))


@app.command()
def latency(
    measured: Files = None,
    left_out: Annotated[
        bool,
        typer.Option("--left-out", help="Each model by constants fitted without it (about two minutes)."),
    ] = False,
    settings: options.Settings = None,
    catalog: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
    save: options.Save = None,
) -> None:
    """TTFT and TPOT of serving deployments, per group (model/hardware/engine), and choices under a ceiling of TPOT.

    The null knows the median of its own slice; rows without a number format take the checkpoint's, in slices apart.
    """
    from perfplan.validation.serving import validate_latency
    from perfplan.validation.serving_fit import left_out_models

    _runs(left_out_models if left_out else validate_latency, measured, settings, catalog, (csv, json, save))


def _runs(
    validate: Any,
    measured: list[str] | None,
    settings: list[str] | None,
    folders: list[str] | None,
    output: tuple[str | None, bool, str | None],
) -> None:
    from perfplan.catalog import Catalog
    from perfplan.report import Output
    from perfplan.report.measured import serving_text
    from perfplan.report.validation import OUTCOME_COLUMNS, outcome_rows

    result = validate(measured or (), catalog=Catalog(folders or (), settings or ()))
    Output(*output).emit(serving_text(result), outcome_rows(result.outcomes), OUTCOME_COLUMNS, result.as_dict())
