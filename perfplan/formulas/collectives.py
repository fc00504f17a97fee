"""Collectives: ring, tree, in-switch, hierarchical, direct, torus; exactly 0 for one rank.

Sizes are buffers as nccl-tests counts them: all-reduce: the buffer of each rank; all-gather and reduce-scatter: the
full buffer; all-to-all: the send buffer of each rank. A *domain* is a group of ranks joined by the fast links; a
group of `ranks` ranks in `domains` domains has ranks / domains members in each, and all forms hold for equal shares.
A reduce-scatter costs what the all-gather of the same full buffer costs.
"""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula, log2, maximum, minimum, where

__all__ = [
    "call_latency",
    "deduplicated_exchange_time",
    "direct_all_to_all_time",
    "fill_time",
    "hierarchical_all_gather_time",
    "hierarchical_all_reduce_time",
    "in_network_all_reduce_time",
    "one_shot_all_reduce_time",
    "one_sided_exchange_time",
    "point_to_point_time",
    "reached_groups",
    "ring_all_gather_time",
    "ring_all_reduce_time",
    "ring_bandwidth",
    "ring_latency",
    "torus_all_gather_time",
    "torus_all_reduce_time",
    "torus_all_to_all_time",
    "torus_latency",
    "tree_all_reduce_time",
    "tree_latency",
    "tuner_time",
    "two_level_all_to_all_time",
    "two_shot_all_reduce_time",
]

_THAKUR = "Thakur, Rabenseifner, Gropp 2005; training_core.md section 4"
_NCCL = "NVIDIA/nccl src/graph/tuning.cc 2.30.7; training_core.md section 4.1"
_DERIVED = "derived: bytes over the busiest link; training_core.md section 4"
_TORUS = "scaling-book torus forms, with the factor (n-1)/n kept; training_core.md section 4"


@formula("t_launch", "s", source="derived: a group of one rank launches nothing")
def call_latency(ranks: Any, launch: Any) -> Any:
    """Constant time of one collective call; exactly 0 at one rank.

    ranks : ranks in the group [1]
    launch : constant time of one call [s]

    >>> call_latency(8, 17.8e-6), call_latency(1, 17.8e-6)
    (1.78e-05, 0.0)
    """
    return launch * minimum(ranks - 1, 1)


@formula("t_fill", "s", source="derived: a chain of stages at the best number of chunks; constants fitted")
def fill_time(transfer: Any, fill: Any) -> Any:
    """Time that a transfer in chunks takes longer than its latency and its bytes.

    k chunks through m stages take (m + k)(h + x/k), at the best k: L + x + 2 sqrt(L x) with L = m h. Libraries
    keep more in flight than that chain, and switch protocols with the size: under the root a share of L stays.

    transfer : bytes over bandwidth [s]
    fill : share of the latency that chunks pay; 0 = latency and bytes just add [s]

    L = 4 us and x = 9 us make (sqrt L + sqrt x)^2 = 25 us, 12 us more than their sum; and with a quarter of L:

    >>> round(fill_time(9e-6, 4e-6) * 1e6, 6), round(fill_time(9e-6, 1e-6) * 1e6, 6)
    (12.0, 6.0)
    """
    return 2 * (fill * transfer) ** 0.5


@formula("t_ring", "s", source=_NCCL)
def ring_latency(ranks: Any, domains: Any, passes: Any, launch: Any, hop: Any, net_hop: Any) -> Any:
    """Latency of a ring: one launch, and in each pass domains - 1 network hops and ranks - domains inner hops.

    ranks : ranks in the group [1]
    domains : fast domains that the ring crosses [1]
    passes : times the ring is walked: 2 all-reduce, 1 all-gather and reduce-scatter [1]
    launch : constant time of one call [s]
    hop : latency of one hop inside a domain [s]
    net_hop : latency of one hop between domains [s]

    NCCL's table for 8 ranks on one node, protocols LL, LL128 and Simple: 15.0, 40.6 and 56.0 us:

    >>> table = ((6.6, 0.6), (14, 1.9), (8.4, 3.4))
    >>> [round(ring_latency(8, 1, 2, base, hop, 0), 1) for base, hop in table]
    [15.0, 40.6, 56.0]
    """
    return call_latency(ranks, launch) + passes * ((domains - 1) * net_hop + (ranks - domains) * hop)


@formula("t_tree", "s", source=_NCCL)
def tree_latency(ranks: Any, domains: Any, launch: Any, hop: Any, net_hop: Any) -> Any:
    """Latency of a double binary tree over domains with a chain inside each: up and down once.

    ranks : ranks in the group [1]
    domains : fast domains in the tree [1]
    launch : constant time of one call [s]
    hop : latency of one hop inside a domain [s]
    net_hop : latency of one hop between domains [s]

    NCCL's table for 8 ranks on one node, protocols LL, LL128 and Simple: 15.2, 31.5 and 64.4 us:

    >>> table = ((6.8, 0.6), (14, 1.25), (8.4, 4.0))
    >>> [round(tree_latency(8, 1, base, hop, 0), 1) for base, hop in table]
    [15.2, 31.5, 64.4]
    """
    return call_latency(ranks, launch) + 2 * ((ranks / domains - 1) * hop + log2(domains) * net_hop)


@formula("W_ring", "B/s", source=_DERIVED)
def ring_bandwidth(ranks: Any, domains: Any, inner: Any, outer: Any) -> Any:
    """Bus bandwidth per rank of rings that cross `domains` domains, their members sharing the NICs of a domain.

    The members of a domain run as many rings as they have NICs, each leaving through another NIC, so the
    whole ring moves at the speed of the inner links or of all the members' NICs together.

    ranks : ranks in the group [1]
    domains : fast domains that the ring crosses [1]
    inner : bandwidth per rank inside a domain, one direction [B/s]
    outer : bandwidth per rank between domains, one direction [B/s]

    Eight H100 per node with 50 GB/s NICs, 16 ranks in two nodes; two ranks in two nodes; one node:

    >>> ring_bandwidth(16, 2, 450e9, 50e9), ring_bandwidth(2, 2, 450e9, 50e9), ring_bandwidth(8, 1, 450e9, 50e9)
    (400000000000.0, 50000000000.0, 450000000000.0)
    """
    return where(domains > 1, minimum(inner, ranks / domains * outer), inner)


@formula("T_AR,ring", "s", source=_THAKUR)
def ring_all_reduce_time(
    ranks: Any, domains: Any, size: Any, launch: Any, hop: Any, net_hop: Any, bandwidth: Any, fill: Any
) -> Any:
    """Time of a ring all-reduce: a reduce-scatter and an all-gather around one ring.

    ranks : ranks in the group [1]
    domains : fast domains that the ring crosses [1]
    size : buffer of each rank [B]
    launch : constant time of one call [s]
    hop : latency of one hop inside a domain [s]
    net_hop : latency of one hop between domains [s]
    bandwidth : bus bandwidth per rank [B/s]
    fill : share of the latency that chunks pay, see fill_time [s]

    8 H100, 1 GiB, with published constants of a straight line (17.8 us, 352 GB/s) [ms]:

    >>> round(ring_all_reduce_time(8, 1, 2**30, 17.8e-6, 0, 0, 352e9, 0) * 1e3, 2)
    5.36
    """
    transfer = 2 * (ranks - 1) / ranks * size / bandwidth
    return ring_latency(ranks, domains, 2, launch, hop, net_hop) + transfer + fill_time(transfer, fill)


@formula("T_AG,ring", "s", source=_THAKUR)
def ring_all_gather_time(
    ranks: Any, domains: Any, size: Any, launch: Any, hop: Any, net_hop: Any, bandwidth: Any, fill: Any
) -> Any:
    """Time of a ring all-gather, or of a ring reduce-scatter of the same full buffer.

    ranks : ranks in the group [1]
    domains : fast domains that the ring crosses [1]
    size : full buffer, the shards of all ranks together [B]
    launch : constant time of one call [s]
    hop : latency of one hop inside a domain [s]
    net_hop : latency of one hop between domains [s]
    bandwidth : bus bandwidth per rank [B/s]
    fill : share of the latency that chunks pay, see fill_time [s]

    Half of the all-reduce of the same buffer (5.36 ms, above):

    >>> round(2 * ring_all_gather_time(8, 1, 2**30, 8.9e-6, 0, 0, 352e9, 0) * 1e3, 2)
    5.36
    """
    transfer = (ranks - 1) / ranks * size / bandwidth
    return ring_latency(ranks, domains, 1, launch, hop, net_hop) + transfer + fill_time(transfer, fill)


@formula("T_AR,tree", "s", source=_NCCL)
def tree_all_reduce_time(
    ranks: Any, domains: Any, size: Any, launch: Any, hop: Any, net_hop: Any, bandwidth: Any, fill: Any
) -> Any:
    """Time of a pipelined double-binary-tree all-reduce: each rank sends the full buffer twice over two half-trees.

    ranks : ranks in the group [1]
    domains : fast domains in the tree [1]
    size : buffer of each rank [B]
    launch : constant time of one call [s]
    hop : latency of one hop inside a domain [s]
    net_hop : latency of one hop between domains [s]
    bandwidth : bandwidth per rank, one direction [B/s]
    fill : share of the latency that chunks pay, see fill_time [s]

    >>> round(tree_all_reduce_time(32, 4, 1e9, 6.8e-6, 0.6e-6, 5e-6, 400e9, 0) * 1e6, 1)
    5035.2
    """
    transfer = 2 * minimum(ranks - 1, 1) * size / bandwidth
    return tree_latency(ranks, domains, launch, hop, net_hop) + transfer + fill_time(transfer, fill)


@formula("T_AR,switch", "s", source=_DERIVED)
def in_network_all_reduce_time(ranks: Any, size: Any, launch: Any, bandwidth: Any, fill: Any) -> Any:
    """Time of an all-reduce in the switches (NVLS, SHARP): one send up and one result down, at the same time.

    ranks : ranks in the group [1]
    size : buffer of each rank [B]
    launch : constant time of one call, the way through the switches included [s]
    bandwidth : bandwidth per rank, one direction [B/s]
    fill : share of the latency that chunks pay, see fill_time [s]

    NVLS over 8 ranks: 25 us; the bus bandwidth that nccl-tests prints may exceed the 450 GB/s link, by up to 2 (n-1)/n:

    >>> in_network_all_reduce_time(8, 0, 25e-6, 450e9, 0)
    2.5e-05
    >>> round(2 * 7 / 8 / in_network_all_reduce_time(8, 1, 0, 450e9, 0) / 1e9, 1)
    787.5
    """
    transfer = minimum(ranks - 1, 1) * size / bandwidth
    return call_latency(ranks, launch) + transfer + fill_time(transfer, fill)


@formula("T_AR,hier", "s", source=_DERIVED)
def hierarchical_all_reduce_time(
    ranks: Any, domains: Any, size: Any, launch: Any, hop: Any, net_hop: Any, inner: Any, outer: Any
) -> Any:
    """Time of reduce-scatter inside, all-reduce of each shard between, all-gather inside; one after the other.

    ranks : ranks in the group [1]
    domains : fast domains in the group [1]
    size : buffer of each rank [B]
    launch : constant time of each of the three calls [s]
    hop : latency of one hop inside a domain [s]
    net_hop : latency of one hop between domains [s]
    inner : bandwidth per rank inside a domain, one direction [B/s]
    outer : bandwidth per rank between domains, one direction [B/s]

    2 (G-1)/G S/W_i + 2 (N-1)/N S/(G W_o) with G = 8, N = 4, 1 GB, 400 and 50 GB/s:

    >>> round(hierarchical_all_reduce_time(32, 4, 1e9, 0, 0, 0, 400e9, 50e9) * 1e3, 3)
    8.125
    """
    members = ranks / domains
    inside = 2 * ring_all_gather_time(members, 1, size, launch, hop, net_hop, inner, 0 * launch)
    return inside + ring_all_reduce_time(domains, domains, size / members, launch, hop, net_hop, outer, 0 * launch)


@formula("T_AG,hier", "s", source=_DERIVED)
def hierarchical_all_gather_time(
    ranks: Any, domains: Any, size: Any, launch: Any, hop: Any, net_hop: Any, inner: Any, outer: Any
) -> Any:
    """Time of an all-gather between domains among equal local indices, then inside; also of the reduce-scatter.

    ranks : ranks in the group [1]
    domains : fast domains in the group [1]
    size : full buffer, the shards of all ranks together [B]
    launch : constant time of each of the two calls [s]
    hop : latency of one hop inside a domain [s]
    net_hop : latency of one hop between domains [s]
    inner : bandwidth per rank inside a domain, one direction [B/s]
    outer : bandwidth per rank between domains, one direction [B/s]

    Half of the hierarchical all-reduce (8.125 ms, above):

    >>> round(hierarchical_all_gather_time(32, 4, 1e9, 0, 0, 0, 400e9, 50e9) * 1e3, 4)
    4.0625
    """
    members = ranks / domains
    between = ring_all_gather_time(domains, domains, size / members, launch, hop, net_hop, outer, 0 * launch)
    return between + ring_all_gather_time(members, 1, size, launch, hop, net_hop, inner, 0 * launch)


@formula("T_AR,1", "s", source=_DERIVED)
def one_shot_all_reduce_time(ranks: Any, size: Any, launch: Any, bandwidth: Any) -> Any:
    """Time of a one-shot all-reduce: every rank reads the buffers of all others and reduces them itself.

    ranks : ranks in the group, one domain [1]
    size : buffer of each rank [B]
    launch : constant time of one step [s]
    bandwidth : bandwidth per rank, one direction [B/s]

    At S = alpha W / ((n-1)(1 - 2/n)) it takes as long as two shots (8 ranks, 5 us, 420 GB/s: 400 kB):

    >>> round(one_shot_all_reduce_time(8, 4e5, 5e-6, 420e9) * 1e6, 3)
    11.667
    """
    return call_latency(ranks, launch) + (ranks - 1) * size / bandwidth


@formula("T_AR,2", "s", source=_DERIVED)
def two_shot_all_reduce_time(ranks: Any, size: Any, launch: Any, bandwidth: Any) -> Any:
    """Time of a two-shot all-reduce: direct reduce-scatter, then direct all-gather.

    ranks : ranks in the group, one domain [1]
    size : buffer of each rank [B]
    launch : constant time of one step [s]
    bandwidth : bandwidth per rank, one direction [B/s]

    >>> round(two_shot_all_reduce_time(8, 4e5, 5e-6, 420e9) * 1e6, 3)
    11.667
    """
    return 2 * call_latency(ranks, launch) + 2 * (ranks - 1) / ranks * size / bandwidth


@formula("t_p2p", "s", source="Hockney 1994: latency plus size over bandwidth")
def point_to_point_time(size: Any, latency: Any, bandwidth: Any) -> Any:
    """Time of one message between two ranks.

    size : message [B]
    latency : latency of one message [s]
    bandwidth : bandwidth of the sender, one direction [B/s]

    >>> point_to_point_time(50e6, 5e-6, 50e9)
    0.001005
    """
    return latency + size / bandwidth


@formula("T_tuner", "s", source=_NCCL)
def tuner_time(latency: Any, size: Any, bandwidth: Any) -> Any:
    """Time that NCCL's tuner predicts for one algorithm and protocol; it selects, it does not measure.

    latency : latency of the algorithm and protocol [s]
    size : buffer [B]
    bandwidth : algorithm bandwidth [B/s]

    Ring LL and Simple over 8 Hopper ranks at 64 KiB, with 141 GB/s x 8/14 and 320 GB/s x 8/14: LL wins [us]:

    >>> [round(tuner_time(lat * 1e-6, 2**16, bus * 1e9 * 8 / 14) * 1e6, 1) for lat, bus in ((15, 141), (56, 320))]
    [15.8, 56.4]
    """
    return latency + size / bandwidth


@formula("T_A2A", "s", source=_DERIVED)
def direct_all_to_all_time(
    ranks: Any, domains: Any, size: Any, launch: Any, hop: Any, net_hop: Any, inner: Any, outer: Any, fill: Any
) -> Any:
    """Time of a direct all-to-all: every rank sends to every other, inside and between domains at the same time.

    ranks : ranks in the group [1]
    domains : fast domains in the group [1]
    size : send buffer of each rank [B]
    launch : constant time of one call [s]
    hop : time to issue one message inside a domain [s]
    net_hop : time to issue one message between domains [s]
    inner : bandwidth per rank inside a domain, one direction [B/s]
    outer : bandwidth per rank between domains, one direction [B/s]
    fill : share of the latency that chunks pay, see fill_time [s]

    32 ranks in 4 domains send 100 MB each: 3/4 of it leaves at 50 GB/s, 7/32 stays at 400 GB/s [ms]:

    >>> direct_all_to_all_time(32, 4, 100e6, 0, 0, 0, 400e9, 50e9, 0) * 1e3
    1.5
    >>> round(direct_all_to_all_time(8, 1, 100e6, 0, 0, 0, 400e9, 50e9, 0) * 1e3, 5)
    0.21875
    """
    inside = (ranks / domains - 1) * (hop + size / ranks / inner)
    between = (ranks - ranks / domains) * (net_hop + size / ranks / outer)
    transfer = maximum(inside, between)
    return call_latency(ranks, launch) + transfer + fill_time(transfer, fill)


@formula("T_A2A,2", "s", source="Hwang et al. 2023 (Tutel), 2DH all-to-all; sequence_parallel_moe.md section 1.2")
def two_level_all_to_all_time(
    ranks: Any, domains: Any, size: Any, launch: Any, hop: Any, net_hop: Any, inner: Any, outer: Any
) -> Any:
    """Time of a two-level all-to-all: inside the domains first, then between equal local indices; one after the other.

    Each rank sends G - 1 inner messages of S/G and N - 1 outer messages of S/N: fewer and larger than the direct form.

    ranks : ranks in the group [1]
    domains : fast domains in the group [1]
    size : send buffer of each rank [B]
    launch : constant time of each of the two calls [s]
    hop : time to issue one message inside a domain [s]
    net_hop : time to issue one message between domains [s]
    inner : bandwidth per rank inside a domain, one direction [B/s]
    outer : bandwidth per rank between domains, one direction [B/s]

    7/8 of 100 MB at 400 GB/s, then 3/4 of it at 50 GB/s [ms]:

    >>> round(two_level_all_to_all_time(32, 4, 100e6, 0, 0, 0, 400e9, 50e9) * 1e3, 5)
    1.71875
    """
    members = ranks / domains
    inside = direct_all_to_all_time(members, 1, size, launch, hop, net_hop, inner, outer, 0 * launch)
    return inside + direct_all_to_all_time(domains, domains, size, launch, hop, net_hop, inner, outer, 0 * launch)


@formula("n_reached", "1", source="derived: occupied boxes; sequence_parallel_moe.md section 1.2")
def reached_groups(groups: Any, picks: Any) -> Any:
    """Groups of experts that a token reaches on average when it picks experts evenly: it is sent once to each.

    groups : ranks, or domains, that hold the experts [1]
    picks : experts per token [1]

    Eight picks over 8 ranks reach 5.25 of them; over one, that one:

    >>> round(reached_groups(8, 8), 2), reached_groups(1, 8)
    (5.25, 1.0)
    """
    return groups * (1 - (1 - 1 / groups) ** picks)


@formula("T_disp,1", "s", source=_DERIVED)
def one_sided_exchange_time(ranks: Any, size: Any, floor: Any, launch: Any, bandwidth: Any) -> Any:
    """Time of a dispatch or combine of experts whose ranks write into each other's memory, over one kind of link.

    ranks : ranks that hold the experts [1]
    size : payload of each rank, its own share included [B]
    floor : least time of one call [s]
    launch : time of a large call beyond its bytes [s]
    bandwidth : bandwidth per rank reached, one direction [B/s]

    DeepEP's low-latency dispatch, 128 tokens of 8 x 7.4 kB to 16 ranks at 0.81 of 50 GB/s [us]: published is 173:

    >>> round(one_sided_exchange_time(16, 7585792, 0, 0, 0.81 * 50e9) * 1e6)
    176
    """
    return minimum(ranks - 1, 1) * maximum(floor, launch + (ranks - 1) / ranks * size / bandwidth)


@formula("T_disp,2", "s", source="DeepEP first README, normal kernels; sequence_parallel_moe.md section 1.2")
def deduplicated_exchange_time(
    ranks: Any, domains: Any, near: Any, far: Any, launch: Any, inner: Any, outer: Any
) -> Any:
    """Time of a dispatch or combine that crosses the network once per token and domain, and spreads inside it.

    Both links work at the same time: the slower one decides. With one payload for both, nothing is sent once only.

    ranks : ranks that hold the experts [1]
    domains : fast domains that hold the experts [1]
    near : payload of each rank over the inner links, its own share included [B]
    far : payload of each rank to the domains, its own domain included [B]
    launch : constant time of one call [s]
    inner : bandwidth per rank reached inside a domain, one direction [B/s]
    outer : bandwidth per rank reached between domains, one direction [B/s]

    200 MB to 8 ranks at 155 GB/s; to 32 ranks in 4 domains, of which 3 are elsewhere, 100 MB to the domains [ms]:

    >>> round(deduplicated_exchange_time(8, 1, 200e6, 100e6, 0, 155e9, 45e9) * 1e3, 3)
    1.129
    >>> round(deduplicated_exchange_time(32, 4, 200e6, 100e6, 0, 155e9, 45e9) * 1e3, 3)
    1.667
    """
    inside, between = (ranks - 1) / ranks * near / inner, (domains - 1) / domains * far / outer
    return call_latency(ranks, launch) + maximum(inside, between)


@formula("t_torus", "s", source=_TORUS)
def torus_latency(ranks: Any, axes: Any, hop: Any, wrap: Any) -> Any:
    """Latency to the farthest rank of a torus with axes of equal length, both directions used.

    ranks : ranks in the group [1]
    axes : torus axes that the group spans [1]
    hop : latency of one hop [s]
    wrap : 1 where the axes close to rings, 0 where the group is a slice of a longer axis [1]

    >>> torus_latency(16, 1, 1.0, 1), torus_latency(16, 2, 1.0, 0)
    (7.5, 6.0)
    """
    return axes * (ranks ** (1 / axes) - 1) / (1 + wrap) * hop


@formula("T_AG,torus", "s", source=_TORUS)
def torus_all_gather_time(ranks: Any, axes: Any, size: Any, launch: Any, hop: Any, bandwidth: Any, wrap: Any) -> Any:
    """Time of an all-gather over all axes of a torus at once, or of the reduce-scatter of the same full buffer.

    ranks : ranks in the group [1]
    axes : torus axes that the group spans [1]
    size : full buffer, the shards of all ranks together [B]
    launch : constant time of one call [s]
    hop : latency of one hop [s]
    bandwidth : bandwidth of one axis, both directions together [B/s]
    wrap : 1 where the axes close to rings, 0 where the group is a slice: half of the bandwidth [1]

    TPU v5e, bf16[1024, 16384] over one axis at 90 GB/s: 373 us without the factor (n-1)/n:

    >>> round(torus_all_gather_time(16, 1, 2 * 1024 * 16384, 0, 1e-6, 9e10, 1) * 16 / 15 * 1e6)
    373
    """
    transfer = (ranks - 1) / ranks * size / (axes * bandwidth * (1 + wrap) / 2)
    return call_latency(ranks, launch) + maximum(transfer, torus_latency(ranks, axes, hop, wrap))


@formula("T_AR,torus", "s", source=_TORUS)
def torus_all_reduce_time(ranks: Any, axes: Any, size: Any, launch: Any, hop: Any, bandwidth: Any, wrap: Any) -> Any:
    """Time of an all-reduce over all axes of a torus: reduce-scatter, then all-gather.

    ranks : ranks in the group [1]
    axes : torus axes that the group spans [1]
    size : buffer of each rank [B]
    launch : constant time of each of the two calls [s]
    hop : latency of one hop [s]
    bandwidth : bandwidth of one axis, both directions together [B/s]
    wrap : 1 where the axes close to rings, 0 where the group is a slice: half of the bandwidth [1]

    Twice the all-gather of TPU v5e (373 us, above):

    >>> round(torus_all_reduce_time(16, 1, 2 * 1024 * 16384, 0, 1e-6, 9e10, 1) * 16 / 15 * 1e6)
    746
    """
    return 2 * torus_all_gather_time(ranks, axes, size, launch, hop, bandwidth, wrap)


@formula("T_A2A,torus", "s", source=_TORUS)
def torus_all_to_all_time(ranks: Any, axes: Any, size: Any, launch: Any, hop: Any, bandwidth: Any, wrap: Any) -> Any:
    """Time of an all-to-all on a torus with axes of equal length.

    On a ring of n ranks a message travels (n - 1/n)/4 links on average (exact for odd n); over k axes each message
    travels k times as far over k times the links.

    ranks : ranks in the group [1]
    axes : torus axes that the group spans [1]
    size : send buffer of each rank [B]
    launch : constant time of one call [s]
    hop : latency of one hop [s]
    bandwidth : bandwidth of one axis, both directions together [B/s]
    wrap : 1 where the axes close to rings, 0 where the group is a slice: half of the bandwidth [1]

    A quarter of the all-gather of the same full array, whose shard each rank sends (TPU v5e, as above: 93.2 us):

    >>> round(torus_all_to_all_time(256, 1, 2 * 1024 * 16384 / 256, 0, 1e-9, 9e10, 1) * 1e6, 1)
    93.2
    """
    side = ranks ** (1 / axes)
    transfer = (side - 1 / side) * size / (4 * bandwidth * (1 + wrap) / 2)
    return call_latency(ranks, launch) + maximum(transfer, torus_latency(ranks, axes, hop, wrap))
