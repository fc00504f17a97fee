"""`perfplan why`: what is wrong with a layout."""

from __future__ import annotations

import typer

from perfplan.cli import options
from perfplan.cli.groups import grouped

__all__ = ["app"]

app = typer.Typer(help="Tell why a layout is not the plan.")


@app.callback()
def group() -> None:
    """Tell why a layout is not the plan."""


@app.command("train")
@grouped
def train(
    cluster: options.Cluster,
    model: options.ModelOrLine = "",
    layout: options.LayoutText = "",
    gpus: options.LineGpus = None,
    global_batch: options.LineBatch = None,
    seq_len: options.LineSeqLen = None,
    line: options.From = ("", ""),
    fix: options.Fix = "",
    forbid: options.Forbid = "",
    job: options.Job = None,
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Tell why a layout is not the plan: in the space or not, why rejected, how far behind and in which parts."""
    from perfplan.api import why_train
    from perfplan.cli.launch import from_line, line_document
    from perfplan.report.plan import WHY_COLUMNS, why_document, why_rows, why_text

    read = from_line(line, model, gpus, catalog)
    answer = why_train(
        model,
        cluster=cluster,
        layout=layout,
        gpus=gpus,
        global_batch=global_batch,
        seq_len=seq_len,
        fix=fix,
        forbid=forbid,
        **job,
        launch=read,
        catalog=catalog,
    )
    asked = layout or (str(read.layout) if read else "")
    document = why_document(answer) | line_document(read)
    output.emit(why_text(answer, asked), why_rows(answer), WHY_COLUMNS, document)
