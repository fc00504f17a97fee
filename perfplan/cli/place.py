"""`perfplan place`: on which accelerator each expert lives, what that saves, and whether it is worth it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from perfplan.cli import options, serving
from perfplan.cli.groups import Group, grouped

__all__ = ["place"]

Ep = Annotated[
    int, typer.Option("--ep", metavar="N", show_default=False, help="Accelerators that share the experts of a layer.")
]
Trace = Annotated[
    str,
    typer.Option(
        "--trace",
        metavar="FILE",
        show_default=False,
        help="How tokens were routed: a trace [token, layer] (CSV, npy, parquet), loads (CSV, JSON of SGLang) or "
        "transition counts (CSV).",
    ),
]
Synthetic = Annotated[
    str,
    typer.Option(
        "--synthetic",
        metavar="'zipf=0.8,affinity=0.9,seed=1'",
        show_default=False,
        help="Made-up routing instead: popularity falls as 1/rank^zipf; affinity is the spread of the logarithm of what"
        " an expert of one layer prefers in the next; also tokens=20000, and groups=8,limit=4: a token"
        " picks from 4 of 8 groups of experts.",
    ),
]
Dispatcher = Annotated[
    str,
    typer.Option(
        "--dispatcher",
        metavar="ID[:ALGORITHM]",
        show_default=False,
        help="Library that sends tokens to experts, such as deepep-v1, deepep-v1:low_latency, nvlink-one-sided; the"
        " cluster's own unless given, else an all-to-all of every pick.",
    ),
]
Phase = Annotated[str, typer.Option("--phase", metavar="prefill|decode", help="What the step does.")]
Tokens = Annotated[
    int | None,
    typer.Option(
        "--tokens", metavar="T", show_default=False, help="Tokens a GPU in a step; 8192 in prefill and 128 in decode."
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        "--context", metavar="S", show_default=False, help="Tokens cached per sequence in decode; 4096 unless given."
    ),
]
Form = Annotated[
    str,
    typer.Option(
        "--form",
        metavar="csv|sglang|vllm|exflow",
        show_default=False,
        help="Form of --write: csv in `place` and sglang in `replicate` unless given; vllm: of vLLM's Ascend plug-in.",
    ),
]
Write = Annotated[
    str, typer.Option("--write", metavar="FILE", show_default=False, help="Write the placement into this file.")
]
TimeLimit = Annotated[
    float,
    typer.Option(
        "--time-limit",
        metavar="S",
        help="Seconds for placing, bounding and judging; reading and pricing come on top.",
    ),
]


def _stage(
    phase: Phase = "prefill",
    tokens: Tokens = None,
    context: Context = None,
    engine: serving.Engine = serving.ENGINE,
    weights: serving.Weights = "",
    dispatcher: Dispatcher = "",
) -> dict[str, Any]:
    return locals()


Stage = Annotated[Any, Group(_stage)]
"""The step that placements are priced by: arguments of `placement.step.step_of` by name."""


def _file(write: Write = "", form: Form = "") -> tuple[str, str]:
    from perfplan.errors import OutOfRange

    if form and not write:
        raise OutOfRange(f"--form {form} changes nothing without --write; give both")
    return write, form


File = Annotated[Any, Group(_file)]
"""Path and form of the file to write, empty if none is wanted."""


def _limit(value: float | None) -> float:
    return float("inf") if value is None else value


@grouped
def place(
    model: options.Model,
    cluster: options.Cluster,
    ep: Ep,
    trace: Trace = "",
    synthetic: Synthetic = "",
    objective: Annotated[
        str,
        typer.Option(
            "--objective",
            metavar="traffic|load|joint|latency",
            help="Transitions between GPUs, weighted by link; largest over mean load; their sum; time of a step.",
        ),
    ] = "joint",
    weight: Annotated[
        float, typer.Option("--weight", metavar="X", help="What a unit of max/mean load counts in the joint objective.")
    ] = 1.0,
    balance: Annotated[
        float | None,
        typer.Option("--balance", metavar="X", show_default=False, help="Largest max/mean load, mean over layers."),
    ] = None,
    layer_balance: Annotated[
        float | None,
        typer.Option("--layer-balance", metavar="X", show_default=False, help="Largest max/mean load of any layer."),
    ] = None,
    memory_budget: Annotated[
        str,
        typer.Option(
            "--memory-budget",
            metavar="SIZE",
            show_default=False,
            help="Expert weights that a GPU may hold, such as 30GiB: it may then hold more experts of one layer and"
            " fewer of another; equal numbers in every layer unless given.",
        ),
    ] = "",
    exchange: Annotated[
        str,
        typer.Option(
            "--exchange",
            metavar="round-trip|coherent",
            help="Dispatch and combine in every layer, or ExFlow's: a token stays where its expert was.",
        ),
    ] = "round-trip",
    stage: Stage = None,
    method: Annotated[
        str, typer.Option("--method", metavar="auto|exact|search|milp", help="How to solve it.")
    ] = "auto",
    rounds: Annotated[
        int | None,
        typer.Option("--rounds", metavar="N", show_default=False, help="Rounds of a search; by size unless given."),
    ] = None,
    time_limit: TimeLimit = 30.0,
    evaluate: Annotated[
        str,
        typer.Option(
            "--evaluate", metavar="FILE", show_default=False, help="Score the placement of this file, search none."
        ),
    ] = "",
    current: Annotated[
        str,
        typer.Option(
            "--current", metavar="FILE", show_default=False, help="Placement in use; experts in order unless given."
        ),
    ] = "",
    file: File = None,
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Place the experts of a model: cross-GPU traffic, balance and step time before and after, with a certificate."""
    from perfplan.placement.outputs import written_placement
    from perfplan.placement.step import routed_layers, step_of
    from perfplan.placement.study import Request, experts_within, fetch, study
    from perfplan.report.placement import OPTION_COLUMNS, option_rows, study_document, study_text

    step = step_of(model, cluster, ep, catalog, **stage)
    request = Request(
        objective,
        weight,
        _limit(balance),
        _limit(layer_balance),
        exchange,
        method,
        rounds,
        time_limit,
        evaluate,
        current,
        experts_within(step, memory_budget),
    )
    found = study(step, fetch(step.job, trace, synthetic), request)
    path, form = file
    layers, number = routed_layers(step.job), len(step.job.model.layers)
    files = {path: written_placement(form or "csv", found.best.placed, ep, layers, number)} if path else {}
    output.emit(study_text(found), option_rows(found), OPTION_COLUMNS, study_document(found), files)
