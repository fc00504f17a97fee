"""The mapping tables: which flag of a framework says which fact of a job, a layout or a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from perfplan.catalog import Catalog
from perfplan.catalog.values import choice, flag, known_keys, mapping, required, text, texts
from perfplan.errors import CatalogError, Unsupported

__all__ = ["Fact", "Facts", "Flag", "Launcher", "launcher"]

Fact = int | str | bool | tuple[str, ...]
Facts = Mapping[str, Fact]
"""Neutral name -> value; what is left out has its default."""

TAKES = ("switch", "number", "word", "words")
STYLES = ("flags", "assignments", "python", "json", "yaml")
PHASES = ("training", "serving")
KEYS = ("id", "name", "release", "phase", "style", "engine", "source", "read_on", "sections", "flags", "implied",
        "recipe", "defaults", "ignored", "ignored_runner", "unmodelled", "architecture", "commands", "underscores",
        "files")


@dataclass(frozen=True)
class Flag:
    """How one fact is written. takes: switch, number, word or words; words: perfplan's word -> the framework's; off: a
    switch whose absence means true; also: other spellings; reads: the framework's words -> perfplan's, beyond `words`;
    runner: it is read only, as flags of the program that starts the ranks are; always: a switch that is written out
    when off too."""

    fact: str
    name: str
    takes: str
    words: Mapping[str, str] = field(default_factory=dict)
    off: bool = False
    also: tuple[str, ...] = ()
    runner: bool = False
    always: bool = False
    reads: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Launcher:
    """One framework's table. phase: training or serving; engine: what the catalog calls it, if it serves; implied:
    facts that follow from the flags; commands: words of its own before the model; underscores: whether flags may have
    them for hyphens; files: flags that name a YAML file of settings; recipe: facts that the framework's own model file
    or recipe settles; ignored: flags that cost nothing; unmodelled: flag -> what is priced instead; architecture: flags
    of models that flags cannot describe here."""

    id: str
    name: str
    release: str
    phase: str
    style: str
    flags: tuple[Flag, ...]
    implied: tuple[str, ...] = ()
    recipe: tuple[str, ...] = ()
    sections: Mapping[str, str] = field(default_factory=dict)
    defaults: Facts = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    unmodelled: Mapping[str, str] = field(default_factory=dict)
    architecture: frozenset[str] = frozenset()
    engine: str = ""
    commands: frozenset[str] = frozenset()
    underscores: bool = False
    files: frozenset[str] = frozenset()

    @property
    def spellings(self) -> Mapping[str, Flag]:
        """Every spelling of a flag with a meaning."""
        return {name: each for each in self.flags for name in (each.name, *each.also)}

    @property
    def known(self) -> tuple[str, ...]:
        """Every flag that the table has heard of."""
        return (*self.spellings, *self.files, *self.ignored, *self.unmodelled, *self.architecture)

    def default(self, fact: str, otherwise: Any) -> Any:
        """The framework's own default of a fact."""
        return self.defaults.get(fact, otherwise)


def launcher(catalog: Catalog, name: str, phase: str = "training") -> Launcher:
    """The table of the framework `name`, checked; an error if it is of the other phase."""
    data, where = catalog.launcher(name), f"launcher {name}"
    if data.get("phase", PHASES[0]) != phase:
        fitting = [each for each in catalog.ids("launcher") if catalog.launcher(each).get("phase", PHASES[0]) == phase]
        raise Unsupported(f"{name} launches no {phase}; choose from {', '.join(fitting)}")
    known_keys(data, KEYS, where)
    rows = mapping(data, "flags", where)
    return Launcher(
        id=text(data, "id", where), name=text(data, "name", where), release=text(data, "release", where),
        phase=choice(data.get("phase", PHASES[0]), PHASES, f"{where}, phase"),
        style=choice(required(data, "style", where), STYLES, f"{where}, style"),
        flags=tuple(_flag(fact, row, f"{where}, flags.{fact}") for fact, row in rows.items()),
        implied=texts(data, "implied", where), recipe=texts(data, "recipe", where),
        sections=data.get("sections", {}), defaults=data.get("defaults", {}),
        ignored=_words(data, "ignored", where) | _words(data, "ignored_runner", where),
        unmodelled=data.get("unmodelled", {}), architecture=_words(data, "architecture", where),
        engine=str(data.get("engine", "")), commands=_words(data, "commands", where),
        files=_words(data, "files", where),
        underscores=flag(data.get("underscores", False), f"{where}, underscores"))


def _words(data: Mapping[str, Any], key: str, where: str) -> frozenset[str]:
    return frozenset(text(data, key, where).split()) if key in data else frozenset()


def _flag(fact: str, row: Any, where: str) -> Flag:
    if not isinstance(row, Mapping):
        raise CatalogError(f"{where} is no mapping of name and takes")
    known_keys(row, ("name", "takes", "words", "off", "also", "runner", "always", "reads"), where)
    words, reads = ({str(key): str(value) for key, value in row.get(part, {}).items()} for part in ("words", "reads"))
    switches = {name: flag(row.get(name, False), f"{where}, {name}") for name in ("off", "runner", "always")}
    takes = choice(required(row, "takes", where), TAKES, f"{where}, takes")
    return Flag(fact, text(row, "name", where), takes, words, also=texts(row, "also", where), reads=reads,
                **switches)
