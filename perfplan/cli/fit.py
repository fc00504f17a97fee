"""`perfplan fit`: whether a model fits for serving, and how many requests beside it."""

from __future__ import annotations

from typing import Annotated

import typer

from perfplan.cli import options, serving
from perfplan.cli.groups import grouped

__all__ = ["fit"]


@grouped
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
    engine: serving.Engine = serving.ENGINE,
    weights: serving.Weights = "",
    kv: serving.Kv = "",
    catalog: options.Entries = None,
    output: options.Out = None,
) -> int:
    """Tell whether a model fits for serving: weights, cache per rank, users, legal layouts, fewest accelerators."""
    from perfplan.catalog.check import refuse_unused
    from perfplan.report.serving import FIT_COLUMNS, fit_document, fit_rows, fit_text
    from perfplan.serving.deploy import room, serving_job
    from perfplan.serving.words import tokens

    job = serving_job(model, cluster, catalog, engine=engine, weights=weights, kv=kv)
    refuse_unused(catalog)
    found = room(job, gpus, tokens(context, "--context"), users, tokens(expected, "--expected") if expected else None)
    output.emit(fit_text(found), fit_rows(found), FIT_COLUMNS, fit_document(found))
    return 0 if found.fits else 1
