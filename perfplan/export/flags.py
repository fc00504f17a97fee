"""Facts written as the flags of a framework."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from perfplan.catalog import Catalog
from perfplan.export.facts import facts_of
from perfplan.export.launchers import Fact, Facts, Flag, Launcher, launcher
from perfplan.training.job import Job
from perfplan.training.layout import Layout

__all__ = ["LaunchFlags", "launch_flags", "placed_flags", "written"]

SAYS = {
    "beyond_flags": "the layers of the model are not all attention and MLP or MoE of one kind, so its architecture"
    " flags are yours to give",
    "optimizer_alone": "zero1, optimizer state sharded alone",
    "no_master_weights": "training without master weights",
    "packed": "documents packed into sequences, which the data loader makes",
    "lora": "adapters beside a frozen base, which the training script makes",
    "overlap_tp": "overlap of tensor-parallel communication",
    "overlap_ep": "overlap of expert communication",
    "order_pp_inside": "pipeline stages inside data parallelism",
}
"""What a fact that has no flag is, where its name does not say it."""
_SHARDING = ("three_widths", "shard_instances")
_CHUNKS = ("vpp", "chunk_layers", "stage_layers", "schedule")


@dataclass(frozen=True)
class LaunchFlags:
    """The flags of one layout for one framework. text: as it is pasted; unmapped: choices that the framework has no
    flag for, or that its table does not know; notes: what else has to be set."""

    launcher: Launcher
    facts: Facts
    text: str
    unmapped: tuple[str, ...]
    notes: tuple[str, ...]


def launch_flags(catalog: Catalog, name: str, job: Job, layout: Layout) -> LaunchFlags:
    """The flags with which the framework `name` runs the layout."""
    table, facts = launcher(catalog, name), dict(facts_of(job, layout))
    for row in table.flags:
        if row.always:
            facts.setdefault(row.fact, False)
    facts = _default_spelling(facts, table)
    placed = placed_flags(table, facts)
    rows = {row.fact for row in table.flags}
    handled = {row.fact for row, _ in placed} | {*table.implied, *table.recipe}
    handled |= {"optimizer_alone"} if rows & {"shard_optimizer", "zero"} else set()
    handled |= set(_CHUNKS) if handled.intersection(_CHUNKS[:3]) and rows.intersection(_CHUNKS) else set()
    unmapped = dict.fromkeys(_said(fact, job, layout, facts[fact]) for fact in facts if fact not in handled)
    notes = (f"{table.name}'s own model and precision recipe settles the rest",) if table.recipe else ()
    return LaunchFlags(table, facts, written(table, placed), tuple(unmapped), notes)


def placed_flags(table: Launcher, facts: Facts) -> list[tuple[Flag, Any]]:
    """The flags that say the facts, in the order of the table, each with the framework's word."""
    return [(row, word) for row in table.flags if row.fact in facts and not row.runner
            and (word := _word(row, facts[row.fact])) is not None]


def _default_spelling(facts: dict[str, Fact], table: Launcher) -> dict[str, Fact]:
    """Facts without what the framework does anyway, and with one of two flags that say the same."""
    found = dict(facts)
    spelled = {row.fact for row in table.flags}
    if found.get("etp") == found.get("tp", 1):
        found.pop("etp", None)  # Megatron's experts take the tensor-parallel size unless told
    if "chunk_layers" in found and "chunk_layers" in spelled:
        found.pop("vpp", None)
    if "stage_layers" in found and "stage_layers" in spelled:
        found.pop("vpp", None)
    return found


def _said(fact: str, job: Job, layout: Layout, value: Fact) -> str:
    """A choice without a flag, in perfplan's words."""
    if fact in SAYS:
        return SAYS[fact]
    if fact.startswith("recompute"):
        return f"rc={','.join(layout.recompute)}"
    if fact.startswith(("fp8", "fp4", "reduce", "ends", "first", "last", "second", "precise")):
        return f"precision {job.recipe.id}"
    if fact in _SHARDING:
        return layout.sharding
    if fact in _CHUNKS:
        return f"vpp{layout.vpp}"
    words = fact.replace("_", " ")
    return words if value is True else f"{words} {' '.join(value) if isinstance(value, tuple) else value}"


def _word(row: Flag, value: Fact) -> Any:
    """The framework's word for a value, None where it has none; a switch that reads the other way round is turned."""
    if row.takes == "switch":
        if row.off:
            return None if value else True
        return True if value else (False if row.always else None)
    if row.words and isinstance(value, str):
        return row.words.get(value)
    return value


def written(table: Launcher, placed: list[tuple[Flag, Any]]) -> str:
    """Flags and values in the framework's own style."""
    return _STYLES[table.style](table, [(row.name, value) for row, value in placed])


def _as_flags(_: Launcher, pairs: list[tuple[str, Any]]) -> str:
    def one(name: str, value: Any) -> str:
        if value is True:
            return name
        return f"{name} {shlex.join(value) if isinstance(value, tuple) else shlex.quote(str(value))}"

    return " \\\n".join(one(name, value) for name, value in pairs)


def _as_assignments(_: Launcher, pairs: list[tuple[str, Any]]) -> str:
    def one(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        return f"[{','.join(value)}]" if isinstance(value, tuple) else str(value)

    return " \\\n".join(f"{name}={shlex.quote(one(value))}" for name, value in pairs)


def _as_python(table: Launcher, pairs: list[tuple[str, Any]]) -> str:
    sections: dict[str, list[str]] = {}
    for name, value in pairs:
        section, field = name.split(".", 1)
        sections.setdefault(section, []).append(f"    {field}={list(value) if isinstance(value, tuple) else value!r},")
    return "\n".join(
        "\n".join([f"{name}={table.sections.get(name, name)}(", *lines, "),"]) for name, lines in sections.items())


def _as_json(_: Launcher, pairs: list[tuple[str, Any]]) -> str:
    document: dict[str, Any] = {}
    for name, value in pairs:
        *path, last = name.split(".")
        place = document
        for step in path:
            place = place.setdefault(step, {})
        place[last] = value
    return json.dumps(document, indent=2)


def _as_yaml(_: Launcher, pairs: list[tuple[str, Any]]) -> str:
    lines: list[str] = []
    inside = ""
    for name, value in pairs:
        section, dot, field = name.rpartition(".")
        if section != inside and dot:
            lines.append(f"{section}:")
        inside = section
        lines.append(f"{'  ' * bool(dot)}{field}: {str(value).lower() if isinstance(value, bool) else value}")
    return "\n".join(lines)


_STYLES: dict[str, Callable[[Launcher, list[tuple[str, Any]]], str]] = {
    "flags": _as_flags, "assignments": _as_assignments, "python": _as_python, "json": _as_json, "yaml": _as_yaml}
