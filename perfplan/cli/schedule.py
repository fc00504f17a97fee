"""`perfplan schedule`: what runs when, compared with other orders, and drawn."""

from __future__ import annotations

from typing import Annotated

import typer

from perfplan.cli import options

__all__ = ["app"]

app = typer.Typer(help="Choose when things run: pipeline schedules and overlap inside a layer, on a timeline.")

Trace = Annotated[
    str | None,
    typer.Option("--trace", metavar="FILE", show_default=False, help="Write the timelines as a Perfetto/Chrome trace."),
]
Svg = Annotated[
    str | None, typer.Option("--svg", metavar="FILE", show_default=False, help="Draw the first timeline as an SVG.")
]
Diff = Annotated[
    str,
    typer.Option("--diff", metavar="'A B'", show_default=False, help="Say where two of the timelines differ."),
]


@app.callback()
def group() -> None:
    """Choose when things run: pipeline schedules and overlap inside a layer, on a timeline."""


@app.command("pipeline")
def pipeline(
    model: options.Model,
    cluster: options.Cluster,
    layout: options.LayoutText,
    global_batch: options.GlobalBatch,
    seq_len: options.SeqLen,
    compare: Annotated[
        str,
        typer.Option("--compare", metavar="all|NAMES", help="Schedules to run beside the layout's own, such as"
                     " '1f1b,zb-h1,dualpipe'."),
    ] = "all",
    balance: Annotated[
        bool,
        typer.Option("--balance", help="Choose the layers of each stage, and what each recomputes or offloads, too."),
    ] = False,
    gantt: Annotated[bool, typer.Option("--gantt", help="Draw the fastest schedule that fits.")] = False,
    precision: options.Precision = "bf16",
    framework: options.Framework = "",
    overlap: options.Overlap = "",
    routing_skew: options.Skew = 1.0,
    trace: Trace = None,
    drawing: Svg = None,
    diff: Diff = "",
    settings: options.Settings = None,
    catalog: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
    save: options.Save = None,
) -> None:
    """Compare pipeline schedules on the stages of a layout: step, bubble and memory by event simulation."""
    from perfplan.api import schedule_pipeline
    from perfplan.catalog import Catalog
    from perfplan.report import Output
    from perfplan.report.schedule import PIPELINE_COLUMNS, pipeline_rows
    from perfplan.report.views import pipeline_files, pipeline_view

    found = schedule_pipeline(
        model,
        cluster=cluster,
        layout=layout,
        global_batch=global_batch,
        seq_len=seq_len,
        precision=precision,
        framework=framework,
        overlap=options.overlaps(overlap),
        routing_skew=routing_skew,
        compare=() if compare == "all" else options.words(compare),
        balance=balance,
        catalog=Catalog(catalog or (), settings or ()),
    )
    text, document = pipeline_view(found, gantt, options.words(diff))
    pipeline_files(found, trace, drawing)
    Output(csv, json, save).emit(text, pipeline_rows(found.pipeline, found.rows), PIPELINE_COLUMNS, document)
