"""`perfplan fit`: whether a model fits for serving, and how many requests beside it."""

from __future__ import annotations

from typing import Annotated

import typer

from perfplan.cli import options, serving

__all__ = ["fit"]


def fit(
    model: options.Model,
    cluster: options.Cluster,
    gpus: options.WholeGpus,
    context: Annotated[
        str, typer.Option("--context", metavar="TOKENS", show_default=False, help="Longest sequence, such as 32k.")
    ],
    users: Annotated[int, typer.Option("--users", metavar="U", help="Sequences wanted at the same time.")] = 1,
    expected: Annotated[
        str,
        typer.Option(
            "--expected", metavar="TOKENS", show_default=False, help="Mean length of a sequence; --context if absent."
        ),
    ] = "",
    engine: serving.Engine = "vllm",
    weights: serving.Weights = "",
    kv: serving.Kv = "",
    settings: options.Settings = None,
    catalog: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
    save: options.Save = None,
) -> int:
    """Tell whether a model fits for serving: weights, cache per rank, users, legal layouts, fewest accelerators."""
    from perfplan.catalog import Catalog
    from perfplan.catalog.check import refuse_unused
    from perfplan.report import Output
    from perfplan.report.serving import FIT_COLUMNS, fit_document, fit_rows, fit_text
    from perfplan.serving.deploy import room, serving_job
    from perfplan.serving.words import tokens

    source, output = Catalog(catalog or (), settings or ()), Output(csv, json, save)
    job = serving_job(model, cluster, source, engine=engine, weights=weights, kv=kv)
    refuse_unused(source)
    found = room(job, gpus, tokens(context), users, tokens(expected) if expected else None)
    output.emit(fit_text(found), fit_rows(found), FIT_COLUMNS, fit_document(found))
    return 0 if found.fits else 1
