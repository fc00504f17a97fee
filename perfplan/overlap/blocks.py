"""A window of layers as blocks of operations, and the graphs that techniques make of it.

A block is what stands between two additions to the residual stream: a chain of operations that ends in a
collective. What a technique may do: run parts of the batch one after another (nano-batches), cut the last product of a
block and its collective into chunks, fuse them tile by tile, or, where it changes the model, let a block start without
the sum before.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from perfplan.overlap.graph import Graph, Op

__all__ = ["COLLECTIVES", "Block", "Recipe", "Segment", "Sharing", "Window", "build", "frequent", "joined"]

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
    """Operations that always run in a row. time alone [s]; shares of resources; comm: whether it is a collective; hop,
    hops: sends that each bring what the next of hops + 1 equal parts works on (a context-parallel ring)."""

    name: str
    kind: str
    time: float
    shares: Mapping[str, float]
    comm: bool = False
    hop: Segment | None = None
    hops: int = 0


@dataclass(frozen=True)
class Block:
    """chain: in order, exchanges between experts included; beside: from the chain's start to its end (shared
    experts, the other half of a parallel block); after: the collective that ends the block, if any; late: weight
    gradients, needed by nobody in the window, startable with the gradient of the inputs of the same name; gather: of
    sharded weights, used from this block on; reduce: of their gradients, since the last one; up: part of the experts'
    time before their inner width; whole: attention and feed-forward of a parallel block."""

    name: str
    chain: tuple[Segment, ...]
    after: Segment | None = None
    beside: tuple[Segment, ...] = ()
    late: tuple[Segment, ...] = ()
    gather: Segment | None = None
    reduce: Segment | None = None
    up: float = 2 / 3
    whole: bool = False

    @property
    def time(self) -> float:
        """Time of everything in the block, one after another [s]."""
        ends = tuple(segment for segment in (self.gather, self.after, self.reduce) if segment is not None)
        hops = sum(each.hops * each.hop.time for each in self.chain if each.hop is not None)
        return hops + sum(segment.time for segment in (*self.chain, *self.beside, *self.late, *ends))

    @cached_property
    def exchange(self) -> tuple[int, int] | None:
        """Where the chain sends to experts and has their results back, if it does."""
        sends = [i for i, each in enumerate(self.chain) if each.comm]
        return (sends[0], sends[-1]) if len(sends) > 1 and self.experts else None

    @property
    def experts(self) -> bool:
        """Whether the block has experts."""
        return any(each.name.startswith("experts") for each in self.chain)


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
        return sum(block.time for block in self.blocks())


@dataclass(frozen=True)
class Recipe:
    """What a technique does to a window. parts: shares of the batch that run as nano-batches; chunks: pieces of the
    last product of a block and its collective; tiles: > 0 fuses them at that many tile waves instead; stale: a block
    starts without the collective right before it; pairs: attention and feed-forward blocks from one sum, one
    collective; free: collectives take no SMs; prefetch: units of sharded weights gathered before the one in use;
    pieces: of the tokens between dispatch and combine; joined: weight gradients right behind those of the inputs."""

    parts: tuple[float, ...] = (1.0,)
    chunks: int = 1
    tiles: int = 0
    stale: bool = False
    pairs: bool = False
    free: bool = False
    prefetch: int = 1
    pieces: int = 1
    joined: bool = False

    def __str__(self) -> str:
        """In words, such as "nano 50/50 %, 4 chunks"."""
        nano = f"nano {'/'.join(f'{100 * part:.0f}' for part in self.parts)} %"
        words = [nano] * (len(self.parts) > 1) + [f"{self.chunks} chunks"] * (self.chunks > 1)
        words += [f"{self.pieces} expert chunks"] * (self.pieces > 1)
        words += [f"{self.tiles} tiles"] * bool(self.tiles) + [f"prefetch {self.prefetch}"] * (self.prefetch != 1)
        return ", ".join(words) or "whole batch"


class _Builder:
    """Writes the operations of one nano-batch."""

    def __init__(self, window: Window, recipe: Recipe, nano: int) -> None:
        self.window, self.recipe, self.nano = window, recipe, nano
        self.part = recipe.parts[nano]
        self.ops: list[Op] = []
        self.many = len(recipe.parts) > 1
        self.mark = f" ({nano + 1})" if self.many else ""

    def op(self, name: str, segment: Segment, after: Sequence[str], time: float | None = None) -> str:
        shares = {n: s for n, s in segment.shares.items() if not (segment.comm and self.recipe.free and n == "sm")}
        full = name + self.mark
        length = segment.time if time is None else time
        self.ops.append(Op(full, length, shares, tuple(after), 0.0, 0, segment.kind, self.nano if self.many else -1))
        return full

    def block(self, index: int, block: Block, after: Sequence[str], joined: Sequence[str] = ()) -> tuple[
        list[str], list[str]
    ]:
        """(what the next block waits for, what it waits for if it may start without the collective). joined: what the
        collective at the block's end waits for too."""
        where, start = f"{block.name}: ", list(after)
        beside = start if block.beside else []
        for segment in block.beside:
            beside = self.one(where, block, segment, beside)
        beside = [*beside, *joined]
        cut = block.exchange if self.recipe.pieces > 1 or self.recipe.tiles else None
        first, last = cut or (len(block.chain), len(block.chain))
        ends = block.after is not None and last != len(block.chain) - 1  # the last product goes with its collective
        waiting = start
        for segment in block.chain[: min(first, len(block.chain) - ends)]:
            waiting = self.one(where, block, segment, waiting)
        if cut:
            waiting = (self._tiled if self.recipe.tiles else self._pieces)(where, index, block, cut, waiting)
            for segment in block.chain[last + 1 : len(block.chain) - ends]:
                waiting = self.one(where, block, segment, waiting)
        if block.after is None:
            return [*waiting, *beside], [*waiting, *beside]
        if not ends:
            sent = self.op(where + block.after.name, block.after, [*waiting, *beside])
            return [sent], [*waiting, *beside]
        late = self._late(where, block, block.chain[-1], waiting)
        tiled = self.recipe.tiles and not block.chain[-1].comm
        done, computed = (self._fused(where, block, waiting, beside) if tiled
                          else self._chunked(where, index, block, waiting, beside))
        return [*done, *late], [*computed, *late]

    def one(self, where: str, block: Block, segment: Segment, waiting: Sequence[str]) -> list[str]:
        """A segment with its hops and its weight gradients; what follows it waits for the names returned."""
        late = self._late(where, block, segment, waiting)
        if segment.hop is None or segment.hops == 0:
            return [self.op(where + segment.name, segment, waiting), *late]
        count = segment.hops + 1
        arrived: list[str] = list(waiting)
        done = self.op(f"{where}{segment.name} 1/{count}", segment, waiting, segment.time / count)
        for n in range(2, count + 1):
            arrived = [self.op(f"{where}{segment.hop.name} {n - 1}/{segment.hops}", segment.hop, arrived)]
            done = self.op(f"{where}{segment.name} {n}/{count}", segment, [done, *arrived], segment.time / count)
        return [done, *late]

    def _late(self, where: str, block: Block, segment: Segment, waiting: Sequence[str]) -> list[str]:
        """Weight gradients that need what a segment needs; their names if others must wait for them."""
        name = segment.name.replace("dgrad", "wgrad")
        if name == segment.name:
            return []
        made = [self.op(where + late.name, late, waiting) for late in block.late if late.name == name]
        return made if self.recipe.joined else []

    def _pieces(self, where: str, index: int, block: Block, cut: tuple[int, int], waiting: list[str]) -> list[str]:
        """Dispatch, experts and combine in chunks, each kind in order (FSMoE)."""
        count, span = self.recipe.pieces, slice(cut[0], cut[1] + 1)
        piece = self.window.blocks(self.part / count)[index].chain[span]
        before: list[list[str]] = [[] for _ in piece]
        ends: list[str] = []
        for n in range(1, count + 1):
            done = list(waiting)
            for i, segment in enumerate(piece):
                done = [self.op(f"{where}{segment.name} {n}/{count}", segment, [*done, *before[i]])]
                before[i] = done
            ends = [*ends, *done]
        late = [name for segment in block.chain[span]
                for name in self._late(where, block, segment, before[0])]
        return [*ends[-1:], *late]

    def _tiled(self, where: str, index: int, block: Block, cut: tuple[int, int], waiting: list[str]) -> list[str]:
        """The experts' first product fused with what comes before, their second with what follows, by tiles (Comet)."""
        chain = block.chain[cut[0] : cut[1] + 1]
        at = next(i for i, segment in enumerate(chain) if not segment.comm)
        up, down = (replace(chain[at], name=f"{chain[at].name} {part}", time=chain[at].time * share)
                    for part, share in (("first", block.up), ("second", 1 - block.up)))
        late = self._late(where, block, chain[at], waiting)
        halfway = self._stream(where, (*chain[:at], up), waiting)
        return [*self._stream(where, (down, *chain[at + 1 :]), halfway), *late]

    def _stream(self, where: str, stages: Sequence[Segment], waiting: Sequence[str]) -> list[str]:
        """Segments that hand each other tiles: each starts a tile after the one before, and ends a tile after it."""
        tile = 1 / self.recipe.tiles
        heads, ends = list(waiting), list[str]()
        for n, stage in enumerate(stages):
            first, last = n == 0, n == len(stages) - 1
            name = where + stage.name
            if not last:
                heads = [self.op(f"{name} first tile", stage, heads, stage.time * tile)]
            bulk = stage.time * (1 - tile * ((not first) + (not last)))
            body = self.op(name, stage, heads, bulk)
            ends = [body] if first else [self.op(f"{name} last tile", stage, [body, *ends], stage.time * tile)]
        return ends

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
        """The last product of a block and its collective by tiles."""
        assert block.after is not None
        sent = self._stream(where, (block.chain[-1], block.after), [*waiting, *beside])
        return sent, [where + block.chain[-1].name + self.mark, *beside]


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


def _pairs(blocks: Sequence[Block]) -> frozenset[int]:
    """Second blocks of those that share one sum and one collective, taken two by two."""
    open_ones = [i for i, block in enumerate(blocks) if not block.whole]
    return frozenset(open_ones[1::2])


def joined(blocks: Sequence[Block]) -> Block:
    """One parallel block of an attention and a feed-forward block that read the same norm: the chain is the one with
    an exchange, or the first; the other runs beside it; one collective ends both."""
    first, second = sorted(blocks, key=lambda block: block.exchange is None)
    name = "parallel block backward" if first.name.endswith("backward") else "parallel block"
    return replace(first, name=name, beside=(*first.beside, *second.beside, *second.chain),
                   after=first.after or second.after, late=(*first.late, *second.late), whole=True)


def frequent(layers: Sequence[int], count: int) -> tuple[int, ...]:
    """The most frequent run of so many layers, by their kinds; the first of several.

    >>> frequent((0, 1, 1, 1, 0, 1, 1), 2)
    (1, 1)
    """
    runs = Counter(tuple(layers[i : i + count]) for i in range(max(len(layers) - count + 1, 1)))
    return max(runs, key=lambda run: runs[run])


def build(window: Window, recipe: Recipe) -> Graph:
    """The graph that a technique makes of a window."""
    ops: list[Op] = []
    weights = _Weights(window, recipe)
    for nano in range(len(recipe.parts)):
        builder = _Builder(window, recipe, nano)
        blocks = list(window.blocks(recipe.parts[nano]))
        seconds = _pairs(blocks) if recipe.pairs else frozenset()
        firsts = {i - 1 for i in seconds}
        done: list[str] = []
        older: list[str] = []
        first: list[str] = []
        for index, block in enumerate(blocks):
            second = index in seconds
            after = weights.before(index, list(older if recipe.stale or second else done))
            count = len(builder.ops)
            closed = replace(block, after=None) if index in firsts else block
            finished, computed = builder.block(index, closed, after, first if second else ())
            weights.computed[index] += [op.name for op in builder.ops[count:] if op.kind != "all-to-all"]
            if index in firsts:
                older, first = done, finished
                continue
            older = [*computed, *done] if recipe.stale else older
            done = finished
        ops += builder.ops
    return Graph.of([*ops, *weights.reductions()])
