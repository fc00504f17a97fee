"""Pipeline schedules: in which order each rank works through forward, backward and weight-gradient passes.

A stage is one chunk of the model; a rank may hold several. Parts of a task that holds more than one run together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from perfplan.errors import OutOfRange, UnknownName, offer
from perfplan.overlap.dualpipe import dual_pipe
from perfplan.overlap.passes import Order, Part, Task
from perfplan.overlap.pipeline import Passes, run
from perfplan.overlap.zero_bubble import h_order, v_orders

__all__ = ["SCHEDULES", "chunks_of", "fits_groups", "known", "order"]


class _Size(NamedTuple):
    """What a schedule is made for; group: micro-batches that go through a chunk before the next chunk begins."""

    ranks: int
    micro_batches: int
    chunks: int
    times: tuple[float, float, float] = (1.0, 1.0, 1.0)
    group: int = 0


def _plain(size: _Size) -> tuple[int, ...]:
    """Stages dealt out to the ranks in turn."""
    return tuple(chunk % size.ranks for chunk in range(size.ranks * size.chunks))


def _vee(size: _Size) -> tuple[int, ...]:
    """Stages laid down along the ranks and back again."""
    return (*range(size.ranks), *reversed(range(size.ranks)))


def _singles(passes: Sequence[tuple[str, int, int]]) -> tuple[Task, ...]:
    return tuple((Part(*each),) for each in passes)


def _gpipe(size: _Size) -> Order:
    p, m = size.ranks, size.micro_batches
    rows = [[("F", i, r) for i in range(m)] + [("D", i, r) for i in range(m)] for r in range(p)]
    return Order("gpipe", tuple(map(_singles, rows)), _plain(size), frozenset({0}))


def _one_f_one_b(size: _Size) -> Order:
    p, m = size.ranks, size.micro_batches
    rows = []
    for r in range(p):
        warm = min(m, p - r - 1)
        steady = [each for i in range(m - warm) for each in (("F", i + warm, r), ("D", i, r))]
        rows.append([("F", i, r) for i in range(warm)] + steady + [("D", i, r) for i in range(m - warm, m)])
    return Order("1f1b", tuple(map(_singles, rows)), _plain(size), frozenset({0}))


def _interleaved(size: _Size) -> Order:
    """Interleaved 1F1B: groups of micro-batches go through all chunks (Megatron-LM schedules.py)."""
    p, m, v, _, group = size
    passes = m * v
    rows = []
    ahead, behind = _virtual(size, False), _virtual(size, True)
    for r in range(p):
        warm = min(passes, 2 * (p - r - 1) + (v - 1) * group)
        forward = [("F", i, chunk * p + r) for chunk, i in ahead]
        backward = [("D", i, chunk * p + r) for chunk, i in behind]
        steady = [each for pair in zip(forward[warm:], backward, strict=False) for each in pair]
        rows.append(forward[:warm] + steady + backward[passes - warm :])
    return Order("interleaved", tuple(map(_singles, rows)), _plain(size), frozenset({0}))


def _virtual(size: _Size, backward: bool) -> list[tuple[int, int]]:
    """(chunk, micro-batch) of the passes of a rank, forward or backward, in order; the last group may be smaller."""
    chunks = [*range(size.chunks)][:: -1 if backward else 1]
    first = range(0, size.micro_batches, size.group)
    return [(chunk, i) for start in first for chunk in chunks
            for i in range(start, min(start + size.group, size.micro_batches))]


def _breadth_first(size: _Size) -> Order:
    """Every micro-batch through a chunk before the next chunk begins (Lamy-Poirier 2023)."""
    p, m, v, *_ = size
    rows = [
        [("F", i, c * p + r) for c in range(v) for i in range(m)]
        + [("D", i, c * p + r) for c in reversed(range(v)) for i in range(m)]
        for r in range(p)
    ]
    return Order("breadth-first", tuple(map(_singles, rows)), _plain(size), frozenset({0}))


def _handcrafted(name: str, lead: int) -> Callable[[_Size], Order]:
    def make(size: _Size) -> Order:
        rows = h_order(size.ranks, size.micro_batches, lead)
        return Order(name, rows, _plain(size), frozenset({0}), splits=True)

    return make


def _v_shaped(name: str) -> Callable[[_Size], Order]:
    def make(size: _Size) -> Order:
        listed = v_orders(size.ranks, size.micro_batches, name, size.times)
        made = [Order(name, rows, _vee(size), frozenset({0}), splits=True) for rows in listed]
        forward, inputs, weights = ([time] * 2 * size.ranks for time in size.times)
        passes = Passes(forward, inputs, weights)
        return min(made, key=lambda order: run(order, passes).time) if len(made) > 1 else made[0]

    return make


def _dual(name: str, folded: bool) -> Callable[[_Size], Order]:
    def make(size: _Size) -> Order:
        rows = dual_pipe(size.ranks, size.micro_batches, folded)
        starts = {0} if folded else {0, size.ranks}
        return Order(name, rows, _vee(size), frozenset(starts), 1 if folded else 2, True)

    return make


@dataclass(frozen=True)
class _Kind:
    """How to make a schedule, and where it works. chunks: stages per rank, 0 = as many as the layout says."""

    make: Callable[[_Size], Order]
    chunks: int
    wrong: Callable[[_Size], str]


def _any(_: _Size) -> str:
    return ""


def fits_groups(ranks: int, micro_batches: int, group: int) -> bool:
    """Whether Megatron-LM interleaves in such groups: none smaller than the ranks (training_core.md section 5)."""
    return ranks <= group <= micro_batches and (micro_batches % group == 0 or micro_batches % group >= ranks)


def _groups(size: _Size) -> str:
    p, m, group = size.ranks, size.micro_batches, size.group
    if fits_groups(p, m, group):
        return ""
    able = next((g for g in range(p, m + 1) if fits_groups(p, m, g)), 0)
    return f"micro-batches in whole groups of {p} or more" + (f" (interleaved:{able} has them)" if able else "")


def _as_many(size: _Size) -> str:
    return "" if size.micro_batches >= size.ranks else "at least as many micro-batches as ranks"


def _twice(size: _Size) -> str:
    return "" if size.micro_batches >= 2 * size.ranks else "at least twice as many micro-batches as ranks"


def _twice_even(size: _Size) -> str:
    even = size.ranks % 2 == 0 and size.micro_batches % 2 == 0
    return "" if even and not _twice(size) else "even ranks and micro-batches, at least twice as many of these"


SCHEDULES: dict[str, _Kind] = {
    "gpipe": _Kind(_gpipe, 1, _any),
    "1f1b": _Kind(_one_f_one_b, 1, _any),
    "interleaved": _Kind(_interleaved, 0, _groups),
    "breadth-first": _Kind(_breadth_first, 0, _as_many),
    "zb-h1": _Kind(_handcrafted("zb-h1", 1), 1, _any),
    "zb-h2": _Kind(_handcrafted("zb-h2", 2), 1, _any),
    "zb-v": _Kind(_v_shaped("zb-v"), 2, _any),
    "v-half": _Kind(_v_shaped("v-half"), 2, _any),
    "v-min": _Kind(_v_shaped("v-min"), 2, _any),
    "dualpipe": _Kind(_dual("dualpipe", False), 2, _twice_even),
    "dualpipev": _Kind(_dual("dualpipev", True), 2, _twice),
}
ALIASES = {"zb1p": "zb-h1", "zb2p": "zb-h2", "depth-first": "interleaved"}


def known(name: str) -> str:
    """The one name of a schedule, or an error with the nearest ones; interleaved:G has groups of G micro-batches."""
    plain, _, group = name.partition(":")
    found = ALIASES.get(plain, plain)
    if found not in SCHEDULES:
        raise UnknownName(f"there is no pipeline schedule {name!r}{offer(plain, [*SCHEDULES, *ALIASES])}")
    if group and (found != "interleaved" or not group.isdecimal() or group.startswith("0")):
        raise OutOfRange(f"schedule {name!r}: only interleaved takes a number of micro-batches from 1 on, such as"
                         " interleaved:16")
    return f"{found}:{group}" if group else found


def _kind(name: str) -> _Kind:
    return SCHEDULES[known(name).partition(":")[0]]


def chunks_of(name: str, vpp: int) -> int:
    """Stages per rank under a schedule, where the layout has `vpp`; both chains of DualPipe are counted."""
    return _kind(name).chunks or vpp


def order(
    name: str,
    ranks: int,
    micro_batches: int,
    chunks: int = 1,
    times: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Order:
    """The order of a schedule by name, for so many ranks, micro-batches and (interleaved only) chunks per rank.

    times: of forward, gradient of inputs and of weights, to which ZB-V and V-Half fit their order; the others do not
    look at them.
    """
    kind, group = _kind(name), int(known(name).partition(":")[2] or ranks)
    size = _Size(ranks, micro_batches, chunks, times, group)
    if ranks < 1 or micro_batches < 1 or chunks < 1:
        raise OutOfRange(f"schedule {name} with {ranks} ranks, {micro_batches} micro-batches and {chunks} chunks:"
                         " each must be at least 1")
    needs = kind.wrong(size)
    if needs:
        raise OutOfRange(f"schedule {name} needs {needs}, but there are {ranks} ranks and {micro_batches}"
                         " micro-batches; choose another schedule or batch")
    return replace(kind.make(size), name=known(name))
