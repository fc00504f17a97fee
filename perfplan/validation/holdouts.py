"""Whole steps predicted with constants that never saw them: which rows are held out together, and on what is fitted.

A row is predicted by a fit without its source. If its accelerator has rows of its class (dense or MoE) in that source
only, that would leave nothing to fit: then the fit is without its model. Rows that share neither the family of an
accelerator nor a framework with the rows held out cannot move their constants, and take no part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from perfplan.validation.steps import Step

__all__ = ["THIN", "Holdout", "model_holdouts", "model_name", "source_holdouts", "thinned"]

THIN = 300  # a source with more rows than this enters a fit with every N-th row, so that about half as many are left
FOLDS = 5  # parts into which models are dealt


@dataclass(frozen=True)
class Holdout:
    """Rows predicted together, and the rows their constants are fitted on. name: what is left out."""

    name: str
    held: tuple[Step, ...]
    rest: tuple[Step, ...]


def _chip(step: Step) -> str:
    return step.job.cluster.accelerator.id


def _links(step: Step) -> set[str]:
    return {f"family {step.job.cluster.accelerator.family}", f"framework {step.job.framework.id}"}


def thinned(steps: Sequence[Step]) -> list[Step]:
    """Every N-th row of large sources, all rows of the others."""
    sources: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        sources[step.row.source].append(step)
    return [step for mine in sources.values() for step in mine[:: 2 * len(mine) // THIN if len(mine) > THIN else 1]]


def _rest(steps: Sequence[Step], held: Sequence[Step]) -> tuple[Step, ...]:
    links = set().union(*map(_links, held))
    return tuple(step for step in thinned(steps) if _links(step) & links)


def model_name(step: Step) -> str:
    """The model of a row, by its width and depth where the row has no name for it."""
    model = step.job.model
    return step.row.model_id or f"{model.hidden}x{len(model.layers)}"


def source_holdouts(steps: Sequence[Step]) -> list[Holdout]:
    """Every step held out once: with its source, or, if its accelerator has rows of its class (dense or MoE) in that
    source only, with a fifth of the models that the source ran on such accelerators."""
    places: dict[tuple[str, bool], set[str]] = defaultdict(set)
    for step in steps:
        places[_chip(step), step.moe].add(step.row.source)
    held: dict[tuple[str, bool, bool], list[Step]] = defaultdict(list)
    for step in steps:
        alone = len(places[_chip(step), step.moe]) == 1
        held[step.row.source, alone, alone and step.moe].append(step)
    found: list[Holdout] = []
    for (source, alone, _), mine in sorted(held.items()):
        found += _folds(steps, source, mine) if alone else [_without_source(steps, source, mine)]
    return found


def _without_source(steps: Sequence[Step], source: str, held: Sequence[Step]) -> Holdout:
    rest = [step for step in steps if step.row.source != source]
    return Holdout(source, tuple(held), _rest(rest, held))


def _folds(steps: Sequence[Step], source: str, mine: Sequence[Step]) -> list[Holdout]:
    models, found = sorted({model_name(step) for step in mine}), []
    for fold in range(min(FOLDS, len(models))):
        out = set(models[fold::FOLDS])
        held = tuple(step for step in mine if model_name(step) in out)
        rest = [step for step in steps if step.row.source != source or model_name(step) not in out]
        found.append(Holdout(f"{source}: {', '.join(sorted(out))}", held, _rest(rest, held)))
    return found


def model_holdouts(steps: Sequence[Step], source: str) -> list[Holdout]:
    """The steps of one source, each held out with all rows of its width and depth in that source."""
    models: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        if step.row.source == source:
            models[f"{step.job.model.hidden}x{len(step.job.model.layers)}"].append(step)
    found = []
    for name, mine in sorted(models.items()):
        out = set(map(id, mine))
        found.append(Holdout(name, tuple(mine), _rest([step for step in steps if id(step) not in out], mine)))
    return found
