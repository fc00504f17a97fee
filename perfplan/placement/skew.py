"""What measured or made-up routing means for training: the load of the most loaded expert rank by width of a group."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perfplan.catalog.specs import Model, Moe
from perfplan.errors import Indivisible, SpecError
from perfplan.placement.read import read_routing
from perfplan.placement.routing import Routing
from perfplan.placement.score import rho
from perfplan.placement.synthetic import generate, parse_synthetic

__all__ = ["routing_of", "skew_at", "skews"]


def routing_of(model: Model, text: str) -> Routing:
    """The routing that a text names: a file, `synthetic`, or `synthetic:zipf=0.8,affinity=0.9,seed=1`."""
    kinds = {kind.ffn for kind in model.kinds if isinstance(kind.ffn, Moe)}
    if not kinds:
        raise SpecError(f"routing {text!r} changes nothing: {model.id} has no routed experts")
    moe = min(kinds, key=lambda one: one.experts)
    layers = sum(isinstance(model.kinds[kind].ffn, Moe) for kind in model.layers)
    word, _, settings = text.partition(":")
    if word == "synthetic":
        return generate(parse_synthetic(settings), moe.experts, layers, moe.top_k)
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


def skew_at(model: Model, text: str, ranks: int, given: float = 1.0) -> float:
    """The skew of a routing at one width of the group; `given` where no routing is named."""
    if not text:
        return given
    if given != 1:
        raise SpecError(f"routing skew {given:g} and routing {text!r} both tell the load; give one")
    table = dict(skews(routing_of(model, text)))
    if ranks not in table:
        allowed = ", ".join(map(str, table))
        raise Indivisible(f"ep={ranks} does not divide the experts of {model.id}; it may be {allowed}")
    return table[ranks]
