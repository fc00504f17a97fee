"""`perfplan validate`: predictions against published measurements."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from perfplan.cli import options
from perfplan.cli.groups import grouped

__all__ = ["app"]

app = typer.Typer(name="validate", help="Score predictions against published measurements.")


@app.callback()
def validate() -> None:
    """Score predictions against published measurements."""


@app.command()
@grouped
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
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Training step times, ranking, memory and feasibility against measurements, per source and overall."""
    from perfplan.report import Progress
    from perfplan.report.delta import PAIR_COLUMNS, delta_document, delta_text, pair_rows
    from perfplan.report.validation import OUTCOME_COLUMNS, outcome_rows, validation_document, validation_text
    from perfplan.validation.runs import validate_training

    with Progress("rows") as tick:
        result = validate_training(measured or (), catalog=catalog, progress=tick)
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


def _single(validate: Any, study: Any, left_out: bool, measured: list[str] | None, catalog: Any, output: Any) -> None:
    """Scores of single operations by `validate`, or their errors left out by `study`."""
    from perfplan.report.measured import LEFT_OUT_COLUMNS, left_out_rows, measured_text
    from perfplan.report.text import table
    from perfplan.report.validation import OUTCOME_COLUMNS, outcome_rows

    if left_out:
        rows = left_out_rows(study(measured or (), catalog=catalog))
        output.emit(table(rows, LEFT_OUT_COLUMNS), rows, LEFT_OUT_COLUMNS, {"left_out": rows})
        return
    result = validate(measured or (), catalog=catalog)
    output.emit(measured_text(result), outcome_rows(result.outcomes), OUTCOME_COLUMNS, result.as_dict())


@app.command()
@grouped
def kernels(
    measured: Files = None,
    left_out: Annotated[
        bool,
        typer.Option(
            "--left-out", help="Errors with one matrix, or head counts, left out of a new fit."
        ),
    ] = False,
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Single kernels: GEMM, attention, streams, launches, per file, chip, number format and kernel.

    The null is the data sheet: the slower of FLOPs over the dense peak and bytes over the memory bandwidth.
    """
    from perfplan.validation.kernels import validate_kernels
    from perfplan.validation.left_out_kernels import left_out_kernels

    _single(validate_kernels, left_out_kernels, left_out, measured, catalog, output)


@app.command()
@grouped
def moe(
    measured: Files = None,
    left_out: Annotated[
        bool,
        typer.Option(
            "--left-out", help="Errors with one matrix, or one model's experts, left out of a new fit."
        ),
    ] = False,
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Expert layers of one rank, balanced and skewed, per file, chip, number format and distribution.

    The null is the data sheet: the slower of FLOPs over the dense peak and bytes over the memory bandwidth.
    """
    from perfplan.validation.kernels import validate_experts
    from perfplan.validation.left_out_kernels import left_out_experts

    _single(validate_experts, left_out_experts, left_out, measured, catalog, output)


@app.command()
@grouped
def collectives(
    measured: Files = None,
    left_out: Annotated[
        bool,
        typer.Option(
            "--left-out", help="Errors with every third size, and with one number of ranks, left out of a new fit."
        ),
    ] = False,
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Collectives inside a node and between nodes, per file, chip and operation.

    The null is the data sheet: bytes over the bandwidth of the links.
    """
    from perfplan.validation.collectives import validate_collectives
    from perfplan.validation.left_out import left_out_collectives

    _single(validate_collectives, left_out_collectives, left_out, measured, catalog, output)


@app.command()
@grouped
def serving(
    measured: Files = None,
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Throughput, latency and batch-1 figures of serving engines, per group, and the choice of a width by them.

    The null knows the median of its own slice.
    """
    from perfplan.validation.serving import validate_serving

    _runs(validate_serving, measured, catalog, output)


@app.command()
@grouped
def latency(
    measured: Files = None,
    left_out: Annotated[
        bool,
        typer.Option("--left-out", help="Each model by constants fitted without it (about two minutes)."),
    ] = False,
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """TTFT and TPOT of serving deployments, per group (model/hardware/engine), and choices under a ceiling of TPOT.

    The null knows the median of its own slice; rows without a number format take the checkpoint's, in slices apart.
    """
    from perfplan.validation.serving import validate_latency
    from perfplan.validation.serving_fit import left_out_models

    _runs(left_out_models if left_out else validate_latency, measured, catalog, output)


def _runs(validate: Any, measured: list[str] | None, catalog: Any, output: Any) -> None:
    from perfplan.report.measured import serving_text
    from perfplan.report.validation import OUTCOME_COLUMNS, outcome_rows

    result = validate(measured or (), catalog=catalog)
    output.emit(serving_text(result), outcome_rows(result.outcomes), OUTCOME_COLUMNS, result.as_dict())
