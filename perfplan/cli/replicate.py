"""`perfplan replicate`: which experts get replicas, and where all of them live."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from perfplan.cli import options
from perfplan.cli.groups import grouped
from perfplan.cli.place import Ep, File, Stage, Synthetic

__all__ = ["replicate"]


@grouped
def replicate(
    model: options.Model,
    cluster: options.Cluster,
    ep: Ep,
    redundant: Annotated[
        str,
        typer.Option(
            "--redundant",
            metavar="R|R,R,...|auto",
            show_default=False,
            help="Slots of a layer beyond its experts; several, or auto, are swept: step and memory of each, the knee.",
        ),
    ] = "",
    loads: Annotated[
        str,
        typer.Option(
            "--loads",
            metavar="FILE",
            show_default=False,
            help="Loads of the experts (CSV: layer, expert, load), or a trace or transition counts as `place` reads.",
        ),
    ] = "",
    synthetic: Synthetic = "",
    groups: Annotated[
        int, typer.Option("--groups", metavar="N", help="Groups of experts that stay on one node, for plans by node.")
    ] = 1,
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            metavar="NAME",
            show_default=False,
            help="Plan to write: 'EPLB global', 'equal split', 'fractional split' ...; the best with equal shares"
            " unless given.",
        ),
    ] = "",
    stage: Stage = None,
    evaluate: Annotated[
        str,
        typer.Option(
            "--evaluate",
            metavar="FILE",
            show_default=False,
            help="Score the slots of this file (JSON of SGLang or of vLLM's Ascend plug-in) beside the plans.",
        ),
    ] = "",
    certify: Annotated[
        bool,
        typer.Option(
            "--certify",
            help="For few experts: let a solver better the plans with equal and unequal split or bound them.",
        ),
    ] = False,
    time_limit: Annotated[
        float | None,
        typer.Option(
            "--time-limit",
            metavar="S",
            show_default=False,
            help="Seconds for --certify, shared by plans and layers; 30 unless given.",
        ),
    ] = None,
    file: File = None,
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Replicate hot experts: EPLB's plan beside better ones with equal and unequal split, their gaps and step times."""
    from perfplan.errors import Unsupported
    from perfplan.placement.outputs import written
    from perfplan.placement.replicated import asked, choose, replicated, solver_seconds, sweep
    from perfplan.placement.step import routed_layers, step_of
    from perfplan.placement.study import fetch
    from perfplan.report.placement import (
        CHOICE_COLUMNS,
        SWEEP_COLUMNS,
        choice_rows,
        replicated_document,
        replicated_text,
        sweep_document,
        sweep_rows,
        sweep_text,
    )

    step = step_of(model, cluster, ep, catalog, **stage)
    wanted, given = asked(step, redundant, evaluate)
    seconds, (path, form) = solver_seconds(certify, time_limit), file
    job, routing = step.job, fetch(step.job, loads, synthetic)

    def files(slots: Any) -> dict[str, str]:
        layers, number = routed_layers(job), len(job.model.layers)
        return {path: written(form or "sglang", slots, ep, layers, number)} if path else {}

    if len(wanted) > 1:
        if policy or groups > 1 or certify:
            raise Unsupported(
                "a sweep compares the best plans with equal shares: give one --redundant with --policy, --groups or"
                " --certify"
            )
        swept = sweep(step, routing, wanted)
        output.emit(sweep_text(swept), sweep_rows(swept), SWEEP_COLUMNS, sweep_document(swept),
                    files(swept.knee.choice.plan.slots))
        return
    found = replicated(step, routing, wanted[0], groups, given, seconds)
    chosen = choose(found, policy or (given[0] if given else ""))
    output.emit(replicated_text(found, chosen), choice_rows(found), CHOICE_COLUMNS, replicated_document(found, chosen),
                files(chosen.plan.slots))
