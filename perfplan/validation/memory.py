"""Predicted memory against readings of whole ranks and against analytic components that a source prints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import median

from perfplan.errors import Unsupported
from perfplan.training.job import Job
from perfplan.validation.rows import Row
from perfplan.validation.score import Outcome

__all__ = ["STATE", "analytic_errors", "component", "component_bytes", "distinct_errors", "distinct_ratios",
           "priced_as"]

STATE = ("weights", "gradients", "optimizer")
_COMPONENTS = {"param+grad+optimizer": STATE, "activations": ("activations",)}
_LAYERS_ALONE = {"param+grad+optimizer"}  # printed as 18 B x 12 L h^2 over the ranks, to the last digit: no embedding


def component(row: Row) -> str:
    """The analytic component that a row holds in place of a reading, as its note names it; empty for a reading."""
    named = re.search(r"memory component: ([\w+]+)", row.note)
    if row.metric != "memory_gib_per_accel" or not named:
        return ""
    if named[1] not in _COMPONENTS:
        raise Unsupported(f"the memory component {named[1]} is not known")
    return named[1]


def priced_as(job: Job, name: str) -> Job:
    """The job whose memory a component is compared with: that of the transformer layers alone where the source counts
    nothing else."""
    if name not in _LAYERS_ALONE:
        return job
    return replace(job, model=replace(job.model, vocab=1, positional="rope"))


def component_bytes(memory: Mapping[str, float], name: str) -> float:
    """Size of a named component, of everything if the name is empty [B]."""
    parts = _COMPONENTS.get(name, tuple(memory))
    return sum(memory.get(part, 0.0) for part in parts)


def analytic_errors(outcomes: Iterable[Outcome]) -> dict[str, list[float]]:
    """Absolute errors of analytic components [1], by the name of the component."""
    found: dict[str, list[float]] = {}
    for o in outcomes:
        if o.component and o.memory_ratio is not None:
            found.setdefault(o.component, []).append(abs(o.memory_ratio - 1))
    return found


def distinct_ratios(outcomes: Iterable[Outcome]) -> list[tuple[float, float]]:
    """Predicted over measured memory [1] of distinct measured configurations, repeats by the median: of the model, and
    of weights, gradients and optimizer state alone."""
    groups: dict[tuple[object, ...], list[tuple[float, float]]] = {}
    for o in outcomes:
        if o.memory_ratio is not None and o.state_ratio is not None and o.facts is not None and not o.component:
            f = o.facts
            key = (o.source, o.hardware, o.method, f.model, f.precision, f.seq_len, o.layout[:7], o.layout[8:])
            groups.setdefault(key, []).append((o.memory_ratio, o.state_ratio))
    columns = [list(zip(*ratios, strict=True)) for ratios in groups.values()]
    return [(median(model), median(state)) for model, state in columns]


def distinct_errors(outcomes: Iterable[Outcome]) -> tuple[list[float], list[float]]:
    """Absolute errors [1] of distinct measured configurations: of the model, and of the state alone."""
    ratios = distinct_ratios(outcomes)
    return [abs(model - 1) for model, _ in ratios], [abs(state - 1) for _, state in ratios]
