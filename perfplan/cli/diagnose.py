"""`perfplan diagnose`: why a measured throughput is what it is."""

from __future__ import annotations

from typing import Annotated

import typer

from perfplan.cli import options, serving
from perfplan.cli.groups import grouped

__all__ = ["diagnose"]


@grouped
def diagnose(
    model: options.Model,
    cluster: options.Cluster,
    measured: Annotated[
        str,
        typer.Option(
            "--measured",
            metavar="'R tok/s'",
            show_default=False,
            help="Generated tokens per second: '7100 tok/s', '900 tok/s/gpu' or '30 tok/s/user'.",
        ),
    ],
    isl: serving.Isl,
    osl: serving.Osl,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", metavar="N", show_default=False, help="Requests in flight.")
    ] = None,
    layout: serving.LayoutText = "",
    engine: serving.Engine = serving.ENGINE,
    weights: serving.Weights = "",
    kv: serving.Kv = "",
    per_user: Annotated[
        str,
        typer.Option("--per-user", metavar="'R tok/s'", show_default=False,
                     help="What one user saw of it: gives the requests in flight by Little's law alone."),
    ] = "",
    expected: Annotated[
        str, typer.Option("--expected", metavar="'R tok/s'", show_default=False, help="What was hoped for.")
    ] = "",
    peak: Annotated[
        str, typer.Option("--peak", metavar="FLOP/s", show_default=False, help="The peak that was reckoned with.")
    ] = "",
    kv_per_token: Annotated[
        str,
        typer.Option(
            "--kv-per-token", metavar="B", show_default=False, help="The cache per token that was reckoned with."
        ),
    ] = "",
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Explain a measured throughput: bound, estimate, requests in flight by Little's law, and the likely cause."""
    from perfplan.api import diagnose_serve
    from perfplan.report.diagnosis import CAUSE_COLUMNS, diagnosis_document, diagnosis_rows, diagnosis_text
    from perfplan.serving.words import tokens

    found = diagnose_serve(
        model,
        cluster=cluster,
        measured=measured,
        isl=tokens(isl, "--isl"),
        osl=tokens(osl, "--osl"),
        concurrency=concurrency,
        layout=layout,
        engine=engine,
        weights=weights,
        kv=kv,
        per_user=per_user,
        expected=expected,
        peak=peak,
        kv_per_token=kv_per_token,
        catalog=catalog,
    )
    output.emit(diagnosis_text(found), diagnosis_rows(found), CAUSE_COLUMNS, diagnosis_document(found))
