"""`perfplan estimate`: what one layout costs."""

from __future__ import annotations

import typer

from perfplan.cli import options

__all__ = ["app"]

app = typer.Typer(help="Tell what one way to run a job costs.")


@app.callback()
def group() -> None:
    """Tell what one way to run a job costs."""


@app.command("train")
def train(
    model: options.Model,
    cluster: options.Cluster,
    layout: options.LayoutText,
    global_batch: options.GlobalBatch,
    seq_len: options.SeqLen,
    gpus: options.LayoutGpus = None,
    precision: options.Precision = "bf16",
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
    """Tell what one layout of a training job costs: step time and memory by part, whether it fits."""
    from perfplan.api import estimate_train
    from perfplan.catalog import Catalog
    from perfplan.report import Output
    from perfplan.report.training import estimate_columns, estimate_document, estimate_row, estimate_text

    output = Output(csv, json, save)
    estimate = estimate_train(
        model,
        cluster=cluster,
        layout=layout,
        gpus=gpus,
        global_batch=global_batch,
        seq_len=seq_len,
        precision=precision,
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
        catalog=Catalog(catalog or (), settings or ()),
    )
    output.emit(
        estimate_text(estimate), [estimate_row(estimate)], estimate_columns(estimate), estimate_document(estimate)
    )
