"""The passes that a pipeline rank runs."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Part", "Task"]


class Part(NamedTuple):
    """One pass of one micro-batch through one stage. kind: F forward, B gradient of the input, W gradient of the
    weights, D both gradients in one."""

    kind: str
    micro: int
    stage: int


Task = tuple[Part, ...]
"""Passes that run together: one, or a forward and a backward that overlap."""
