"""A window of layers as blocks of operations, and the graphs that techniques make of it.

A block is what stands between two additions to the residual stream: a chain of operations that ends in a
collective. What a technique may do: run parts of the batch one after another (nano-batches), cut the last product of a
block and its collective into chunks, fuse them tile by tile, or, where it changes the model, let a block start without
the sum before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from perfplan.overlap.graph import Graph, Op

__all__ = ["COLLECTIVES", "Block", "Recipe", "Segment", "Sharing", "Window", "build"]

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "send")


@dataclass(frozen=True)
class Sharing:
    """What operations are taken to share, where it is not measured. communication_sms: SMs that a collective's kernels
    hold, of all; memory_sms: SMs that a memory-bound kernel needs to fill the memory, of all."""

    communication_sms: float = 20 / 132
    memory_sms: float = 0.5

    def sentence(self) -> str:
        """The assumptions in words."""
        return ("assumed, not measured: linear sharing (operations that ask for D > 1 of a resource together run D"
                f" times slower), or collectives keep their SMs and the rest shares what they leave, whichever is"
                f" faster; collectives hold {self.communication_sms:.3g} of the SMs (DeepSeek-V3 report: 20 of"
                f" 132), memory-bound kernels {self.memory_sms:.3g}, products all")


@dataclass(frozen=True)
class Segment:
    """Operations that always run in a row. time alone [s]; shares of resources; comm: whether it is a collective."""

    name: str
    kind: str
    time: float
    shares: Mapping[str, float]
    comm: bool = False


@dataclass(frozen=True)
class Block:
    """chain: in order, exchanges between experts included; beside: from the chain's start to its end (shared
    experts); after: the collective that ends the block, if any; late: needed by nobody in the window (weight
    gradients); gather: of sharded weights, used from this block on; reduce: of their gradients, since the last one."""

    name: str
    chain: tuple[Segment, ...]
    after: Segment | None = None
    beside: tuple[Segment, ...] = ()
    late: tuple[Segment, ...] = ()
    gather: Segment | None = None
    reduce: Segment | None = None

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Everything in the block."""
        ends = tuple(segment for segment in (self.gather, self.after, self.reduce) if segment is not None)
        return (*self.chain, *self.beside, *self.late, *ends)


@dataclass(frozen=True)
class Window:
    """Blocks of some layers. price: part of the batch -> its blocks; layers: how many layers they are; title; caveats:
    what the window leaves out."""

    price: Callable[[float], tuple[Block, ...]]
    layers: int
    title: str
    caveats: tuple[str, ...] = ()
    _cache: dict[float, tuple[Block, ...]] = field(default_factory=dict, compare=False, repr=False)

    def blocks(self, part: float = 1.0) -> tuple[Block, ...]:
        """The blocks for a part of the batch."""
        if part not in self._cache:
            self._cache[part] = self.price(part)
        return self._cache[part]

    @cached_property
    def sequential(self) -> float:
        """Time of everything one after another [s]."""
        return sum(segment.time for block in self.blocks() for segment in block.segments)


@dataclass(frozen=True)
class Recipe:
    """What a technique does to a window. parts: shares of the batch that run as nano-batches; chunks: pieces of the
    last product of a block and its collective; tiles: > 0 fuses them at that many tile waves instead; stale: a block
    starts without the collective right before it; pairs: attention and feed-forward blocks from one sum, one
    collective; free: collectives take no SMs; prefetch: units of sharded weights gathered before the one in use."""

    parts: tuple[float, ...] = (1.0,)
    chunks: int = 1
    tiles: int = 0
    stale: bool = False
    pairs: bool = False
    free: bool = False
    prefetch: int = 1

    def __str__(self) -> str:
        """In words, such as "nano 50/50 %, 4 chunks"."""
        nano = f"nano {'/'.join(f'{100 * part:.0f}' for part in self.parts)} %"
        words = [nano] * (len(self.parts) > 1) + [f"{self.chunks} chunks"] * (self.chunks > 1)
        words += [f"{self.tiles} tiles"] * bool(self.tiles) + [f"prefetch {self.prefetch}"] * (self.prefetch != 1)
        return ", ".join(words) or "whole batch"


class _Builder:
    """Writes the operations of one nano-batch."""

    def __init__(self, window: Window, recipe: Recipe, nano: int) -> None:
        self.window, self.recipe, self.nano = window, recipe, nano
        self.part = recipe.parts[nano]
        self.ops: list[Op] = []
        self.many = len(recipe.parts) > 1

    def op(self, name: str, segment: Segment, after: Sequence[str], time: float | None = None) -> str:
        shares = {n: s for n, s in segment.shares.items() if not (segment.comm and self.recipe.free and n == "sm")}
        full = f"{name}{f' ({self.nano + 1})' if self.many else ''}"
        length = segment.time if time is None else time
        self.ops.append(Op(full, length, shares, tuple(after), 0.0, 0, segment.kind, self.nano if self.many else -1))
        return full

    def block(self, index: int, block: Block, after: Sequence[str], joined: Sequence[str] = ()) -> tuple[
        list[str], list[str]
    ]:
        """(what the next block waits for, what it waits for if it may start without the collective). joined: what the
        collective at the block's end waits for too."""
        where, start = f"{block.name}: ", list(after)
        for segment in block.late:
            self.op(where + segment.name, segment, start)
        beside = start if block.beside else []
        for segment in block.beside:
            beside = [self.op(where + segment.name, segment, beside)]
        beside = [*beside, *joined]
        waiting = start
        for segment in block.chain[:-1]:
            waiting = [self.op(where + segment.name, segment, waiting)]
        if block.after is None:
            done = [self.op(where + block.chain[-1].name, block.chain[-1], waiting), *beside]
            return done, done
        if self.recipe.tiles and not block.chain[-1].comm:
            return self._fused(where, block, waiting, beside)
        return self._chunked(where, index, block, waiting, beside)

    def _chunked(self, where: str, index: int, block: Block, waiting: Sequence[str], beside: Sequence[str]) -> tuple[
        list[str], list[str]
    ]:
        assert block.after is not None
        chunks = self.recipe.chunks if not block.chain[-1].comm else 1
        piece = self.window.blocks(self.part / chunks)[index] if chunks > 1 else block
        assert piece.after is not None
        sent: list[str] = []
        before = [*waiting]
        for chunk in range(chunks):
            mark = f" {chunk + 1}/{chunks}" if chunks > 1 else ""
            before = [self.op(where + piece.chain[-1].name + mark, piece.chain[-1], before)]
            sent.append(self.op(where + piece.after.name + mark, piece.after, [*before, *beside, *sent[-1:]]))
        return sent[-1:], [*before, *beside]

    def _fused(self, where: str, block: Block, waiting: Sequence[str], beside: Sequence[str]) -> tuple[
        list[str], list[str]
    ]:
        """Product and collective side by side but for the first tile wave of one and the last of the other."""
        assert block.after is not None
        product, collective, tiles = block.chain[-1], block.after, self.recipe.tiles
        first = self.op(where + product.name + " first tile", product, waiting, product.time / tiles)
        rest = self.op(where + product.name, product, [first], product.time * (1 - 1 / tiles))
        sent = self.op(where + collective.name, collective, [first, *beside], collective.time * (1 - 1 / tiles))
        last = self.op(where + collective.name + " last tile", collective, [rest, sent], collective.time / tiles)
        return [last], [rest, *beside]


class _Weights:
    """Gathers and reductions of sharded weights, one for all nano-batches."""

    def __init__(self, window: Window, recipe: Recipe) -> None:
        self.recipe, self.blocks = recipe, window.blocks(1.0)
        self.ops: list[Op] = []
        self.gathered: dict[int, str] = {}
        self.starts: list[list[str]] = []
        self.computed: dict[int, list[str]] = defaultdict(list)

    def _op(self, index: int, segment: Segment, after: Sequence[str]) -> str:
        name = f"{self.blocks[index].name}: {segment.name}"
        self.ops.append(Op(name, segment.time, segment.shares, tuple(dict.fromkeys(after)), 0.0, 0, segment.kind))
        return name

    def before(self, index: int, after: list[str]) -> list[str]:
        """What a block waits for, its weights included; they are gathered when the unit `prefetch` back begins."""
        gather = self.blocks[index].gather
        if gather is None:
            return after
        if index not in self.gathered:
            self.starts.append(after)
            back = len(self.starts) - 1 - self.recipe.prefetch
            self.gathered[index] = self._op(index, gather, self.starts[back] if back >= 0 else [])
        return [*after, self.gathered[index]]

    def reductions(self) -> list[Op]:
        """The operations of both kinds, reductions behind everything computed since the last one."""
        since: list[str] = []
        for index, block in enumerate(self.blocks):
            since += self.computed[index]
            if block.reduce is not None:
                self._op(index, block.reduce, since)
                since = []
        return self.ops


def _paired(blocks: Sequence[Block]) -> list[Block]:
    """Blocks two by two from the same sum: one collective for both, the first one's dropped."""
    found = []
    for first, second in zip(blocks[::2], blocks[1::2], strict=True):
        found += [replace(first, after=None), second]
    return found


def build(window: Window, recipe: Recipe) -> Graph:
    """The graph that a technique makes of a window."""
    ops: list[Op] = []
    weights = _Weights(window, recipe)
    for nano in range(len(recipe.parts)):
        builder = _Builder(window, recipe, nano)
        blocks = list(window.blocks(recipe.parts[nano]))
        if recipe.pairs:
            blocks = _paired(blocks)
        done: list[str] = []
        older: list[str] = []
        first: list[str] = []
        for index, block in enumerate(blocks):
            second = recipe.pairs and index % 2 == 1
            after = weights.before(index, list(older if recipe.stale or second else done))
            count = len(builder.ops)
            finished, computed = builder.block(index, block, after, first if second else ())
            weights.computed[index] += [op.name for op in builder.ops[count:] if op.kind != "all-to-all"]
            if recipe.pairs and index % 2 == 0:
                older, first = done, finished
                continue
            older = [*computed, *done] if recipe.stale else older
            done = finished
        ops += builder.ops
    return Graph.of([*ops, *weights.reductions()])
