"""`perfplan provision`: a fleet of machines for a workload."""

from __future__ import annotations

from typing import Annotated

import typer

from perfplan.cli import options, serving
from perfplan.cli.groups import grouped

__all__ = ["provision"]


@grouped
def provision(
    model: options.Model,
    clusters: Annotated[
        str,
        typer.Option(
            "--clusters", metavar="IDS", show_default=False, help="Machine types: dgx-h100,dgx-a100; nodes of clusters."
        ),
    ],
    workload: serving.Workload = "",
    isl: serving.MeanIsl = "",
    osl: serving.MeanOsl = "",
    rate: serving.Rate = "",
    objective: Annotated[
        str, typer.Option("--objective", metavar="cost|power|servers|throughput", help="What is best.")
    ] = "cost",
    power: Annotated[
        str, typer.Option("--power", metavar="W", show_default=False, help="Most power of all machines: 232kW.")
    ] = "",
    budget: Annotated[
        str, typer.Option("--budget", metavar="$/h", show_default=False, help="Most money for an hour: 500 $/h.")
    ] = "",
    servers: Annotated[
        int | None, typer.Option("--servers", metavar="N", show_default=False, help="Most machines.")
    ] = None,
    caps: Annotated[
        str, typer.Option("--caps", metavar="F,F", help="Power caps to choose from, as fractions of a machine's power.")
    ] = "1,0.7",
    assume_power: Annotated[
        str,
        typer.Option("--assume-power", metavar="CHIP=W", show_default=False,
                     help="What accelerators draw where the catalog does not say, or instead: tpu-v6e=300W."),
    ] = "",
    ttft: serving.Ttft = "2 s",
    tpot: serving.Tpot = "100 ms",
    percentile: serving.Percentile = 90.0,
    margin: serving.Margin = None,
    engine: serving.Engine = serving.ENGINE,
    weights: serving.Weights = "",
    kv: serving.Kv = "",
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="Pairings of machine types to print.")] = 6,
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Choose machine types, counts, roles and power caps: least cost, power or servers, or the most throughput."""
    from perfplan.api import provision_serve
    from perfplan.report.provision import FLEET_COLUMNS, fleet_document, fleet_rows, fleet_text
    from perfplan.serving.words import tokens

    found = provision_serve(
        model,
        clusters=options.words(clusters),
        workload=workload,
        isl=tokens(isl, "--isl") if isl else None,
        osl=tokens(osl, "--osl") if osl else None,
        rate=rate or None,
        objective=objective,
        power=power or None,
        budget=budget or None,
        servers=servers,
        caps=options.words(caps),
        assume_power=options.words(assume_power),
        ttft=ttft,
        tpot=tpot,
        percentile=percentile,
        margin=margin,
        engine=engine,
        weights=weights,
        kv=kv,
        catalog=catalog,
    )
    text = fleet_text(
        found.fleet, found.designs, found.workload, found.traffic, found.limits, found.model, found.caveats, top,
        found.other_lengths,
    )
    document = fleet_document(found.fleet, found.designs, found.bounds, found.caveats, found.other_lengths)
    output.emit(text, fleet_rows(found.fleet), FLEET_COLUMNS, document)
