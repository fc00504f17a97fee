"""A user's own launch line: words into flags, flags into facts, and what is made of each."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perfplan.errors import OutOfRange, SpecError, nearest, offer
from perfplan.export.launchers import Fact, Facts, Flag, Launcher

__all__ = ["Line", "read_line"]

LONGEST = 100_000  # characters
MAY_BE_ZERO = ("first_bf16", "last_bf16", "shared_ffn", "mtp", "max_position")


@dataclass(frozen=True)
class Line:
    """What a line says. facts: fact -> value; understood: the flags behind them as written; ignored: flags that cost
    nothing; unmodelled: flag -> what is priced instead; unknown: flags that nobody here knows, with the nearest that
    are known; architecture: flags of models that flags cannot describe here; words: words that are no flags."""

    facts: Facts
    understood: tuple[str, ...]
    ignored: tuple[str, ...]
    unmodelled: tuple[tuple[str, str], ...]
    unknown: tuple[tuple[str, tuple[str, ...]], ...]
    architecture: tuple[str, ...]
    words: tuple[str, ...]


def _split(text: str, table: Launcher) -> list[str]:
    if len(text) > LONGEST:
        raise OutOfRange(f"the {table.id} line has {len(text)} characters, more than {LONGEST}; give the flags alone")
    try:
        return shlex.split(text.replace("\\\r\n", " ").replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise SpecError(f"the {table.id} line is no shell line: {str(error).lower()}; close the quotes") from None


def _is_flag(word: str, table: Launcher, started: bool) -> bool:
    """started: the program's own command lies behind, so that short flags are flags of its own."""
    if word.startswith("--"):
        return len(word) > 2
    return word.startswith("-") and (word.partition("=")[0] in table.known or (started and word[1:2].isalpha()))


def _pairs(words: list[str], table: Launcher) -> Iterator[tuple[str, list[str]]]:
    """(flag, words up to the next one); words before the first flag come under the name ""."""
    name = ""
    values: list[str] = []
    started = False
    for word in words:
        started |= word.rpartition("/")[2] in table.commands
        if _is_flag(word, table, started):
            yield name, values
            name, equals, value = word.partition("=")
            name = name.replace("_", "-") if table.underscores else name
            values = [value] if equals else []
        else:
            values.append(word)
    yield name, values


def _settings(value: Any, name: str = "") -> Iterator[tuple[str, list[str]]]:
    """(setting, its words) of a configuration; settings inside settings are written a.b; what is off is left out."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _settings(inner, f"{name}.{key}" if name else str(key))
    elif value is True:
        yield name, []
    elif value is not None and value is not False:
        yield name, [",".join(map(str, value)) if isinstance(value, list) else str(value)]


def _filed(path: str, flag: str, table: Launcher) -> Iterator[tuple[str, list[str]]]:
    """The settings of a configuration file, spelled as the table spells them."""
    import yaml

    if not Path(path).is_file():
        raise SpecError(f"{flag} {path} of the {table.id} line is no file here; give its path, or write its settings as"
                        " options")
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{flag} {path} of the {table.id} line is no YAML: {str(error).splitlines()[0]}; mend the"
                        " file") from None
    if found is not None and not isinstance(found, dict):
        raise SpecError(f"{flag} {path} of the {table.id} line holds no settings; write one 'name: value' a line")
    for name, values in _settings(found or {}):
        dashed = f"--{name.replace('_', '-') if table.underscores else name}"
        yield (name if name in table.known or dashed not in table.known else dashed), values


def _with_files(words: list[str], table: Launcher) -> Iterator[tuple[str, list[str]]]:
    """The pairs of a line, configuration files read in their place."""
    for name, values in _pairs(words, table):
        if name in table.files and values:
            yield from _filed(values[0], name, table)
            yield "", values[1:]
        else:
            yield name, values


def read_line(table: Launcher, text: str) -> Line:
    """Read a launch line by the table of its framework; contradictions are one-sentence errors."""
    spellings = table.spellings
    facts: dict[str, Fact] = {}
    seen: dict[str, str] = {}
    understood, ignored, unmodelled, unknown, architecture, loose = [], [], [], [], [], []
    for name, values in _with_files(_split(text, table), table):
        written = " ".join([name, *values])
        if not name:
            loose += values
        elif row := spellings.get(name):
            value, rest = _value(row, name, values, table)
            loose += rest
            if row.fact in facts and facts[row.fact] != value:
                raise SpecError(f"the {table.id} line gives {seen[row.fact]} and {written}; keep one of them")
            facts[row.fact], seen[row.fact] = value, written
            understood.append(" ".join([name, *values[: len(values) - len(rest)]]))
        elif name in table.unmodelled:
            unmodelled.append((written, table.unmodelled[name]))
        elif name in table.architecture:
            architecture.append(written)
        elif name in table.ignored:
            ignored.append(name)
        else:
            unknown.append((written, nearest(name, table.known)))
    return Line(facts, tuple(understood), tuple(ignored), tuple(unmodelled), tuple(unknown), tuple(architecture),
                tuple(loose))


def _value(row: Flag, name: str, values: list[str], table: Launcher) -> tuple[Fact, list[str]]:
    """(value of a flag, the words after it that are not its own)."""
    for value in values:
        if value.startswith("$"):
            raise SpecError(f"the {table.id} line has the shell variable {value} after {name}; write its value")
    if row.takes == "switch":
        return not row.off, values
    if not values or not values[0]:
        raise SpecError(f"{name} of the {table.id} line has no value; write one after it")
    if row.takes == "words":
        return tuple(_translated(row, name, each, table) for each in values), []
    if row.takes == "number":
        number = _number(name, values[0], table)
        if not number and row.fact not in MAY_BE_ZERO:
            raise SpecError(f"{name} of the {table.id} line is 0, but has to be at least 1")
        return number, values[1:]
    return _translated(row, name, values[0], table), values[1:]


def _number(name: str, value: str, table: Launcher) -> int:
    text = value.replace("_", "")
    if not text.isascii() or not text.isdecimal() or not 0 <= int(text[:10]) <= 10**9 or len(text) > 10:
        raise SpecError(f"{name} {value} of the {table.id} line is no whole number; write one such as 8")
    return int(text)


def _translated(row: Flag, name: str, value: str, table: Launcher) -> str:
    """perfplan's word for the framework's."""
    if value in row.reads:
        return row.reads[value]
    if not row.words:
        return value
    for mine, theirs in row.words.items():
        if value == theirs:
            return mine
    known = (*row.words.values(), *row.reads)
    raise SpecError(f"{name} {value} of the {table.id} line is not known or not modelled{offer(value, known)}")
