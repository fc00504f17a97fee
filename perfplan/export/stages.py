"""Megatron's text of a pipeline split, read: `Et*3|(tt|)*29m|L`."""

from __future__ import annotations

import re

from perfplan.errors import OutOfRange, SpecError

__all__ = ["stage_sizes"]

MOST = 20_000  # characters after repeats are written out


def _expanded(text: str) -> str:
    """The text with `(...)*N` and `x*N` written out, innermost groups first."""
    pattern = re.compile(r"(?:\(([^()]*)\)|([A-Za-z]))\*(\d{1,4})")
    found = text
    while match := pattern.search(found):
        found = found[: match.start()] + (match[1] or match[2] or "") * int(match[3]) + found[match.end() :]
        if len(found) > MOST:
            raise OutOfRange("the pipeline layout stands for more than 20,000 pieces; that is no model")
    return found.replace("(", "").replace(")", "")


def stage_sizes(text: str, layers: int) -> tuple[int, ...]:
    """Layers in each pipeline chunk, first to last.

    >>> stage_sizes("Ett|(tt|)*2tL", 7)
    (2, 2, 2, 1)
    """
    plain = _expanded(text.replace(",", "").replace(" ", ""))
    if not re.fullmatch(r"E[t|m]*L", plain):
        raise SpecError(f"pipeline layout {text!r} is not understood; write E, t, m, L and | such as 'Ett|(tt|)*2tL'")
    sizes = tuple(chunk.count("t") for chunk in plain.split("|"))
    if sum(sizes) != layers:
        raise SpecError(f"pipeline layout {text!r} holds {sum(sizes)} layers, but the model has {layers}")
    return sizes
