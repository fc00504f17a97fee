"""Schedules as tables: pipelines compared, partitions, layers, what keeps each resource busy, and differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perfplan.overlap.auto import Auto
from perfplan.overlap.partition import Partition, layout_string
from perfplan.overlap.physics import Gap
from perfplan.overlap.scheduled import ScheduledLayer
from perfplan.overlap.serving_physics import ServedStep
from perfplan.overlap.stages import Compared, Pipeline, own_schedule
from perfplan.overlap.timeline import Timeline, difference, usage
from perfplan.report.columns import Column, Row
from perfplan.report.gantt import gantt
from perfplan.report.text import paragraph, table
from perfplan.report.training import job_line, short
from perfplan.training.estimate import Estimate
from perfplan.units import show

__all__ = [
    "GAP_COLUMNS",
    "LAYER_COLUMNS",
    "PARTITION_COLUMNS",
    "PIPELINE_COLUMNS",
    "against_text",
    "auto_document",
    "auto_text",
    "difference_text",
    "gap_document",
    "gap_rows",
    "gap_text",
    "layer_document",
    "layer_rows",
    "layer_text",
    "partition_rows",
    "partition_text",
    "pipeline_document",
    "pipeline_rows",
    "pipeline_text",
    "served_title",
    "trained_title",
    "usage_text",
]

PIPELINE_COLUMNS = (
    Column("schedule"),
    Column("step", "step", "s"),
    Column("change", "against the layout's", "%"),
    Column("pipeline", "pipeline", "s"),
    Column("bubble", "bubble", "s"),
    Column("bubble_share", "share", "%"),
    Column("memory", "fullest rank", "B"),
    Column("fits", "fits"),
    Column("in_flight", "chunks in flight", ""),
)
PARTITION_COLUMNS = (
    Column("rank"),
    Column("layers"),
    Column("kinds", "layers by kind"),
    Column("recompute", "recomputed"),
    Column("offload", "offloaded"),
    Column("time", "micro-batch", "s"),
    Column("memory", unit="B"),
)
RESOURCE_COLUMNS = (
    Column("rank"),
    Column("resource"),
    Column("busy", unit="s"),
    Column("exposed", unit="s"),
    Column("idle", unit="s"),
    Column("busy_share", "busy", "%"),
)


def pipeline_rows(pipeline: Pipeline, rows: Sequence[Compared]) -> list[Row]:
    """One line per schedule."""
    own = next((row.step for row in rows if row.name == own_schedule(pipeline.layout)), 0.0)
    return [_pipeline_row(row, own) for row in rows]


def _pipeline_row(row: Compared, own: float) -> Row:
    if row.ran is None:
        return {"schedule": row.name, "reason": row.reason}
    return {
        "schedule": row.name,
        "step": row.step,
        "change": row.step / own - 1 if own else None,
        "pipeline": row.pipeline,
        "bubble": row.bubble,
        "bubble_share": row.share,
        "memory": row.memory,
        "fits": row.fits,
        "in_flight": f"{max(row.ran.in_flight)}",
        "reason": "",
    }


def pipeline_text(pipeline: Pipeline, rows: Sequence[Compared], timeline: Timeline | None, split: str) -> str:
    """The comparison for people."""
    table_rows = pipeline_rows(pipeline, rows)
    able = [row for row in rows if row.ran is not None]
    parts = [
        paragraph(job_line(pipeline.job)) + "\n" + short(pipeline.layout),
        table([row for row, source in zip(table_rows, rows, strict=True) if source.ran], PIPELINE_COLUMNS),
    ]
    fitting = [row for row in able if row.fits]
    if fitting:
        parts.append(paragraph(f"fastest that fits: {fitting[0].name}, {show(fitting[0].step, 's')}"))
    parts += [paragraph(f"not run: {row.reason}") for row in rows if row.reason]
    parts.append(paragraph(
        f"assumed: {pipeline.micro_batches} micro-batches through {split}; a send takes {show(pipeline.hop, 's')} and"
        " occupies nobody; exposed communication splits evenly between forward and backward; DualPipe hides the"
        " exchange between experts behind the opposite pass; zero-bubble orders end in a barrier of all ranks (gradient"
        " norm), so their last gap counts; other software may not offer them"
    ))
    if timeline is not None:
        parts.append(gantt(timeline))
    return "\n\n".join(parts)


def pipeline_document(pipeline: Pipeline, rows: Sequence[Compared], partition: Partition | None) -> dict[str, Any]:
    """All of it, for JSON."""
    return {
        "model": pipeline.job.model.id,
        "cluster": pipeline.job.cluster.id,
        "layout": str(pipeline.layout),
        "micro_batches": pipeline.micro_batches,
        "send_s": pipeline.hop,
        "schedules": [
            {c.field: row.get(c.key) for c in PIPELINE_COLUMNS} | {"reason": row.get("reason", "")}
            for row in pipeline_rows(pipeline, rows)
        ],
        "partition": None if partition is None else _partition_document(partition),
    }


# ---------------------------------------------------------------- partitions
def partition_rows(partition: Partition) -> list[Row]:
    """One line per rank."""
    names = [setting.name for setting in partition.settings]
    rows: list[Row] = []
    for rank, choice in enumerate(partition.choices):
        by = {name: sum(row[i] for row in choice.counts) for i, name in enumerate(names)}
        rows.append({
            "rank": rank,
            "layers": sum(by.values()),
            "kinds": "+".join(str(sum(row)) for row in choice.counts),
            "recompute": sum(n for name, n in by.items() if name not in ("keep", "offload")),
            "offload": by.get("offload", 0),
            "time": choice.time,
            "memory": choice.memory,
        })
    return rows


def _partition_document(partition: Partition) -> dict[str, Any]:
    certificate = partition.certificate
    return {
        "pipeline_layout": layout_string(partition.sizes, partition.pipeline.job.mtp_depth),
        "busiest_rank_s": partition.busiest,
        "bound_s": certificate.bound,
        "gap": certificate.gap,
        "method": certificate.method,
        "ranks": [{c.field: row.get(c.key) for c in PARTITION_COLUMNS} for row in partition_rows(partition)],
    }


def partition_text(partition: Partition, plain: Partition | None) -> str:
    """The partition for people, beside the even slot rule's."""
    lines = [table(partition_rows(partition), PARTITION_COLUMNS)]
    lines.append(paragraph(f"busiest rank: {partition.certificate.sentence()}"))
    if plain is None:
        lines.append("the even slot rule does not fit under any recompute or offload")
    else:
        saved = 1 - partition.busiest / plain.busiest
        lines.append(paragraph(f"the even slot rule, with the best recompute and offload per layer:"
                               f" {show(plain.busiest, 's')}, so this one saves {100 * saved:.1f}%"))
    words = layout_string(partition.sizes, partition.pipeline.job.mtp_depth)
    lines.append(f"--pipeline-model-parallel-layout '{words}'")
    return "\n".join(lines)


# ---------------------------------------------------------------- timelines
def usage_text(timeline: Timeline) -> str:
    """Busy, exposed and idle time of every resource."""
    rows = [
        {"rank": u.rank, "resource": u.resource, "busy": u.busy, "exposed": u.exposed, "idle": u.idle,
         "busy_share": u.busy / timeline.time if timeline.time else 0.0}
        for u in usage(timeline)
    ]
    return table(rows, RESOURCE_COLUMNS)


def difference_text(one: Timeline, other: Timeline) -> str:
    """Where two timelines spend their time differently."""
    columns = (
        Column("kind", "operations"),
        Column("first", one.title, "s"),
        Column("second", other.title, "s"),
        Column("difference", unit="s"),
    )
    return table(difference(one, other), columns)


# ---------------------------------------------------------------- a plan's schedules, and the gap to physics
LONG = "left as they are, their pipelines being too long to simulate in a plan"


def auto_text(auto: Auto) -> str:
    """What `--schedule auto` changed in the layouts of a plan."""
    best, changed = auto.best, [row for row in auto.rows if row.changed]
    if not changed:
        tried = sum(row.tried for row in auto.rows)
        late = f"; {auto.skipped} of the layouts were {LONG}" if auto.skipped else ""
        return paragraph(f"schedule auto: nothing changed; none of {tried} schedules tried on {len(auto.rows)} layouts"
                         f" is faster and fits{late}")
    lines = [f"schedule auto: best {show(best.step, 's')} ({short(best.estimate.layout)}"
             + (f": {best.sentence()})" if best.changed else ", as planned)")]
    lines += [
        f"{short(row.estimate.layout)}: {show(row.before, 's')} -> {show(row.step, 's')}, {show(row.memory, 'B')};"
        f" {row.sentence()}"
        for row in changed[:5]
    ]
    if auto.skipped:
        lines.append(f"{auto.skipped} layouts were {LONG}")
    return "\n".join(map(paragraph, lines))


def auto_document(auto: Auto) -> dict[str, Any]:
    """The same under machine names."""
    return {
        "best": str(auto.best.estimate.layout),
        "skipped": auto.skipped,
        "layouts": [
            {
                "layout": str(row.estimate.layout),
                "schedule": row.schedule,
                "stages": row.stages,
                "step_time_s": row.step,
                "planned_step_time_s": row.before,
                "memory_bytes": row.memory,
                "changed": row.sentence() if row.changed else "",
            }
            for row in auto.rows
        ],
    }


GAP_COLUMNS = (Column("part"), Column("time", unit="s"), Column("share", unit="%"))
SAYS = {
    "physics": "no layout and no schedule of the declared model is faster",
    "layout": "compute of this layout beyond that: kernels, recompute, imbalance, optimizer",
    "schedule": "exposed communication, bubbles, host and gaps of this schedule",
    "unexplained": "measured less predicted",
}


def gap_rows(found: Gap) -> list[Row]:
    """The parts of a step, and the step."""
    whole = sum(found.parts.values())
    rows: list[Row] = [{"part": name, "time": t, "share": t / whole} for name, t in found.parts.items()]
    name = "measured step" if found.measured is not None else "step"
    return [*rows, {"part": name, "time": whole, "share": 1.0}]


def gap_text(found: Gap, title: str) -> str:
    """Where a step goes beyond physics, for people."""
    bound = found.bound
    floors = ", ".join(f"{name} {show(time, 's')}" for name, time in bound.floors.items())
    beaten = found.measured is not None and found.measured < bound.time
    held = "weights, gradients and optimizer state" if "network" in bound.floors else "the weights"
    return "\n\n".join((
        title,
        table(gap_rows(found), GAP_COLUMNS),
        "\n".join(paragraph(f"{name}: {SAYS[name]}") for name in found.parts),
        paragraph(f"physics: {bound.reason}; floors: {floors}; {held} need at least"
                  f" {bound.accelerators} accelerators if nothing is kept on the host"),
        *([paragraph("the measurement is below the bound: it is not of this job on these accelerators, or the catalog"
                     " has a data sheet wrong")] if beaten else []),
    ))


def trained_title(estimate: Estimate) -> str:
    """What is trained, and how."""
    return paragraph(job_line(estimate.job)) + "\n" + short(estimate.layout)


def served_title(step: ServedStep) -> str:
    """What is served, and how."""
    job = step.job
    tokens = "tokens cached" if step.phase == "decode" else "tokens of prompt"
    return paragraph(f"{job.model.id} on {job.cluster.id}, {step.layout.instance} x {job.cluster.accelerator.id},"
                     f" {step.phase} step of {step.batch:g} sequences, {step.context} {tokens} each, weights in"
                     f" {job.weights.id}, {job.engine.name}") + f"\n{step.layout}"


def gap_document(found: Gap, layout: str) -> dict[str, Any]:
    """The same under machine names."""
    return {
        "layout": layout,
        "parts_s": dict(found.parts),
        "floors_s": dict(found.bound.floors),
        "bound_s": found.bound.time,
        "bound_by": found.bound.reason,
        "bound_over_step": found.share,
        "least_accelerators": found.bound.accelerators,
    }


# ---------------------------------------------------------------- layers
LAYER_COLUMNS = (
    Column("technique"),
    Column("window", "window", "s"),
    Column("speedup", "speed-up", "1"),
    Column("exposed", "exposed links", "s"),
    Column("bound", "bound", "s"),
    Column("gap", "gap", "%"),
    Column("recipe", "cut into"),
    Column("flags", "note"),
)


def layer_rows(found: ScheduledLayer) -> list[Row]:
    """One line per technique."""
    whole = found.window.sequential
    rows: list[Row] = []
    for each in found.rows:
        notes = {"other model": bool(each.technique.changes), "hypothetical": each.technique.ideal,
                 "SMs kept": each.kept}
        rows.append({
            "technique": each.technique.name,
            "window": each.time,
            "speedup": whole / each.time,
            "exposed": max((u.exposed for u in usage(each.timeline) if u.resource.startswith("scale")), default=0.0),
            "bound": each.certificate.bound,
            "gap": each.certificate.gap,
            "recipe": str(each.recipe),
            "flags": ", ".join(note for note, said in notes.items() if said),
        })
    return rows


def layer_text(found: ScheduledLayer) -> str:
    """Techniques for people."""
    window = found.window
    parts = [
        paragraph(f"{window.title}: {window.layers} layers, one operation after another"
                  f" {show(window.sequential, 's')}"),
        table(layer_rows(found), LAYER_COLUMNS),
    ]
    able = [row for row in found.rows if row.technique.name == "best"]
    parts += [paragraph(f"best: {row.certificate.sentence()}") for row in able]
    parts.append("\n".join(paragraph(f"{row.technique.name}: {row.technique.says}"
                                     + (f"; {row.technique.changes}" if row.technique.changes else ""))
                           for row in found.rows if row.technique.name != "best"))
    parts.append(usage_text(found.timelines[0]))
    shown = f"above: resources under {found.timelines[0].title}"
    parts.append("\n".join(map(paragraph, (shown, found.sharing.sentence(), *window.caveats))))
    return "\n\n".join(parts)


def layer_document(found: ScheduledLayer) -> dict[str, Any]:
    """All of it, for JSON."""
    return {
        "window": found.window.title,
        "layers": found.window.layers,
        "sequential_s": found.window.sequential,
        "assumptions": found.sharing.sentence(),
        "techniques": [{c.field: row.get(c.key) for c in LAYER_COLUMNS} for row in layer_rows(found)],
        "timelines": {
            each.technique.name: [
                {"name": s.name, "kind": s.kind, "start_s": s.start, "end_s": s.end} for s in each.timeline.spans
            ]
            for each in found.rows
        },
    }


def against_text(plan: Timeline, measured: Timeline, rows: Sequence[dict[str, object]], scale: float) -> str:
    """A plan beside a measured trace."""
    columns = (
        Column("kind", "operations"),
        Column("planned", f"plan ({plan.title}) x {scale:g}", "s"),
        Column("measured", measured.title, "s"),
        Column("difference", unit="s"),
    )
    return table(rows, columns)
