"""Everything that perfplan raises on purpose, as a map. Each message is one sentence: what, where, and what to do.

PerfplanError                 exit code 2 unless said otherwise
|-- CatalogError              a file or a name of the catalog
|   |-- UnknownName           no such accelerator, cluster, model, field ... (the nearest name is offered)
|   |-- BadQuantity           a number without unit, of the wrong unit, sparse, negative, not finite
|   |-- MissingField          a fact that is needed and unknown
|   `-- DuplicateId           two files of one folder claim one id, or one key stands twice in a mapping
|-- SpecError                 a job or layout that makes no sense
|   |-- Indivisible           degrees that do not divide what they split
|   |-- OutOfRange            a degree or number outside its meaning
|   |-- BadLayout             text that is not in the layout grammar
|   `-- Unsupported           a dtype, feature or op that is not modelled or that the chip lacks
|-- Infeasible                nothing fits; carries the smallest changes that would make it fit (exit code 1)
|-- ExportError               an output that cannot be written
`-- SolverError               the solver failed or broke its promise
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

__all__ = ["BadLayout", "BadQuantity", "CatalogError", "DuplicateId", "ExportError", "Indivisible", "Infeasible",
           "MissingField", "OutOfRange", "PerfplanError", "SolverError", "SpecError", "UnknownName", "Unsupported",
           "nearest", "offer"]


class PerfplanError(Exception):
    """Root of the tree; `exit_code` is what the command line leaves with."""

    exit_code = 2

    def __str__(self) -> str:
        """The message on one line, whatever names and values it quotes."""
        return " ".join(super().__str__().split())


class CatalogError(PerfplanError):
    """Something is wrong with a catalog file or a name looked up in the catalog."""


class UnknownName(CatalogError):
    """A name that the catalog does not have."""


class BadQuantity(CatalogError):
    """A quantity that cannot be read as a number of the unit wanted."""


class MissingField(CatalogError):
    """A fact that is needed but stands nowhere."""


class DuplicateId(CatalogError):
    """One id or key given twice."""


class SpecError(PerfplanError):
    """A job or a layout that makes no sense."""


class Indivisible(SpecError):
    """A degree that does not divide what it splits."""


class OutOfRange(SpecError):
    """A number outside the range in which it means something."""


class BadLayout(SpecError):
    """A text that is not in the layout grammar."""


class Unsupported(SpecError):
    """Something that is not modelled, or that the chip cannot do."""


class Infeasible(PerfplanError):
    """No layout satisfies the constraints; `remedies` are the smallest changes that would help."""

    exit_code = 1

    def __init__(self, message: str, remedies: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.remedies = remedies


class ExportError(PerfplanError):
    """An output that cannot be written."""


class SolverError(PerfplanError):
    """The solver failed, or its answer did not hold what it promised."""


def nearest(name: str, names: Iterable[str], count: int = 3) -> tuple[str, ...]:
    """Up to `count` of `names` that look most like `name`, best first.

    >>> nearest("lama-3-70b", ["llama-3-70b", "gpt3-175b"])
    ('llama-3-70b',)
    >>> nearest("NVIDIA H100 80GB HBM3", ["dgx-a100", "dgx-h100"])
    ('dgx-h100',)
    """
    known = {n.lower(): n for n in names}
    wanted = name.lower()
    inside = sorted((n for n in known if wanted and wanted in n), key=len)
    close = [n for n in difflib.get_close_matches(wanted, known, n=count, cutoff=0.6) if n not in inside]
    return tuple(known[n] for n in (inside + close or _sharing(wanted, known))[:count])


def _sharing(wanted: str, known: Iterable[str]) -> list[str]:
    """Names with a numbered word of `wanted` in them, those of its earlier words first, then the shortest."""
    numbered = [word for word in re.findall(r"[a-z0-9]+", wanted) if re.search(r"[a-z]\d|\d[a-z]", word)]
    places = {n: [i for i, word in enumerate(numbered) if word in re.findall(r"[a-z0-9]+", n)] for n in known}
    return sorted((n for n in places if places[n]), key=lambda n: (places[n][0], len(n), n))


def offer(name: str, names: Iterable[str]) -> str:
    """The tail of a message on an unknown name: '; did you mean a, b?', or the first known names if none is close."""
    known = list(names)
    close = nearest(name, known)
    if close:
        return f"; did you mean {', '.join(close)}?"
    if not known:
        return "; none is known"
    return f"; known are {', '.join(sorted(known)[:8])}{' ...' if len(known) > 8 else ''}"
