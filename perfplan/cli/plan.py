"""`perfplan plan`: the best way to run a job."""

from __future__ import annotations

from typing import Annotated

import typer

from perfplan.cli import options

__all__ = ["app"]

app = typer.Typer(help="Find the best way to run a job, with a proof.")


@app.callback()
def group() -> None:
    """Find the best way to run a job, with a proof."""


@app.command("train")
def train(
    model: options.Model,
    cluster: options.Cluster,
    gpus: options.Gpus,
    global_batch: options.GlobalBatch,
    seq_len: options.SeqLen,
    precision: options.Precision = "bf16",
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens",
            metavar="N",
            show_default=False,
            help="Length of the run, such as 15T: adds days, hours, $ and MWh.",
        ),
    ] = None,
    objective: Annotated[
        str, typer.Option("--objective", metavar="time|days|cost|min-gpus", help="What is best.")
    ] = "time",
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, max=1000, help="Layouts to print.")] = 10,
    deadline: Annotated[
        str | None,
        typer.Option(
            "--deadline", metavar="TIME", show_default=False, help="Longest run allowed, such as 30d; needs --tokens."
        ),
    ] = None,
    front: Annotated[
        bool,
        typer.Option(
            "--front", help="Print the Pareto front of step time, memory and accelerators too; --csv then has that."
        ),
    ] = False,
    launch: options.Launch = "",
    fix: options.Fix = "",
    forbid: options.Forbid = "",
    framework: options.Framework = "",
    attention: options.Attention = "",
    overlap: options.Overlap = "",
    order: options.Order = "tp-cp-dp-pp",
    optimizer: options.Optimizer = "",
    method: options.Method = "pretrain",
    lora_rank: options.Rank = 16,
    packed: options.Packed = 0,
    cuda_graphs: options.Graphs = "",
    padded_experts: options.Padded = False,
    routing_skew: options.Skew = 1.0,
    technique: options.Technique = None,
    settings: options.Settings = None,
    catalog: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
    save: options.Save = None,
) -> None:
    """Find the best layouts of a training job: time, memory, what binds, and the proof."""
    from perfplan.api import plan_train
    from perfplan.catalog import Catalog
    from perfplan.cli.launch import flags_for, known_framework
    from perfplan.report import Output, Progress
    from perfplan.report.plan import (
        FRONT_COLUMNS,
        front_rows,
        front_text,
        plan_columns,
        plan_document,
        plan_rows,
        plan_text,
    )

    output, entries = Output(csv, json, save), Catalog(catalog or (), settings or ())
    known_framework(launch, entries)
    with Progress("pipeline splits searched") as progress:
        plan = plan_train(
            model,
            cluster=cluster,
            gpus=options.gpu_range(gpus),
            global_batch=global_batch,
            seq_len=seq_len,
            precision=precision,
            tokens=tokens,
            objective=objective,
            top=top,
            deadline=deadline,
            fix=fix,
            forbid=forbid,
            framework=framework,
            attention=attention,
            overlap=options.overlaps(overlap),
            order=order,
            optimizer=optimizer,
            method=method,
            lora_rank=lora_rank,
            packed=packed,
            cuda_graphs=options.words(cuda_graphs),
            padded_experts=padded_experts,
            routing_skew=routing_skew,
            technique=technique or (),
            catalog=entries,
            tick=progress.tick,
        )
    flags = flags_for(plan.best, launch, entries)
    document = plan_document(plan) | flags.document()
    if front:
        text = f"{plan_text(plan)}\n\n{front_text(plan)}{flags.text}"
        output.emit(text, front_rows(plan), FRONT_COLUMNS, document)
    else:
        output.emit(plan_text(plan) + flags.text, plan_rows(plan), plan_columns(plan), document)
