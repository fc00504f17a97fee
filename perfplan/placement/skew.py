"""What measured or made-up routing means for a job: the load of the most loaded expert rank by width of a group."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perfplan.catalog.specs import Model, Moe
from perfplan.errors import SpecError
from perfplan.placement.read import read_routing
from perfplan.placement.routing import Routing
from perfplan.placement.score import rho
from perfplan.placement.synthetic import generate, synthetic_of

__all__ = ["SAMPLE", "routing_of", "skewed", "skews"]

SAMPLE = 2000
"""Tokens that are routed to see the skew of made-up routing; placements take more."""


def routing_of(model: Model, text: str) -> Routing:
    """The routing that a text names: a file, `synthetic`, or `synthetic:zipf=0.8,affinity=0.9,seed=1`."""
    kinds = {kind.ffn for kind in model.kinds if isinstance(kind.ffn, Moe)}
    if not kinds:
        raise SpecError(f"routing {text!r} changes nothing: {model.id} has no routed experts")
    moe = min(kinds, key=lambda one: one.experts)
    layers = sum(isinstance(model.kinds[kind].ffn, Moe) for kind in model.layers)
    word, _, settings = text.partition(":")
    if word == "synthetic":
        return generate(synthetic_of(moe, settings, SAMPLE), moe.experts, layers, moe.top_k)
    if not Path(text).is_file():
        raise SpecError(f"routing {text!r} is no file; name a trace, loads or counts, or write synthetic, or "
                        "synthetic:zipf=0.8,affinity=0.9,seed=1")
    routing = read_routing(text, moe.experts)
    if routing.layers != layers:
        raise SpecError(f"{text} has {routing.layers} layers, but {model.id} routes tokens in {layers}")
    return routing


def skews(routing: Routing) -> tuple[tuple[int, float], ...]:
    """(ranks, largest over mean load of a rank, mean of the layers) for every width that the experts allow, experts in
    order as training frameworks place them.

    >>> from perfplan.placement.routing import from_loads
    >>> skews(from_loads(np.array([[3.0, 1.0, 2.0, 2.0]]), "loads"))
    ((1, 1.0), (2, 1.0), (4, 1.5))
    """
    found = []
    for ranks in (n for n in range(1, routing.experts + 1) if routing.experts % n == 0):
        placed = np.tile(np.arange(routing.experts) * ranks // routing.experts, (routing.layers, 1))
        weights = routing.loads * ranks / routing.loads.sum(axis=1, keepdims=True)
        found.append((ranks, float(rho(weights, placed, ranks).mean())))
    return tuple(found)


def skewed(model: Model, text: str, given: float = 1.0) -> tuple[tuple[tuple[int, float], ...], tuple[str, ...]]:
    """(skews of the routing that a text names, what there is to say of them); nothing where no routing is named.
    given: skew that is given as a number, which excludes a routing."""
    if not text:
        return (), ()
    if given != 1:
        raise SpecError(f"routing skew {given:g} and routing {text!r} both tell the load; give one")
    found = routing_of(model, text)
    table = skews(found)
    shown = ", ".join(f"ep{ranks} {load:.2f}" for ranks, load in table if 1 < ranks <= 64)
    return table, (f"experts in order, skew by {found.source}: {shown}; `perfplan place` finds better placements",)
