"""`perfplan schedule`: what runs when, compared with other orders, and drawn."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Annotated

import typer

from perfplan.cli import options, serving
from perfplan.cli.groups import grouped
from perfplan.errors import OutOfRange, offer

__all__ = ["app"]

app = typer.Typer(help="Choose when things run: pipeline schedules and overlap inside a layer, on a timeline.")

Trace = Annotated[
    str | None,
    typer.Option("--trace", metavar="FILE", show_default=False, help="Write the timelines as a Perfetto/Chrome trace."),
]
Svg = Annotated[
    str | None, typer.Option("--svg", metavar="FILE", show_default=False, help="Draw the first timeline as an SVG.")
]
Diff = Annotated[
    str,
    typer.Option("--diff", metavar="'A B'", show_default=False, help="Say where two of the timelines differ."),
]


def _needed(value: int | None, name: str) -> int:
    """An option that this phase cannot do without."""
    if value is None:
        raise OutOfRange(f"{name} is missing; this phase needs it")
    return value


def _belongs(phase: str, training: Mapping[str, object], serving_: Mapping[str, object]) -> None:
    """Refuse options of serving in a training phase, and the other way round."""
    given, other = (serving_, "serving") if phase == "train" else (training, "training")
    for name, value in given.items():
        if value:
            raise OutOfRange(f"{name} belongs to {other} and changes nothing with --phase {phase}; leave it out")


@app.callback()
def group() -> None:
    """Choose when things run: pipeline schedules and overlap inside a layer, on a timeline."""


@app.command("pipeline")
@grouped
def pipeline(
    model: options.Model,
    cluster: options.Cluster,
    layout: options.LayoutText,
    global_batch: options.GlobalBatch,
    seq_len: options.SeqLen,
    compare: Annotated[
        str,
        typer.Option("--compare", metavar="all|NAMES", help="Schedules to run beside the layout's own, such as"
                     " '1f1b,zb-h1,dualpipe'; interleaved:16 has groups of 16 micro-batches."),
    ] = "all",
    balance: Annotated[
        bool,
        typer.Option("--balance", help="Choose the layers of each stage, and what each recomputes or offloads, too."),
    ] = False,
    gantt: Annotated[bool, typer.Option("--gantt", help="Draw the fastest schedule that fits.")] = False,
    precision: options.Precision = "bf16",
    framework: options.Framework = "",
    overlap: options.Overlap = "",
    routing_skew: options.Skew = 1.0,
    mtp: options.Mtp = None,
    trace: Trace = None,
    drawing: Svg = None,
    diff: Diff = "",
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Compare pipeline schedules on the stages of a layout: step, bubble and memory by event simulation."""
    from perfplan.api import schedule_pipeline
    from perfplan.report.schedule import PIPELINE_COLUMNS, pipeline_rows
    from perfplan.report.views import pipeline_files, pipeline_view

    found = schedule_pipeline(
        model,
        cluster=cluster,
        layout=layout,
        global_batch=global_batch,
        seq_len=seq_len,
        precision=precision,
        framework=framework,
        overlap=options.overlaps(overlap),
        routing_skew=routing_skew,
        mtp=mtp,
        compare=() if compare == "all" else options.words(compare),
        balance=balance,
        catalog=catalog,
    )
    text, document = pipeline_view(found, gantt, options.words(diff))
    pipeline_files(found, trace, drawing)
    output.emit(text, pipeline_rows(found.pipeline, found.rows), PIPELINE_COLUMNS, document)


@app.command("layer")
@grouped
def layer(
    model: options.Model,
    cluster: options.Cluster,
    layout: options.LayoutText,
    phase: Annotated[
        str, typer.Option("--phase", metavar="decode|prefill|mixed|train", show_default=False,
                          help="What the layers run.")
    ],
    batch: Annotated[
        int, typer.Option("--batch", metavar="B", show_default=False,
                          help="Sequences of the replica in one step; of a micro-batch in training.")
    ],
    context: Annotated[
        str, typer.Option("--context", metavar="TOKENS", help="Tokens cached, of a prompt, or of a training sequence.")
    ] = "1024",
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="TOKENS", help="Tokens of prompts beside the decodes of a mixed step.")
    ] = "0",
    technique: Annotated[
        str, typer.Option("--technique", metavar="all|NAMES", help="Of blocking, async, fused, t3, fsmoe,"
                          " shared-expert, delayed-wgrad, fsdp, two-batch, nanoflow, ladder, parallel and best.")
    ] = "all",
    time_limit: Annotated[
        float | None,
        typer.Option("--time-limit", metavar="S", min=0.1, show_default=False, help="Cut the search for the best order"
                     " after so many seconds, 120 unless given; an answer that it cuts says so.")
    ] = None,
    gantt: Annotated[bool, typer.Option("--gantt", help="Draw the shortest.")] = False,
    engine: serving.Engine = serving.ENGINE,
    weights: serving.Weights = "",
    kv: serving.Kv = "",
    precision: options.Precision = "bf16",
    framework: options.Framework = "",
    trace: Trace = None,
    drawing: Svg = None,
    diff: Diff = "",
    against: Annotated[
        str, typer.Option("--against", metavar="FILE", show_default=False,
                          help="Trace of torch.profiler to set beside the shortest, class by class.")
    ] = "",
    windows: Annotated[
        float, typer.Option("--windows", metavar="N", help="Windows of two layers that the trace of --against holds.")
    ] = 1.0,
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Overlap inside two layers: published techniques on one graph of operations, and the best order with its gap."""
    from perfplan.api import schedule_layer
    from perfplan.report.schedule import LAYER_COLUMNS, layer_rows
    from perfplan.report.views import layer_view, write_timelines
    from perfplan.serving.words import tokens

    if not against and windows != 1:
        raise OutOfRange(f"--windows {windows:g} changes nothing without --against; give both")
    if not 0 < windows < inf:
        raise OutOfRange(f"--windows is {windows:g}, but a trace holds more than 0 of them")
    _belongs(phase, {"--precision": precision != "bf16", "--framework": framework},
             {"--engine": engine != serving.ENGINE, "--weights": weights, "--kv": kv})
    found = schedule_layer(
        model,
        cluster=cluster,
        layout=layout,
        phase=phase,
        batch=batch,
        context=tokens(context, "--context"),
        prompt=tokens(prompt, "--prompt") if prompt != "0" else 0,
        technique=() if technique == "all" else options.words(technique),
        time_limit=time_limit,
        engine=engine,
        weights=weights,
        kv=kv,
        precision=precision,
        framework=framework,
        catalog=catalog,
    )
    text, document = layer_view(found, gantt, options.words(diff), against, windows)
    write_timelines(found.timelines, trace, drawing)
    output.emit(text, layer_rows(found), LAYER_COLUMNS, document)


@app.command("moe")
@grouped
def moe(
    model: options.Model,
    cluster: options.Cluster,
    layout: options.LayoutText,
    batch: Annotated[
        int, typer.Option("--batch", metavar="B", show_default=False, help="Sequences of a micro-batch.")
    ],
    seq_len: options.SeqLen,
    chunks: Annotated[
        str, typer.Option("--chunks", metavar="R,R,...", help="Numbers of chunks to try.")
    ] = "1,2,4,8",
    precision: options.Precision = "bf16",
    framework: options.Framework = "",
    routing_skew: options.Skew = 1.0,
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Cut a mixture-of-experts layer into chunks (FSMoE): the best number, forward and backward, and its gradients."""
    from perfplan.api import schedule_moe
    from perfplan.report.chunked import CHUNKED_COLUMNS, chunked_document, chunked_rows, chunked_text

    found = schedule_moe(
        model,
        cluster=cluster,
        layout=layout,
        batch=batch,
        seq_len=seq_len,
        chunks=options.words(chunks),
        precision=precision,
        framework=framework,
        routing_skew=routing_skew,
        catalog=catalog,
    )
    output.emit(chunked_text(found), chunked_rows(found), CHUNKED_COLUMNS, chunked_document(found))


@app.command("offload")
@grouped
def offload(
    model: options.Model,
    cluster: options.Cluster,
    layout: options.LayoutText,
    global_batch: options.GlobalBatch,
    seq_len: options.SeqLen,
    host_memory: Annotated[
        str, typer.Option("--host-memory", metavar="SIZE", show_default=False,
                          help="Memory of the host for the state of one accelerator, such as 200GiB; no limit unless"
                          " given.")
    ] = "",
    nvme: Annotated[
        str, typer.Option("--nvme", metavar="RATE", show_default=False,
                          help="Bandwidth of one accelerator's disk in each direction, such as 3GB/s; no disk unless"
                          " given.")
    ] = "",
    subgroup: Annotated[
        str, typer.Option("--subgroup", metavar="N", help="Parameters updated at one time, such as 100M.")
    ] = "10M",
    precision: options.Precision = "bf16",
    framework: options.Framework = "deepspeed",
    overlap: options.Overlap = "",
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Offload of a layout: optimizer state on device, host or NVMe and what updates it; gradients, activations."""
    from perfplan.api import schedule_offload
    from perfplan.report.offload import OFFLOAD_COLUMNS, offload_document, offload_rows, offload_text

    found = schedule_offload(
        model,
        cluster=cluster,
        layout=layout,
        global_batch=global_batch,
        seq_len=seq_len,
        host_memory=host_memory,
        nvme=nvme,
        subgroup=subgroup,
        precision=precision,
        framework=framework,
        overlap=options.overlaps(overlap),
        catalog=catalog,
    )
    output.emit(offload_text(found), offload_rows(found), OFFLOAD_COLUMNS, offload_document(found))


@app.command("gap")
@grouped
def gap(
    model: options.Model,
    cluster: options.Cluster,
    layout: options.LayoutText,
    phase: Annotated[
        str, typer.Option("--phase", metavar="train|decode|prefill", help="Whether a step trains, or which it serves.")
    ] = "train",
    global_batch: Annotated[
        int | None, typer.Option("--global-batch", metavar="B", help="Sequences per optimizer step, in training.")
    ] = None,
    seq_len: Annotated[
        int | None, typer.Option("--seq-len", metavar="S", help="Tokens per sequence, in training.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", metavar="B", help="Sequences of the replica in one step, in serving.")
    ] = None,
    context: Annotated[
        str, typer.Option("--context", metavar="TOKENS", help="Tokens cached by each, or of a prompt, in serving.")
    ] = "1024",
    measured: Annotated[
        str, typer.Option("--measured", metavar="TIME", show_default=False, help="Measured step, such as 35.1s.")
    ] = "",
    precision: options.Precision = "bf16",
    framework: options.Framework = "",
    overlap: options.Overlap = "",
    routing_skew: options.Skew = 1.0,
    engine: serving.Engine = serving.ENGINE,
    weights: serving.Weights = "",
    kv: serving.Kv = "",
    catalog: options.Entries = None,
    output: options.Out = None,
) -> None:
    """Split a step into what physics demands, what the layout adds, what the schedule adds, and what is unexplained."""
    from perfplan.api import gap_serve, gap_train
    from perfplan.report.schedule import (
        GAP_COLUMNS,
        gap_document,
        gap_rows,
        gap_text,
        served_title,
        trained_title,
    )
    from perfplan.serving.words import tokens

    _belongs(phase, {"--global-batch": global_batch, "--seq-len": seq_len, "--precision": precision != "bf16",
                     "--framework": framework, "--overlap": overlap, "--routing-skew": routing_skew != 1},
             {"--batch": batch, "--context": context != "1024", "--engine": engine != serving.ENGINE,
              "--weights": weights, "--kv": kv})
    if phase not in (phases := ("train", "decode", "prefill")):
        raise OutOfRange(f"phase {phase!r} is unknown{offer(phase, phases)}")
    spent = measured or None
    if phase == "train":
        step, found = gap_train(model, cluster=cluster, layout=layout, measured=spent, precision=precision,
                                global_batch=_needed(global_batch, "--global-batch"),
                                seq_len=_needed(seq_len, "--seq-len"), framework=framework,
                                overlap=options.overlaps(overlap), routing_skew=routing_skew, catalog=catalog)
        title, place = trained_title(step), str(step.layout)
    else:
        served, found = gap_serve(model, cluster=cluster, layout=layout, phase=phase, measured=spent, engine=engine,
                                  batch=_needed(batch, "--batch"), context=tokens(context, "--context"),
                                  weights=weights, kv=kv, catalog=catalog)
        title, place = served_title(served), str(served.layout)
    output.emit(gap_text(found, title), gap_rows(found), GAP_COLUMNS, gap_document(found, place))
