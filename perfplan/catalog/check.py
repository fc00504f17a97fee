"""Look through a whole catalog: `perfplan catalog list`, `show` and `check`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from perfplan.catalog import Catalog, files
from perfplan.errors import PerfplanError, UnknownName, offer

__all__ = ["Fault", "KINDS", "check", "find_kind", "listing", "place", "refuse_unused", "singular"]

KINDS = ("accelerator", "cluster", "model", "recipe", "framework", "optimizer", "library", "technique", "workload",
         "engine", "launcher")


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with an entry."""

    kind: str
    id: str
    message: str


def check(catalog: Catalog, kinds: Iterable[str] = KINDS) -> tuple[list[Fault], int]:
    """Load every entry of `kinds` and follow what it names. Returns the faults and how many entries were looked at."""
    faults: list[Fault] = []
    looked = 0
    for kind in kinds:
        for name in _ids(catalog, kind, faults):
            looked += 1
            faults += _faults(catalog, kind, name)
        faults += _dangling(catalog, kind)
    return faults, looked


def _ids(catalog: Catalog, kind: str, faults: list[Fault]) -> list[str]:
    try:
        return catalog.ids(kind)
    except PerfplanError as error:  # two files with one id
        faults.append(Fault(kind, "", str(error)))
        return []


def _faults(catalog: Catalog, kind: str, name: str) -> Iterator[Fault]:
    try:
        entry = getattr(catalog, kind)(name)
        if kind == "accelerator" and entry.default_cluster:
            catalog.cluster(entry.default_cluster)
    except PerfplanError as error:
        yield Fault(kind, name, str(error))


def _dangling(catalog: Catalog, kind: str) -> Iterator[Fault]:
    """Aliases that lead nowhere or hide an entry."""
    for alias, name in catalog.aliases(kind).items():
        if alias in catalog.ids(kind):
            yield Fault(kind, alias, f"the alias {alias!r} is also the id of a {kind}; remove one of them")
        elif name not in catalog.ids(kind):
            yield Fault(kind, alias, f"the alias {alias!r} leads to {name!r}, which is no {kind}")


def singular(kind: str) -> str:
    """The kind that a user names in singular or plural. Raises UnknownName."""
    names = {plural: name for name, plural in files.FOLDERS.items()} | {name: name for name in KINDS}
    if names.get(kind) not in KINDS:
        raise UnknownName(f"there is no kind {kind!r}{offer(kind, KINDS)}")
    return names[kind]


def refuse_unused(catalog: Catalog) -> None:
    """Raise UnknownName if a setting was given that nothing loaded so far has asked for."""
    for setting in catalog.unused_settings():
        raise UnknownName(f"the setting {setting} applies to nothing that is used here; leave it out")


def find_kind(catalog: Catalog, name: str, kind: str | None = None) -> str:
    """The kind of entry that `name` is: `kind` if given, else the first kind that has it."""
    if name.endswith(".csv") and kind in (None, "workload"):
        return "workload"  # a trace
    if kind is not None:
        catalog.resolve(kind, name)
        return kind
    for candidate in KINDS:
        if name in catalog.ids(candidate) or name in catalog.aliases(candidate):
            return candidate
    everything = [n for candidate in KINDS for n in (*catalog.ids(candidate), *catalog.aliases(candidate))]
    raise UnknownName(f"the catalog has no {name!r}{offer(name, everything)}")


def place(catalog: Catalog, kind: str, name: str) -> str:
    """The file that holds an entry; of a trace, its path."""
    return name if kind == "workload" and name.endswith(".csv") else str(catalog.source(kind, name))


def listing(catalog: Catalog, kind: str) -> list[dict[str, Any]]:
    """One row per entry of `kind`: its id, its name, and the numbers by which one tells entries apart (SI)."""
    row = _ROWS.get(kind, _plain)
    return [{"id": name, **row(getattr(catalog, kind)(name))} for name in catalog.ids(kind)]


def _plain(entry: Any) -> Mapping[str, Any]:
    return {"source": entry.get("source", "") if isinstance(entry, Mapping) else entry.source}


def _accelerator(entry: Any) -> Mapping[str, Any]:
    best = max(entry.peak.get(dtype, 0.0) for dtype in ("bf16", "fp16", "fp32", "nvfp4"))
    return {"vendor": entry.vendor, "family": entry.family, "memory": entry.memory,
            "memory_bandwidth": entry.memory_bandwidth, "peak": entry.peak.get("bf16", best),
            "dtypes": " ".join(entry.peak), "cluster": entry.default_cluster or ""}


def _cluster(entry: Any) -> Mapping[str, Any]:
    outer = entry.levels[1].bandwidth if len(entry.levels) > 1 else None
    return {"accelerator": entry.accelerator.id, "fast_domain": entry.fast_domain, "inner": entry.levels[0].bandwidth,
            "outer": outer, "library": entry.library.id}


def _model(entry: Any) -> Mapping[str, Any]:
    return {"name": entry.name, "layers": len(entry.layers), "hidden": entry.hidden, "vocab": entry.vocab,
            "published_params": entry.published_params}


def _workload(entry: Any) -> Mapping[str, Any]:
    return {"name": entry.name, "input": entry.isl.mean, "output": entry.osl.mean,
            "arrivals": entry.arrivals**0.5, "rate": entry.rate}


_ROWS: Mapping[str, Callable[[Any], Mapping[str, Any]]] = {"accelerator": _accelerator, "cluster": _cluster,
                                                           "model": _model, "workload": _workload}
