"""How tokens were routed: loads of experts and transitions between the experts of one layer and of the next.

A trace has the expert that each token took in each layer, or several where each token takes several: then every expert
taken in a layer counts one towards its load, and every pair of experts of two layers 1/k towards the transitions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfplan.errors import OutOfRange, SpecError

__all__ = ["Array", "Routing", "Whole", "from_loads", "from_trace", "from_transitions"]

Array = NDArray[np.float64]
Whole = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Routing:
    """Routing of some tokens. loads: [layer, expert] picks; transitions: [layer, expert, expert of the next layer],
    None where only loads are known; trace: [token, layer, pick] expert ids, None where only counts are known."""

    loads: Array
    transitions: Array | None
    source: str
    trace: Whole | None = None

    @property
    def layers(self) -> int:
        """Layers with experts."""
        return int(self.loads.shape[0])

    @property
    def experts(self) -> int:
        """Experts of a layer."""
        return int(self.loads.shape[1])

    @property
    def shares(self) -> Array:
        """Share of the picks of a layer that each expert gets [layer, expert]."""
        return np.asarray(self.loads / self.loads.sum(axis=1, keepdims=True), dtype=float)

    def windows(self) -> tuple[Routing, Routing] | None:
        """The first and the second half of a trace, in its own order; None without a trace of two tokens."""
        if self.trace is None or len(self.trace) < 2:
            return None
        middle = len(self.trace) // 2
        first, second = (from_trace(part, self.experts, self.source) for part in np.split(self.trace, [middle]))
        return first, second

    def blocks(self, count: int) -> list[Routing]:
        """The trace in `count` equal blocks, fewer where it has not that many tokens."""
        if self.trace is None:
            return [self]
        parts = np.array_split(self.trace, min(count, len(self.trace)))
        return [from_trace(part, self.experts, self.source) for part in parts]


def from_trace(trace: Any, experts: int, source: str) -> Routing:
    """Routing from expert ids [token, layer] or [token, layer, pick]."""
    ids = np.asarray(trace)
    if ids.ndim == 2:
        ids = ids[:, :, None]
    if ids.ndim != 3 or 0 in ids.shape:
        raise SpecError(
            f"{source}: a trace has expert ids [token, layer] or [token, layer, pick], not a shape of "
            f"{' x '.join(map(str, np.shape(trace)))}"
        )
    if not np.issubdtype(ids.dtype, np.integer):
        raise SpecError(f"{source}: expert ids are whole numbers")
    bad = np.argwhere((ids < 0) | (ids >= experts))
    if len(bad):
        token, layer, _ = bad[0]
        raise OutOfRange(
            f"{source}: token {token} takes expert {ids[tuple(bad[0])]} in layer {layer}, but the experts "
            f"of a layer are 0 to {experts - 1}"
        )
    ids = ids.astype(np.int64)
    layers, picks = ids.shape[1:]
    loads = np.stack([np.bincount(ids[:, layer].ravel(), minlength=experts) for layer in range(layers)])
    moves = [_pairs(ids[:, layer], ids[:, layer + 1], experts) / picks for layer in range(layers - 1)]
    transitions = np.stack(moves) if moves else np.zeros((0, experts, experts))
    return Routing(loads.astype(float), transitions, source, ids)


def _pairs(here: Whole, there: Whole, experts: int) -> Array:
    """Count of (expert here, expert there) over all tokens and picks."""
    codes = (here[:, :, None] * experts + there[:, None, :]).ravel()
    return np.bincount(codes, minlength=experts * experts).reshape(experts, experts).astype(float)


def from_transitions(transitions: Array, source: str) -> Routing:
    """Routing from counts [layer, expert, expert of the next layer].

    The load of an expert is what leaves it, in the last layer what enters it.
    """
    loads = np.concatenate([transitions.sum(axis=2), transitions[-1:].sum(axis=1)])
    return Routing(loads, transitions, source)


def from_loads(loads: Array, source: str) -> Routing:
    """Routing from loads [layer, expert] alone: transitions are not known."""
    if not (np.isfinite(loads).all() and (loads >= 0).all()):
        layer, expert = np.argwhere(~(np.isfinite(loads) & (loads >= 0)))[0]
        raise OutOfRange(
            f"{source}: the load of expert {expert} in layer {layer} is {loads[layer, expert]:g}, but a load"
            " is a finite number not below 0"
        )
    sums = loads.sum(axis=1)
    for layer, total in enumerate(sums):
        if total <= 0:
            raise OutOfRange(f"{source}: the loads of layer {layer} sum to 0; every layer routes some tokens")
        if not 0.5 * sums[0] <= total <= 2 * sums[0]:  # moving averages differ somewhat, EPLB's own example by 12 %
            raise SpecError(
                f"{source}: the loads of layer {layer} sum to {total:g}, those of layer 0 to {sums[0]:g}; "
                "every layer routes the same tokens, so give counts or shares of the same tokens"
            )
    return Routing(loads.astype(float), None, source)
