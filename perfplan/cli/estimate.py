"""`perfplan estimate`: what one layout costs."""

from __future__ import annotations

from typing import Annotated

import typer

from perfplan.cli import options, serving
from perfplan.cli.groups import grouped

__all__ = ["app"]

app = typer.Typer(help="Tell what one way to run a job costs.")


@app.callback()
def group() -> None:
    """Tell what one way to run a job costs."""


@app.command("train")
@grouped
def train(
    cluster: options.Cluster,
    model: options.ModelOrLine = "",
    layout: options.LayoutText = "",
    global_batch: options.LineBatch = None,
    seq_len: options.LineSeqLen = None,
    line: options.From = ("", ""),
    launch: options.Launch = "",
    gpus: options.LayoutGpus = None,
    job: options.Job = None,
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Tell what one layout of a training job costs: step time and memory by part, whether it fits."""
    from perfplan.api import estimate_train
    from perfplan.cli.launch import flags_for, from_line, known_framework
    from perfplan.report.training import estimate_columns, estimate_document, estimate_row, estimate_text

    known_framework(launch, catalog)
    read = from_line(line, model, gpus, catalog)
    estimate = estimate_train(
        model,
        cluster=cluster,
        layout=layout,
        gpus=gpus,
        global_batch=global_batch,
        seq_len=seq_len,
        **job,
        launch=read,
        catalog=catalog,
    )
    flags = flags_for(estimate, launch, catalog)
    document = estimate_document(estimate) | flags.document(read)
    output.emit(estimate_text(estimate) + flags.text, [estimate_row(estimate)], estimate_columns(estimate), document)


@app.command("serve")
@grouped
def serve(
    cluster: options.Cluster,
    isl: serving.Isl,
    osl: serving.Osl,
    model: options.ModelOrLine = "",
    layout: serving.LayoutText = "",
    line: options.ServeFrom = ("", ""),
    concurrency: serving.Concurrency = None,
    batch: Annotated[
        int | None, typer.Option("--batch", metavar="B", show_default=False, help="Requests of one fixed batch.")
    ] = None,
    rate: Annotated[
        str, typer.Option("--rate", metavar="R/s", show_default=False, help="Requests that arrive per second.")
    ] = "",
    engine: serving.EngineOrLine = "",
    weights: serving.Weights = "",
    kv: serving.Kv = "",
    steps: serving.Steps = None,
    cached: serving.Cached = None,
    launch: options.ServeLaunch = "",
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Tell what a deployment delivers: TTFT, TPOT, tokens per second, by op. Without a load all requests are queued."""
    from perfplan.catalog.check import refuse_unused
    from perfplan.cli.launch import deployed, known_framework, served_line
    from perfplan.export.served import served_job
    from perfplan.report.serving import DEPLOYMENT_COLUMNS, deployment_document, deployment_row, deployment_text
    from perfplan.serving.deploy import deployment
    from perfplan.serving.reuse import reuse_of
    from perfplan.serving.words import rate_of, tokens

    mine = known_framework(launch, catalog, "serving")
    read = served_line(line, model, catalog)
    engine = engine or ("" if read else mine)
    prompt, output_tokens = tokens(isl, "--isl"), tokens(osl, "--osl")
    job, parsed = served_job(
        model, cluster, layout, read, catalog, length=prompt + output_tokens, engine=engine, weights=weights, kv=kv,
        reuse=reuse_of(**cached), **steps)
    refuse_unused(catalog)
    found = deployment(job, parsed, prompt, output_tokens,
                       concurrency=concurrency, batch=batch, rate=rate_of(rate) if rate else None,
                       bands=catalog.bands())
    flags = deployed(found, launch, catalog)
    document = deployment_document(found) | flags.document(read)
    output.emit(deployment_text(found) + flags.text, [deployment_row(found)], DEPLOYMENT_COLUMNS, document)
