"""A step of an engine under a placement: the slowest GPU of every layer decides, by its rows or its weights.

Everything but the experts and their exchange is the serving model's step. Every GPU has sequences of its own (attention
data parallelism over the expert-parallel group). Two ways to exchange: `round-trip` (dispatch and combine in every
layer, the most loaded GPU receives most), and ExFlow's `coherent` (a token stays where its expert was: one
all-to-all of the tokens that leave, and one all-gather a step; every GPU keeps the whole cache).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from perfplan.catalog import Catalog
from perfplan.catalog.check import refuse_unused
from perfplan.catalog.specs import Moe
from perfplan.errors import Indivisible, OutOfRange, SpecError, Unsupported, offer
from perfplan.formulas.collectives import reached_groups
from perfplan.formulas.compute import repeated_time
from perfplan.formulas.moe import expert_traffic
from perfplan.placement.bounds import load_bound
from perfplan.placement.dispatch import reached
from perfplan.placement.routing import Array, Routing, Whole
from perfplan.placement.score import gpu_loads
from perfplan.serving.deploy import serving_job
from perfplan.serving.job import ServingJob
from perfplan.serving.layout import ServingLayout, check
from perfplan.serving.memory import per_token
from perfplan.serving.ops import WIDE, Load, Pricing, product, routed_time
from perfplan.serving.step import decode_step, network, padded, prompt_step
from perfplan.training.exchange import COMBINE, DISPATCH, dispatched_by, send_copies
from perfplan.training.network import Group

__all__ = ["EXCHANGES", "PHASES", "Step", "Timed", "dispatching", "moe_of", "routed_layers"]

PHASES = {"prefill": 8192, "decode": 128}  # tokens per GPU unless given
EXCHANGES = ("round-trip", "coherent")


def moe_of(job: ServingJob) -> Moe:
    """The routed experts of the model, which must be of one kind."""
    kinds = {kind.ffn for kind in job.model.kinds if isinstance(kind.ffn, Moe)}
    if len(kinds) != 1:
        what = "no routed experts" if not kinds else "routed experts of several kinds"
        raise SpecError(f"{job.model.id} has {what}: there is nothing to place")
    return kinds.pop()


def dispatching(job: ServingJob, catalog: Catalog, text: str) -> ServingJob:
    """The job with a library, written ID or ID:ALGORITHM, that sends tokens to experts; unchanged for ""."""
    if not text:
        return job
    name, _, algorithm = text.partition(":")
    library = dispatched_by(catalog.library(name), algorithm)
    return replace(job, cluster=replace(job.cluster, dispatcher=library))


def step_of(
    model: str, cluster: str, ep: int, catalog: Catalog, *, phase: str, tokens: int | None, context: int | None,
    engine: str, weights: str, dispatcher: str,
) -> Step:
    """The step that a placement is priced by, from catalog ids. tokens: per GPU, by phase unless given; context: 4096
    in decode unless given."""
    if context is not None and phase == "prefill":
        raise OutOfRange(f"--context {context} changes nothing in prefill; give --phase decode")
    job = dispatching(serving_job(model, cluster, catalog, engine=engine, weights=weights), catalog, dispatcher)
    refuse_unused(catalog)
    return Step(job, ep, phase, PHASES.get(phase, 1) if tokens is None else tokens,
                4096 if context is None else context)


def routed_layers(job: ServingJob) -> list[int]:
    """Layers with routed experts, counted in the whole model."""
    return [i for i, kind in enumerate(job.model.layers) if isinstance(job.model.kinds[kind].ffn, Moe)]


@dataclass(frozen=True)
class Timed:
    """Seconds of one step: experts, exchange, the rest, all; and where the exchange is coherent, its all-gather."""

    experts: float
    exchange: float
    rest: float

    @property
    def step(self) -> float:
        """The whole step [s]."""
        return self.experts + self.exchange + self.rest


@dataclass(frozen=True)
class Step:
    """One step of a phase on an expert-parallel group. tokens: per GPU; context: cached per sequence (decode)."""

    job: ServingJob
    gpus: int
    phase: str
    tokens: int
    context: int

    def __post_init__(self) -> None:
        """Refuse unknown phases and layouts that the model does not allow."""
        if self.phase not in PHASES:
            raise Unsupported(f"phase {self.phase!r} is unknown{offer(self.phase, PHASES)}")
        if not (1 <= self.tokens <= 1 << 20 and 0 <= self.context <= 1 << 24):
            raise OutOfRange(
                f"{self.tokens} tokens a GPU with a context of {self.context} are out of range; give 1 to {1 << 20}"
                f" tokens and a context of 0 to {1 << 24}"
            )
        experts = self.moe.experts
        if self.gpus < 1 or experts % self.gpus:
            allowed = ", ".join(str(n) for n in range(1, experts + 1) if experts % n == 0)
            raise Indivisible(f"ep={self.gpus} does not divide the {experts} experts of a layer; it may be {allowed}")
        if self.gpus > 1:
            check(self.job.model, self.layout)

    @property
    def layout(self) -> ServingLayout:
        """Attention data parallelism over the group that shares the experts."""
        return ServingLayout(ep=self.gpus, adp=self.gpus)

    @cached_property
    def moe(self) -> Moe:
        """The experts placed."""
        return moe_of(self.job)

    @cached_property
    def pricing(self) -> Pricing:
        """What the serving model needs to price ops of this step."""
        load = Load(self.rows, self.context) if self.phase == "decode" else Load(prompt=self.tokens, length=self.tokens)
        return Pricing(self.job, network(self.job, self.layout), load, 1, self.gpus, self.gpus)

    @cached_property
    def rows(self) -> float:
        """Tokens that a GPU computes: in decode padded to the next captured graph."""
        return float(padded(self.job, self.tokens)) if self.phase == "decode" else float(self.tokens)

    @property
    def picks(self) -> float:
        """Picks of experts by all tokens of a step."""
        return self.rows * self.gpus * self.moe.top_k

    def met(self, shares: Array) -> Array:
        """Chance that some token of a step picks the expert, from its share of all picks."""
        return np.asarray(1 - np.exp(self.picks * np.log1p(-np.minimum(shares, 1 - 1e-12))), dtype=float)

    @cached_property
    def parts(self) -> dict[str, float]:
        """The step with balanced experts, by op [s]."""
        net = network(self.job, self.layout)
        if self.phase == "decode":
            found = decode_step(self.job, net, self.layout, self.tokens, self.context)
        else:
            found = prompt_step(self.job, net, self.layout, self.tokens, self.tokens)
        return {name: float(time) for name, time in found.items()}

    @cached_property
    def latent(self) -> float:
        """Projections around the experts that the serving model counts with them, in all layers [s]."""
        if not self.moe.latent:
            return 0.0
        one = product(self.pricing, "latent", self.rows, 2 * self.moe.latent, self.job.model.hidden)
        return float(one) * len(routed_layers(self.job))

    def expert_times(self, share: Array, used: Array) -> Array:
        """Time of each GPU's experts [s], from its share of all picks and its experts that some token reaches."""
        moe = self.moe
        rows = np.maximum(share * self.rows * self.gpus * moe.top_k, 1e-6)
        times = routed_time(self.pricing, moe, rows, np.maximum(used, 1e-9), moe.experts / self.gpus, moe.width,
                            self.rows)
        return np.asarray(times, dtype=float)

    def counts(self, routing: Routing) -> bool:
        """Whether copies are counted: a token is sent once to a GPU, and the trace has all the picks of each."""
        library = self.pricing.net.cluster.dispatcher
        once = library is not None and library.algorithms[DISPATCH][:1] != ("low_latency",)
        return once and routing.trace is not None and routing.trace.shape[2] == self.moe.top_k

    @cached_property
    def nodes(self) -> int:
        """Fast domains that the group spans."""
        return max(self.gpus // (self.pricing.net.inner.size or self.gpus), 1)

    def copies(self, routing: Routing, placed: Whole, tail: Array) -> tuple[Array, Array]:
        """(near, far) copies of a token times how full the fullest GPU, or node, is over the mean [layer].

        Counted on the trace, where there is one and the dispatcher sends each once; else picks spread evenly.
        """
        if routing.trace is None or not self.counts(routing):
            return self._even_copies(tail)
        near = reached(routing.trace, placed, self.gpus).max(axis=1) * self.gpus
        if self.nodes == 1:
            return near, np.ones_like(near)
        far = reached(routing.trace, placed * self.nodes // self.gpus, self.nodes).max(axis=1) * self.nodes
        return near, far

    def _even_copies(self, tail: Array) -> tuple[Array, Array]:
        near, far = (float(reached_groups(groups, self.moe.top_k)) for groups in (self.gpus, self.nodes))
        return near * tail, far * tail

    def _send(self, tail: Array, near: Array, far: Array) -> Array:
        """Dispatch and combine of each layer [s]. tail: picks on the fullest GPU over the mean; near, far: copies."""
        if self.gpus == 1:
            return np.zeros_like(tail)
        path = self.pricing.net.path(Group(self.gpus, 1))
        size, picks = self.rows * (self.moe.latent or self.job.model.hidden), self.moe.top_k
        ways = ((DISPATCH, self.job.weights.inputs), (COMBINE, WIDE))
        sent = [
            send_copies(path, way, size * wire * picks * tail, size * wire * near, size * wire * far)
            for way, wire in ways
        ]
        return np.asarray(sum(sent), dtype=float)

    def _leave(self, near: Array, far: Array, nodes: int) -> float:
        """One all-to-all per layer of what leaves a GPU and a node, and one all-gather of the step's tokens [s]."""
        path, hidden = self.pricing.net.path(Group(self.gpus, 1)), self.job.model.hidden
        size = self.rows * self.moe.top_k * hidden * WIDE
        even = np.maximum(near * self.gpus / (self.gpus - 1), far * nodes / max(nodes - 1, 1))
        return float(np.sum(path.all_to_all(size * even)) + path.all_gather(self.rows * self.gpus * hidden * WIDE))

    def touched(self, routing: Routing, placed: Whole) -> Array:
        """Experts of each GPU that some token of a step reaches [layer, GPU]."""
        return gpu_loads(self.met(routing.shares), placed, self.gpus)

    def layer_times(self, loads: Array, placed: Whole, near: Array | None = None, far: Array | None = None) -> Array:
        """Seconds of experts and of their exchange, there and back [2, layer], from shares of loads [layer, expert].

        near, far: copies of a token that the fullest GPU, and node, get; of evenly spread picks unless given.
        """
        share = gpu_loads(loads, placed, self.gpus)
        used = gpu_loads(self.met(loads), placed, self.gpus)
        tail = share.max(axis=1) * self.gpus
        if near is None or far is None:
            near, far = self._even_copies(tail)
        return np.stack([self.expert_times(share, used).max(axis=1), self._send(tail, near, far)])

    def time(self, routing: Routing, placed: Whole, exchange: str = "round-trip", per_node: int = 0) -> Timed:
        """Seconds of a step whose tokens are routed so, with the experts placed so."""
        loads = routing.shares
        tail = gpu_loads(loads, placed, self.gpus).max(axis=1) * self.gpus
        experts, sent = self.layer_times(loads, placed, *self.copies(routing, placed, tail)).sum(axis=1)
        if exchange == "coherent":
            sent = self._coherent(routing, placed, tail, per_node or self.gpus)
        return self._timed(float(experts), float(sent))

    def time_slots(self, routing: Routing, slots: Whole, shares: Array) -> Timed:
        """Seconds of a step with replicas: experts by slot [layer, slot] and the share of its load that each takes."""
        each = np.take_along_axis(routing.shares, slots, axis=1) * shares
        share, used = (table.reshape(len(each), self.gpus, -1).sum(axis=2) for table in (each, self.met(each)))
        tail = share.max(axis=1) * self.gpus
        sent = float(self._send(tail, *self._even_copies(tail)).sum())
        return self._timed(float(self.expert_times(share, used).max(axis=1).sum()), sent)

    def _coherent(self, routing: Routing, placed: Whole, tail: Array, per_node: int) -> float:
        if routing.transitions is None:
            raise SpecError(f"{routing.source} has loads only: what leaves a GPU between layers is not known")
        if self.gpus == 1 or not len(routing.transitions):
            return 0.0
        share = routing.transitions / routing.transitions.sum(axis=(1, 2), keepdims=True)
        near, far = (
            np.array([(w * (a[:, None] != b[None, :])).sum() for w, a, b in zip(share, rows, rows[1:], strict=False)])
            for rows in (placed, placed // per_node)
        )
        return self._leave(near * tail[1:], far * tail[1:], self.gpus // per_node)

    def _timed(self, experts: float, exchange: float) -> Timed:
        rest = sum(self.parts.values()) - self.parts["experts"] - self.parts.get("ep", 0.0) + self.latent
        return Timed(experts, exchange, rest)

    def least(self, routing: Routing, crossing: Array | None = None) -> float:
        """Time below which no placement comes [s]: with dispatch and combine in every layer, or with coherent exchange,
        where crossing is the share of tokens that leave their GPU after each layer at least.

        Some GPU has at least the balance that no packing avoids, and touches at least one expert; some GPU touches its
        even share of the experts. Times grow with rows and with experts touched, so either is a bound of its layer.
        """
        loads = routing.shares
        tails = np.array([load_bound(row * self.gpus, self.gpus) for row in loads])
        even = self.met(loads).sum(axis=1) / self.gpus
        few = np.minimum(even, 1.0)
        heavy, wide = self.expert_times(tails / self.gpus, few), self.expert_times(np.full(len(even), 1e-12), even)
        if crossing is not None:
            sent = np.array(self._leave(crossing * tails[1:], np.zeros_like(crossing), 1) if self.gpus > 1 else 0.0)
        else:
            sent = self._send(tails, *self._fewest_copies(routing, loads, tails))
        return self._timed(float(np.maximum(heavy, wide).sum()), float(sent.sum())).step

    def _fewest_copies(self, routing: Routing, loads: Array, tails: Array) -> tuple[Array, Array]:
        """(near, far) copies below which no placement comes [layer].

        A token reaches at least as many GPUs as its picks fill; all tokens of the most popular expert reach its GPU;
        and a GPU `tail` times as full as the mean gets no token more often than it has experts.
        """
        if routing.trace is None or not self.counts(routing):
            return self._even_copies(tails)
        picks = routing.trace.shape[2]

        def fewest(groups: int, tail: Array) -> Array:
            size = routing.experts // groups
            most = picks * loads.max(axis=1) * groups
            return np.asarray(np.maximum(np.maximum(most, -(-picks // size)), tail * picks / min(picks, size)))

        ones = np.ones_like(tails)
        return fewest(self.gpus, tails), fewest(self.nodes, ones) if self.nodes > 1 else ones

    def cache_price(self) -> tuple[float, float]:
        """Cache of one token on each GPU: (with sequences of their own, as coherent exchange keeps it) [B]."""
        own = per_token(self.job, self.layout)
        return own, float(repeated_time(self.gpus, own))

    def expert_bytes(self) -> float:
        """Weights of one expert of one layer [B]."""
        moe = self.moe
        hidden, matrices = moe.latent or self.job.model.hidden, 3 if moe.gated else 2
        return float(expert_traffic(0, 1, hidden, moe.width, matrices, self.job.weights.weight, WIDE))

    def slot_bytes(self, redundant: int, layers: int) -> float:
        """Weights that `redundant` slots of every one of `layers` layers take on a GPU [B]."""
        return redundant / self.gpus * layers * self.expert_bytes()

    def moving_time(self, before: Whole, after: Whole) -> float:
        """Time to move the weights of experts that change their GPU over the links of the group, all at once [s]."""
        moved = before != after
        if not moved.any():
            return 0.0
        received = gpu_loads(moved.astype(float), after, self.gpus).sum(axis=0).max() * self.expert_bytes()
        net: Any = self.pricing.net
        path = net.path(Group(self.gpus, 1))
        near = net.inner_bandwidth(path.group, self.gpus, "all_to_all")
        return float(received / net.reach(path.group, path.domains, near))
