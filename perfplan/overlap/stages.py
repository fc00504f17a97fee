"""The stages of a training layout, as the step model prices them, run through pipeline schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from perfplan.errors import Indivisible, OutOfRange, PerfplanError
from perfplan.overlap.orders import SCHEDULES, chunks_of, fits_groups, known, order
from perfplan.overlap.passes import Order
from perfplan.overlap.pipeline import Passes, Run, run
from perfplan.training.estimate import Estimate, estimate, kind_jobs, layer_sequence, pieces
from perfplan.training.job import Job
from perfplan.training.layers import weight_gradients
from perfplan.training.layout import Layout, block
from perfplan.training.network import Network
from perfplan.training.ops import head_ops, layer_ops
from perfplan.training.shape import Shape
from perfplan.training.stages import Stage, chunk_sizes
from perfplan.training.step import Pieces, send_time, stage_memory, stage_parts

__all__ = ["Compared", "Pipeline", "compare", "even_chunks", "own_schedule"]

OUTSIDE = ("dp", "optimizer", "gaps")  # parts of a step that no order of the passes moves


def own_schedule(layout: Layout) -> str:
    """The schedule that the step model assumes of a layout."""
    return "interleaved" if layout.vpp > 1 else "1f1b"


def _stages(layout: Layout, name: str) -> int:
    """Stages of the model under a schedule; the second chain of DualPipe walks the same ones."""
    return int(layout.pp * (1 if name == "dualpipe" else chunks_of(name, layout.vpp)))


def even_chunks(job: Job, chunks: int) -> tuple[int, ...]:
    """Layers of each chunk by the even slot rule, or an error that says why there are too few."""
    layers = len(job.model.layers)
    sizes = chunk_sizes(layers, chunks, job.mtp_depth)
    if sizes is None:
        raise Indivisible(f"{layers} layers, embedding and head do not fill {chunks} chunks; use fewer")
    return sizes


@dataclass(frozen=True)
class Chosen:
    """Chosen stages. pieces: costs by kind of layer and setting, kinds first; settings: how many of these there are;
    chunks: layers of each chunk in those terms."""

    pieces: Pieces
    settings: int
    chunks: tuple[Stage, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Layers of each chunk."""
        return tuple(sum(chunk.layers) for chunk in self.chunks)


@dataclass(frozen=True)
class Pipeline:
    """A training job under one layout with pipeline stages. whole: the estimate of its step; chosen: stages that were
    chosen instead of the even ones, with settings of their own for each layer."""

    job: Job
    layout: Layout
    whole: Estimate
    chosen: Chosen | None = None

    @classmethod
    def of(cls, job: Job, layout: Layout) -> Pipeline:
        """Price the layout, which needs more than one stage."""
        if layout.pp < 2:
            raise OutOfRange(f"layout {str(layout)!r} has one pipeline stage and so nothing to schedule; give pp2 or"
                             " more")
        return cls(job, layout, estimate(job, layout))

    @cached_property
    def net(self) -> Network:
        """The network as the job sees it."""
        return Network(self.job.cluster, max(self.job.gpus, self.layout.world))

    @cached_property
    def shape(self) -> Shape:
        """The axes that the cost of a layer depends on."""
        at = self.layout
        return Shape(self.job.seq_len, at.mbs, at.tp, at.sp, at.cp, at.ep, at.etp)

    @cached_property
    def pieces(self) -> Pieces:
        """Costs of layers by kind (and setting, where stages are chosen), of embedding and head."""
        if self.chosen:
            return self.chosen.pieces
        return pieces(self.job, self.net, self.shape, self.layout.cp_kind, self.layout.recompute, self.layout.offload)

    @cached_property
    def micro_batches(self) -> int:
        """Micro-batches per step and data-parallel rank."""
        return int(self.job.global_batch // (self.layout.mbs * self.layout.dp))

    @cached_property
    def hop(self) -> float:
        """One send between stages [s]."""
        return float(send_time(self.job, self.net, self.layout))

    @cached_property
    def late(self) -> tuple[list[float], float]:
        """Time of the weight gradients: (of a layer of each kind, of the head) [s]."""
        kinds = self.job.model.kinds
        jobs, settings = kind_jobs(self.job), self.chosen.settings if self.chosen else 1
        layers = [
            float(weight_gradients(each, layer_ops(each, kinds[i % len(kinds)], self.shape)))
            for i, each in enumerate(jobs)
            for _ in range(settings)
        ] * (2 if block(self.layout.recompute) else 1)
        return layers, float(weight_gradients(self.job, head_ops(self.job, self.shape)))

    def chunks(self, sizes: Sequence[int]) -> list[Stage]:
        """The chunks of the model with these numbers of layers."""
        if self.chosen:
            return list(self.chosen.chunks)
        sequence, kinds = layer_sequence(self.job)
        first = block(self.layout.recompute)
        found, start = [], 0
        for index, size in enumerate(sizes):
            counts = [0] * kinds * (2 if first else 1)
            for place, kind in enumerate(sequence[start : start + size]):
                counts[kind + kinds * (place < first)] += 1
            start += size
            found.append(Stage(tuple(counts), index == 0, index == len(sizes) - 1, 1, index % self.layout.pp))
        return found

    def _pass_times(self, chunk: Stage) -> tuple[float, float, float, float]:
        """(forward, gradient of inputs, gradient of weights, exchange between experts) of one chunk [s].

        Exposed communication, host waits and copies are split evenly between forward and backward.
        """
        parts = {name: float(part) for name, part in stage_parts(self.job, self.net, self.layout, self.pieces, chunk)
                 .items()}
        both = sum(parts.values()) - parts["forward"] - parts["backward"] - parts["recompute"]
        layers, head = self.late
        weights = sum(n * time for n, time in zip(chunk.layers, layers, strict=True)) + head * chunk.last
        inputs = parts["backward"] - weights + parts["recompute"] + both / 2
        return parts["forward"] + both / 2, inputs, weights, parts["ep"]

    def passes(self, name: str, sizes: Sequence[int]) -> Passes:
        """Times of the passes of all stages of a schedule."""
        rows = [self._pass_times(chunk) for chunk in self.chunks(sizes)]
        saved = [sum(n * float(cost.saved) for n, cost in zip(chunk.layers, self.pieces.kinds, strict=True))
                 + float(self.pieces.first.saved) * chunk.first
                 + sum(float(cost.saved) for cost in (self.pieces.last, self.pieces.ahead) if cost) * chunk.last
                 for chunk in self.chunks(sizes)]
        if name == "dualpipe":  # a second chain walks the same stages from the other end
            rows, saved = rows * 2, saved * 2
        work, exchange = sum(sum(row[:3]) for row in rows), sum(row[3] for row in rows)
        slower = 1 + (max(self.job.framework.contention, 1.0) - 1) * exchange / work
        fused = max(work - exchange, exchange) * slower / work
        columns = list(zip(*rows, strict=True))
        return Passes(columns[0], columns[1], columns[2], saved, self.hop, min(fused, 1.0))

    def run(self, name: str) -> Run:
        """Run a schedule over the stages of the layout."""
        chunks = chunks_of(name, self.layout.vpp)
        passes = self.passes(name, self.split(name))
        stages = len(passes.forward)
        mean = tuple(sum(column) / stages for column in (passes.forward, passes.inputs, passes.weights))
        made: Order = order(name, self.layout.pp, self.micro_batches, chunks, (mean[0], mean[1], mean[2]))
        return run(made, passes)

    def split(self, name: str) -> tuple[int, ...]:
        """Layers of each chunk of a schedule: as chosen, or by the even slot rule."""
        stages = _stages(self.layout, name)
        if self.chosen is None:
            return even_chunks(self.job, stages)
        if stages != len(self.chosen.chunks):
            raise OutOfRange(f"schedule {name} has {stages} stages, the balanced layout {len(self.chosen.chunks)}; run"
                             " it without balancing")
        return self.chosen.sizes

    def outside(self) -> float:
        """Time of the step that is not part of the pipeline [s]."""
        return sum(self.whole.breakdown[part] for part in OUTSIDE)

    def memory(self, ran: Run, sizes: Sequence[int]) -> list[float]:
        """Memory of every rank under a schedule [B]."""
        chunks, order_ = self.chunks(sizes), ran.order
        totals = []
        for rank in range(self.layout.pp):
            mine = [chunk for stage, chunk in enumerate(chunks) if order_.place[stage] == rank]
            layers = tuple(map(sum, zip(*(chunk.layers for chunk in mine), strict=True)))
            held = Stage(layers, any(c.first for c in mine), any(c.last for c in mine), 1, rank)
            parts = {n: float(size) for n, size in stage_memory(self.job, self.layout, self.pieces, held).items()}
            parts["activations"] = ran.held[rank]
            parts["fragmentation"] = self.job.framework.fragmentation * ran.held[rank]
            if order_.copies > 1:  # what the mirrored rank holds too
                mirrored = [chunks[self.layout.pp - 1 - rank]]
                other = replace(mirrored[0], rank=rank)
                more = stage_memory(self.job, self.layout, self.pieces, other)
                names = ("weights", "gradients", *(() if self.layout.shard_optimizer != 1 else ("optimizer",)))
                parts |= {name: parts[name] + float(more[name]) for name in names}
                parts["logits"] = max(parts["logits"], float(more["logits"]))
            totals.append(sum(parts.values()))
        return totals


@dataclass(frozen=True)
class Compared:
    """One schedule beside the others. step, pipeline, bubble, idle_inside: [s]; memory: of the fullest rank [B];
    fits; reason: why it cannot run, empty if it can."""

    name: str
    step: float = 0.0
    pipeline: float = 0.0
    bubble: float = 0.0
    share: float = 0.0
    idle_inside: float = 0.0
    memory: float = 0.0
    fits: bool = False
    reason: str = ""
    ran: Run | None = None


def _compared(pipeline: Pipeline, name: str) -> Compared:
    try:
        split, ran = pipeline.split(name), pipeline.run(name)
    except PerfplanError as error:
        return Compared(name, reason=str(error))
    memory = max(pipeline.memory(ran, split))
    return Compared(
        name,
        ran.time + pipeline.outside(),
        ran.time,
        ran.bubble,
        ran.bubble / ran.time,
        ran.idle_inside,
        memory,
        memory <= pipeline.job.cluster.accelerator.memory,
        ran=ran,
    )


def compare(pipeline: Pipeline, names: Sequence[str] = ()) -> list[Compared]:
    """Schedules on the same stages: those that run by step time, then those that cannot, with the reason."""
    pp, m = pipeline.layout.pp, pipeline.micro_batches
    twice = [f"interleaved:{2 * pp}"] if 2 * pp < m and fits_groups(pp, m, 2 * pp) else []  # hides sends better
    every = [*SCHEDULES, *(twice if pipeline.layout.vpp > 1 else [])]
    chosen = [own_schedule(pipeline.layout)] + [
        n for n in [*map(known, names)] or every if n != own_schedule(pipeline.layout)
    ]
    if pipeline.layout.vpp == 1 and not names:
        chosen = [name for name in chosen if name not in ("interleaved", "breadth-first")]
    if pipeline.chosen and not names:  # those that have as many stages
        chosen = [name for name in chosen if _stages(pipeline.layout, name) == len(pipeline.chosen.chunks)]
    rows = [_compared(pipeline, name) for name in chosen]
    return sorted(rows, key=lambda row: (bool(row.reason), row.step))
