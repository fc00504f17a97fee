"""`perfplan plan`: the best way to run a job."""

from __future__ import annotations

from typing import Annotated

import typer

from perfplan.cli import options, serving
from perfplan.cli.groups import grouped
from perfplan.errors import OutOfRange

__all__ = ["app"]

app = typer.Typer(help="Find the best way to run a job, with a proof.")


@app.callback()
def group() -> None:
    """Find the best way to run a job, with a proof."""


@app.command("train")
@grouped
def train(
    model: options.Model,
    cluster: options.Cluster,
    gpus: options.Gpus,
    global_batch: options.GlobalBatch,
    seq_len: options.SeqLen,
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
    schedule: Annotated[
        str,
        typer.Option("--schedule", metavar="own|auto", help="auto: other pipeline schedules and balanced stages for the"
                     " layouts printed, where they are faster and fit."),
    ] = "own",
    launch: options.Launch = "",
    fix: options.Fix = "",
    forbid: options.Forbid = "",
    job: options.Job = None,
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Find the best layouts of a training job: time, memory, what binds, and the proof."""
    from perfplan.api import plan_train
    from perfplan.cli.launch import flags_for, known_framework
    from perfplan.report import Progress
    from perfplan.report.auto import known_schedule, rescheduled
    from perfplan.report.plan import (
        FRONT_COLUMNS,
        front_rows,
        front_text,
        plan_columns,
        plan_document,
        plan_rows,
        plan_text,
    )

    known_framework(launch, catalog)
    wanted = known_schedule(schedule)
    with Progress("pipeline splits searched") as progress:
        plan = plan_train(
            model,
            cluster=cluster,
            gpus=options.gpu_range(gpus),
            global_batch=global_batch,
            seq_len=seq_len,
            tokens=tokens,
            objective=objective,
            top=top,
            deadline=deadline,
            fix=fix,
            forbid=forbid,
            **job,
            catalog=catalog,
            tick=progress.tick,
        )
    flags = flags_for(plan.best, launch, catalog)
    more = rescheduled(plan.estimates, wanted)
    document = plan_document(plan) | flags.document() | more.document
    if front:
        text = f"{plan_text(plan)}{more.text}\n\n{front_text(plan)}{flags.text}"
        output.emit(text, front_rows(plan), FRONT_COLUMNS, document)
    else:
        output.emit(plan_text(plan) + more.text + flags.text, plan_rows(plan), plan_columns(plan), document)


@app.command("serve")
@grouped
def serve(
    cluster: options.Cluster,
    gpus: options.WholeGpus,
    model: options.ModelOrLine = "",
    line: options.ServeFrom = ("", ""),
    workload: serving.Workload = "",
    isl: serving.MeanIsl = "",
    osl: serving.MeanOsl = "",
    rate: serving.Rate = "",
    concurrency: Annotated[
        float | None,
        typer.Option("--concurrency", metavar="N", show_default=False, help="Users in flight instead of a rate."),
    ] = None,
    think: Annotated[
        str, typer.Option("--think", metavar="T", help="Time that a user or a tool takes between two requests.")
    ] = "0 s",
    ttft: serving.Ttft = "2 s",
    tpot: serving.Tpot = "50 ms",
    percentile: serving.Percentile = 90.0,
    margin: serving.Margin = None,
    arrivals: Annotated[
        float | None,
        typer.Option(
            "--arrivals",
            metavar="CV",
            show_default=False,
            help="Coefficient of variation of the times between arrivals, 1 = Poisson; the workload's unless given.",
        ),
    ] = None,
    objective: Annotated[
        str, typer.Option("--objective", metavar="gpus|goodput", help="Fewest accelerators, or the highest rate.")
    ] = "gpus",
    kind: Annotated[
        str,
        typer.Option(
            "--kind", metavar="KIND", show_default=False, help="Only aggregated or only disaggregated deployments."
        ),
    ] = "",
    kv: Annotated[
        str,
        typer.Option("--kv", metavar="DTYPES", show_default=False, help="Cache formats to choose from: bf16,fp8."),
    ] = "",
    engine: serving.EngineOrLine = "",
    weights: serving.Weights = "",
    cached: serving.Cached = None,
    steps: serving.Steps = None,
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, max=1000, help="Deployments to print.")] = 8,
    simulate: Annotated[
        int, typer.Option("--simulate", metavar="N", min=0, max=50, help="Run the first N through the event simulator.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0, help="Seed of the simulation.")] = 0,
    front: Annotated[
        bool, typer.Option("--front", help="Print the front of throughput per accelerator against latency.")
    ] = False,
    launch: options.ServeLaunch = "",
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Find the best deployment for a workload under latency limits: prompts and decodes together or in pools apart."""
    from perfplan.api import plan_serve, simulate_serve
    from perfplan.cli.launch import known_framework, planned, served_line
    from perfplan.report.serve_plan import (
        FRONT_COLUMNS,
        columns,
        front_rows,
        front_text,
        serve_document,
        serve_rows,
        serve_text,
    )
    from perfplan.serving.plan import KINDS
    from perfplan.serving.plan import front as trades
    from perfplan.serving.words import tokens

    if seed and not simulate:
        raise OutOfRange(f"--seed {seed} changes nothing without --simulate; give both")
    mine = known_framework(launch, catalog, "serving")
    read = served_line(line, model, catalog)
    engine = engine or ("" if read else mine)
    plan = plan_serve(
        model,
        cluster=cluster,
        gpus=gpus,
        workload=workload,
        isl=tokens(isl, "--isl") if isl else None,
        osl=tokens(osl, "--osl") if osl else None,
        rate=rate or None,
        concurrency=concurrency,
        think=think,
        ttft=ttft,
        tpot=tpot,
        percentile=percentile,
        margin=margin,
        arrivals=arrivals,
        objective=objective,
        kinds=(kind,) if kind else KINDS,
        kv=options.words(kv),
        engine=engine,
        weights=weights,
        top=top,
        **cached,
        **steps,
        launch=read,
        catalog=catalog,
    )
    runs = simulate_serve(plan, count=simulate, seed=seed)
    points = trades(plan) if front else []
    flags = planned(plan, launch, catalog)
    document = serve_document(plan, runs, points) | flags.document(read)
    if front:
        text = f"{serve_text(plan, runs)}\n\n{front_text(points)}{flags.text}"
        output.emit(text, front_rows(points), FRONT_COLUMNS, document)
    else:
        output.emit(serve_text(plan, runs) + flags.text, serve_rows(plan, runs), columns(bool(runs), True), document)
