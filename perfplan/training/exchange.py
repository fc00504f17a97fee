"""Kernels that bring their own constants: small all-reduces of serving engines, dispatch and combine of experts.

A library lists them per accelerator (`Library.kernels`). They stand beside the collective library's algorithms: an
engine takes the faster one of its own all-reduce and the library's; a dispatcher takes the place of the all-to-all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from perfplan.catalog.specs import Exchange, Library
from perfplan.errors import Unsupported, offer
from perfplan.formulas import collectives as price
from perfplan.formulas.core import maximum, minimum, where
from perfplan.training.network import Path, interpolate

__all__ = ["COMBINE", "DISPATCH", "deduplicated", "dispatched_by", "engine_all_reduce", "low_latency", "one_sided",
           "send_copies", "send_to_experts"]

DISPATCH, COMBINE = "moe_dispatch", "moe_combine"
_NEVER = 1e9  # s: an algorithm that does not serve so many ranks


def _launch(kernel: Exchange, ranks: Any) -> Any:
    return kernel.launch + (ranks - 1) * kernel.latency


def engine_all_reduce(path: Path, library: Library, size: Any) -> Any:
    """Time of an all-reduce of `size` bytes per rank by an engine with kernels of its own [s].

    The fastest of its one-shot and two-shot kernels, which serve inside one fast domain, and of the cluster's library,
    to which it falls back. Accelerators without constants in `library` only have the latter.
    """
    result, ranks = path.all_reduce(size), path.group.ranks
    inner, chip = path.net.inner, path.net.cluster.accelerator.id
    for name, formula in (("one_shot", price.one_shot_all_reduce_time), ("two_shot", price.two_shot_all_reduce_time)):
        if not (kernel := library.kernel(chip, name)):
            continue
        reached = interpolate(kernel.efficiency, ranks) * inner.bandwidth
        serves = (path.domains <= 1) & (ranks >= kernel.efficiency[0][0])
        own = formula(ranks, size, _launch(kernel, ranks), reached)
        result = minimum(result, where(serves, own, _NEVER)) if name in _listed(library, "all_reduce") else result
    return result


def _listed(library: Library, operation: str) -> tuple[str, ...]:
    return library.algorithms.get(operation, ())


def _kernel(path: Path, library: Library, name: str) -> Exchange:
    chip = path.net.cluster.accelerator.id
    if found := library.kernel(chip, name):
        return found
    raise Unsupported(f"library {library.id} has no constants of {name} for {chip}; it has them for"
                      f" {', '.join(sorted(library.kernels)) or 'no accelerator'}")


def dispatched_by(library: Library, algorithm: str = "") -> Library:
    """The library as a dispatcher, with one of its algorithms for both ways; its first unless one is named."""
    both = [name for name in _listed(library, DISPATCH) if name in _listed(library, COMBINE)]
    if not both:
        raise Unsupported(f"library {library.id} sends no tokens to experts; deepep-v1 and nvlink-one-sided do")
    if algorithm and algorithm not in both:
        raise Unsupported(f"library {library.id} has no algorithm {algorithm!r} for experts{offer(algorithm, both)}")
    chosen = (algorithm or both[0],)
    return replace(library, algorithms={**library.algorithms, DISPATCH: chosen, COMBINE: chosen})


def one_sided(path: Path, library: Library, operation: str, size: Any) -> Any:
    """Time to send a payload of `size` bytes per rank by writes into the memory of peers in one fast domain [s]."""
    kernel = _kernel(path, library, f"one_sided {operation}")
    reached = interpolate(kernel.efficiency, path.group.ranks) * path.net.inner.bandwidth
    return price.one_sided_exchange_time(path.group.ranks, size, kernel.floor, kernel.launch, reached)


def low_latency(path: Path, library: Library, operation: str, size: Any) -> Any:
    """Time to send a payload of `size` bytes per rank, one copy per pick, straight to its ranks [s].

    Over the network alone, to peers of the same domain too, unless the library has a fraction of the inner links.
    """
    kernel = _kernel(path, library, f"low_latency {operation}")
    if not path.net.outer:
        raise Unsupported(f"cluster {path.net.cluster.id} has no network, which the low-latency kernels use")
    ranks = path.group.ranks
    outer = interpolate(kernel.efficiency, ranks) * path.net.outer[0].bandwidth
    inside = library.kernel(path.net.cluster.accelerator.id, f"low_latency {operation} inside")
    if inside is None:
        return price.one_sided_exchange_time(ranks, size, kernel.floor, kernel.launch, outer)
    inner = interpolate(inside.efficiency, ranks) * path.net.inner.bandwidth
    return price.deduplicated_exchange_time(ranks, path.domains, size, size, kernel.launch, inner, outer)


def deduplicated(path: Path, library: Library, operation: str, near: Any, far: Any) -> Any:
    """Time to send `near` bytes per rank inside the domains while `far` go to the domains, once per token each [s]."""
    inside, outside = (_kernel(path, library, f"normal {operation} {where_}") for where_ in ("inside", "between"))
    inner = interpolate(inside.efficiency, path.group.ranks) * path.net.inner.bandwidth
    wire = path.net.outer[0].bandwidth if path.net.outer else path.net.inner.bandwidth
    outer = interpolate(outside.efficiency, path.group.ranks) * wire
    return price.deduplicated_exchange_time(path.group.ranks, path.domains, near, far, inside.launch, inner, outer)


def send_to_experts(path: Path, operation: str, size: Any, picks: Any) -> Any:
    """Time to dispatch tokens of `size` bytes per rank to `picks` experts each, or to combine them again [s].

    By the cluster's dispatcher, which sends one copy per rank (and over the network one per domain); an all-to-all
    sends one copy per pick. A one-sided dispatcher leaves groups that cross its fast domain to the all-to-all.
    """
    library = path.net.cluster.dispatcher
    if library is None:
        return path.all_to_all(size * picks)
    near = size * price.reached_groups(maximum(path.group.ranks, 1), picks)
    far = near
    if _listed(library, operation)[:1] == ("normal",):
        far = size * price.reached_groups(path.domains, picks)
    return send_copies(path, operation, size * picks, near, far)


def send_copies(path: Path, operation: str, whole: Any, near: Any, far: Any) -> Any:
    """Time to dispatch or combine payloads that are known by way of counting, each in bytes per rank [s].

    whole: one copy per pick; near: one per token and rank that it reaches; far: one per token and domain. What counts
    is what the cluster's dispatcher sends; without one, one copy per pick.
    """
    library = path.net.cluster.dispatcher
    if library is None:
        return path.all_to_all(whole)
    match _listed(library, operation)[:1]:
        case ("one_sided",):
            return where(path.domains > 1, path.all_to_all(whole), one_sided(path, library, operation, near))
        case ("normal",):
            return deduplicated(path, library, operation, near, far)
        case ("low_latency",):
            return low_latency(path, library, operation, whole)
    raise Unsupported(f"library {library.id} has no algorithm for {operation} that is priced")
