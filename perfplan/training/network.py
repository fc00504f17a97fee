"""Where the groups of a layout lie on the network, and what their collectives cost there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from perfplan.catalog.specs import Cluster, Level
from perfplan.errors import Unsupported
from perfplan.formulas import collectives as price
from perfplan.formulas.core import ceil, ceil_div, log2, maximum, minimum, where

IN_NETWORK = ("nvls", "in_network")
PRICED = {
    "all_reduce": ("ring", "tree", "torus", "hierarchical", *IN_NETWORK),
    "all_gather": ("ring", "torus", "hierarchical"),
    "all_to_all": ("direct", "two_level"),
}
__all__ = ["Group", "Network", "Path", "interpolate"]


@dataclass(frozen=True)
class Group:
    """Ranks that communicate: `ranks` of them, `stride` accelerators apart."""

    ranks: Any
    stride: Any


@cache
def _stretches(points: tuple[tuple[int, float], ...]) -> tuple[tuple[float, float, float], ...]:
    """(log2 of its first ranks, its length in log2, what it adds) of every stretch between two points."""
    ends = zip(points, points[1:], strict=False)
    return tuple((log2(low), log2(high) - log2(low), last - first) for (low, first), (high, last) in ends)


def interpolate(points: tuple[tuple[int, float], ...], ranks: Any) -> Any:
    """Fraction reached by `ranks` ranks, linear in log2(ranks) between the catalog's points, flat outside."""
    result: Any = points[0][1]
    doublings = log2(maximum(ranks, 1))
    for low, length, rise in _stretches(points):
        result = result + minimum(maximum((doublings - low) / length, 0.0), 1.0) * rise
    return result


class Network:
    """Collectives on the levels of one cluster, for a machine of `world` accelerators."""

    def __init__(self, cluster: Cluster, world: int) -> None:
        """`world`: accelerators of the job, which spreads evenly over domains where it can."""
        self.cluster, self.world = cluster, world
        self.inner = cluster.levels[0]
        self._taken = {level.name: self.taken(level) for level in cluster.levels}

    def taken(self, level: Level) -> int:
        """Accelerators that the job takes from one domain of `level`.

        Its largest divisor that fits there, if that idles less than half of the domain (64 of 72); else whole domains.
        """
        limit = self.world if level.size <= 0 else min(level.size, self.world)
        even = next(count for count in range(limit, 0, -1) if self.world % count == 0)
        return even if 2 * even >= limit else limit

    @cached_property
    def outer(self) -> tuple[Level, ...]:
        """The levels beyond the fast domain."""
        return self.cluster.levels[1:]

    def domains(self, group: Group, level: Level) -> Any:
        """Domains of `level` that the group touches; a group whose span does not divide the domain straddles two."""
        size = self._taken[level.name]
        if size >= self.world:
            return minimum(group.ranks, 1)
        span = group.ranks * group.stride
        members = maximum(size // group.stride, 1)
        inside = where(size % minimum(span, size) == 0, 1, minimum(group.ranks, 2))
        return where(span <= size, inside, ceil_div(group.ranks, members))

    def torus_share(self, group: Group, level: Level) -> Any:
        """Fraction of an accelerator's links that the group can use: axes it covers, half of one it does not close."""
        below, axes = 1, 0.0
        for length in level.dims:
            covered = minimum(
                maximum(minimum(group.ranks * group.stride, below * length) / maximum(group.stride, below), 1.0), length
            )
            axes = axes + where(covered > 1, where(covered >= length, 1.0, 0.5), 0.0)
            below *= length
        return maximum(axes, 0.5) / len(level.dims)

    def reach(self, group: Group, domains: Any, otherwise: Any) -> Any:
        """Bandwidth of one accelerator beyond its fast domain: the slowest level that the group crosses [B/s]."""
        result, touched = otherwise, domains
        for index, level in enumerate(self.outer):
            rate = level.bandwidth * interpolate(level.efficiency, touched) / level.oversubscription
            result = where(touched > 1, minimum(result, rate) if index else rate, result)
            touched = self.domains(group, level)
        return result

    def inner_bandwidth(self, group: Group, members: Any, operation: str = "all_reduce") -> Any:
        """Bus bandwidth per rank between `members` of the group inside one fast domain [B/s]."""
        share = self.torus_share(group, self.inner) if self.inner.dims else 1.0
        points = self.inner.operations.get(operation, self.inner.efficiency)
        return self.inner.bandwidth * interpolate(points, members) * share

    def hop(self, group: Group) -> Any:
        """Latency of one hop between the fast domains that a group touches [s]."""
        hop: Any = self.outer[0].latency if self.outer else 0.0
        for below, level in zip(self.outer, self.outer[1:], strict=False):
            hop = where(self.domains(group, below) > 1, level.latency, hop)
        return hop

    def bus_bandwidth(self, group: Group, domains: Any, operation: str) -> Any:
        """Per-rank bus bandwidth of a ring: the slowest level it crosses, its members sharing their links [B/s]."""
        bandwidth = self.inner_bandwidth(group, maximum(group.ranks / domains, 1.0), operation)
        touched = domains
        for level in self.outer:
            reach = level.bandwidth * interpolate(level.efficiency, touched) / level.oversubscription
            bandwidth = price.ring_bandwidth(group.ranks, touched, bandwidth, reach)
            touched = self.domains(group, level)
        return bandwidth

    def listed(self, operation: str) -> tuple[str, ...]:
        """Algorithms of the cluster's library for an operation; the first that is always there stands if none is."""
        library, priced = self.cluster.library, PRICED[operation]
        names = library.algorithms.get(operation, priced[:1])
        unknown = [name for name in names if name not in priced]
        if unknown:
            raise Unsupported(
                f"library {library.id} lists the algorithm {unknown[0]!r} for {operation}, which is not priced; known"
                f" are {', '.join(priced)}"
            )
        return names

    def choose(self, operation: str, group: Group, domains: Any, size: Any) -> dict[str, Any]:
        """Algorithm -> whether the library takes it, by its own selection model (its smallest tuner time).

        Reduction in the network is taken wherever it can be: inside one domain, from its fewest ranks on.
        """
        names = [name for name in self.listed(operation) if name not in IN_NETWORK or self.inner.reduction]
        reach = (domains <= 1) & (group.ranks >= self.inner.reduction_ranks)
        switched = {name: reach for name in names if name in IN_NETWORK}
        walked = [name for name in names if name not in IN_NETWORK]
        tuner = self.cluster.library.tuner
        if len(walked) < 2 or not all(name in tuner for name in walked):
            return dict.fromkeys(walked[:1], True) | switched
        bus = self.inner_bandwidth(group, maximum(group.ranks / domains, 1.0))
        hops = {
            "ring": (2 * (group.ranks - domains), 2 * (domains - 1)),
            "tree": (2 * (group.ranks / domains - 1), 2 * log2(domains)),
        }
        times = {}
        for name in walked:
            base, inside, between, fraction = tuner[name]
            near, far = hops[name]
            times[name] = price.tuner_time(base + near * inside + far * between, size, fraction * bus / 2)
        best = minimum(times["ring"], times["tree"])
        return {name: times[name] <= best for name in walked} | switched

    def path(self, group: Group) -> Path:
        """The network as the group sees it."""
        return Path(self, group, self.domains(group, self.inner), self.hop(group))


@dataclass(frozen=True)
class Path:
    """What the collectives of one group (or of columns of groups) cost.

    domains: fast domains touched; hop: latency between them [s].
    """

    net: Network
    group: Group
    domains: Any
    hop: Any

    def _bus(self, operation: str) -> Any:
        return self.net.bus_bandwidth(self.group, self.domains, operation)

    def _fill(self, passes: int) -> Any:
        """Latency that the chunks of a ring pay: measured inside a domain only, and taken from there between them."""
        inner, members = self.net.inner, self.group.ranks / self.domains
        return inner.fill * (inner.launch + passes * (members - 1) * inner.latency)

    def all_reduce(self, size: Any) -> Any:
        """Time of an all-reduce of `size` bytes per rank, by the algorithm that the library would take [s]."""
        ranks, inner = self.group.ranks, self.net.inner
        walk = (inner.launch, inner.latency, self.hop, self._bus("all_reduce"), self._fill(2))
        chosen = self.net.choose("all_reduce", self.group, self.domains, size)
        result = price.ring_all_reduce_time(ranks, self.domains, size, *walk)
        if "torus" in chosen:
            result = self._torus(price.torus_all_reduce_time, "all_reduce", size, result)
        if "hierarchical" in chosen:
            result = self._levels(price.hierarchical_all_reduce_time, "all_reduce", size, result)
        if "tree" in chosen:
            result = where(chosen["tree"], price.tree_all_reduce_time(ranks, self.domains, size, *walk), result)
        for name in IN_NETWORK:
            if name in chosen:
                launch = price.ring_latency(ranks, 1, 2, inner.launch, inner.latency, 0.0)
                bandwidth = inner.reduction * inner.bandwidth
                reduced = price.in_network_all_reduce_time(ranks, size, launch, bandwidth, inner.fill * launch)
                result = where(chosen[name], reduced, result)
        return result

    def all_gather(self, size: Any) -> Any:
        """Time of an all-gather whose full buffer has `size` bytes, or of the reduce-scatter of that buffer [s]."""
        inner, bandwidth = self.net.inner, self._bus("all_gather")
        ring = price.ring_all_gather_time(
            self.group.ranks, self.domains, size, inner.launch, inner.latency, self.hop, bandwidth, self._fill(1)
        )
        match self.net.listed("all_gather")[0]:
            case "hierarchical":
                return self._levels(price.hierarchical_all_gather_time, "all_gather", size, ring)
            case "torus":
                return self._torus(price.torus_all_gather_time, "all_gather", size, ring)
        return ring

    def _levels(self, formula: Any, operation: str, size: Any, inside: Any) -> Any:
        """Time by an algorithm that works inside the domains and between them in turn; `inside` where one holds all."""
        inner, members = self.net.inner, maximum(self.group.ranks / self.domains, 1.0)
        near = self.net.inner_bandwidth(self.group, members, operation)
        far = self.net.reach(self.group, self.domains, near)
        args = (self.group.ranks, self.domains, size, inner.launch, inner.latency, self.hop, near, far)
        return where(self.domains > 1, formula(*args), inside)

    def all_to_all(self, size: Any) -> Any:
        """Time of an all-to-all with a send buffer of `size` bytes per rank [s]."""
        inner = self.net.inner
        hops = self.net.cluster.library.exchange * inner.latency
        launch = inner.launch + where(self.domains > 1, self.hop, hops)
        near = self.net.inner_bandwidth(self.group, maximum(self.group.ranks / self.domains, 1.0), "all_to_all")
        far = self.net.reach(self.group, self.domains, near)
        fill = inner.fill * (inner.launch + hops)
        direct = price.direct_all_to_all_time(self.group.ranks, self.domains, size, launch, 0.0, 0.0, near, far, fill)
        if self.net.listed("all_to_all")[0] == "two_level":
            direct = self._levels(price.two_level_all_to_all_time, "all_to_all", size, direct)
        return self._torus(price.torus_all_to_all_time, "all_to_all", size, direct)

    def _torus(self, formula: Any, operation: str, size: Any, otherwise: Any) -> Any:
        """Time over the axes of a torus that the group spans; `otherwise` where the links form none, or one slice.

        An axis that the group does not close to a ring has half of its bandwidth (`torus_share`).
        """
        level, ranks = self.net.inner, self.group.ranks
        if not level.dims:
            return otherwise
        axes = maximum(ceil(self.net.torus_share(self.group, level) * len(level.dims)), 1)
        axis = self.net.inner_bandwidth(self.group, ranks, operation) / axes
        inside = formula(ranks, axes, size, level.launch, level.latency, axis, 1)
        return where(self.domains > 1, otherwise, inside)

    def send(self, size: Any) -> Any:
        """Time to send `size` bytes to the next rank of the group; 0 for a group of one [s]."""
        inner = self.net.inner
        near = inner.peer or inner.bandwidth * inner.efficiency[0][1]
        bandwidth = where(self.domains > 1, self.net.reach(self.group, self.domains, near), near)
        return price.point_to_point_time(size, where(self.domains > 1, self.hop, inner.latency), bandwidth) * minimum(
            self.group.ranks - 1, 1
        )
