"""A seeded generator of routing: popularity that falls like Zipf's law, and affinity between layers.

A token in expert i of a layer goes on to expert j with a probability proportional to pop[j] exp(affinity N[i, j]): pop
falls as 1/rank^zipf in an order drawn anew for each layer, N is drawn once from the normal distribution. Affinity 0
makes the choice independent of where the token was. The defaults are such that exact optima for 8 experts in 32
layers have the shares of transitions that cross GPUs which ExFlow's placements of Mixtral-8x7B imply, 0.564 at 4 and
0.715 at 8.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from perfplan.catalog.specs import Moe
from perfplan.errors import OutOfRange, SpecError, offer
from perfplan.placement.routing import Array, Routing, Whole, from_trace

__all__ = ["Synthetic", "generate", "parse_synthetic", "synthetic_of"]


@dataclass(frozen=True)
class Synthetic:
    """What to draw. zipf: exponent of popularity; affinity: standard deviation of the logarithm of preferences between
    layers; seed: of the drawing; tokens: how many to route; groups, limit: groups of neighbouring experts, of which a
    token picks from `limit` at most (0 = all), those with the largest sum of their two best scores, as DeepSeek-V3."""

    zipf: float = 0.8
    affinity: float = 0.81
    seed: int = 1
    tokens: int = 20000
    groups: int = 1
    limit: int = 0


def parse_synthetic(text: str, base: Synthetic | None = None) -> Synthetic:
    """Settings written "zipf=0.8,affinity=0.9,seed=1"; what is not named is as in `base`, else the default.

    >>> parse_synthetic("zipf=0.8,seed=3")
    Synthetic(zipf=0.8, affinity=0.81, seed=3, tokens=20000, groups=1, limit=0)
    """
    known = {field.name: field.type for field in fields(Synthetic)}
    given: dict[str, float] = {}
    for token in filter(None, text.replace(",", " ").split()):
        name, equals, value = token.partition("=")
        if name not in known or not equals:
            raise SpecError(
                f"--synthetic {token!r} is not understood{offer(name, known)}; write 'zipf=0.8,affinity=0.9,seed=1'"
            )
        given[name] = _setting(name, value)
    return replace(base or Synthetic(), **given)  # type: ignore[arg-type]


def synthetic_of(moe: Moe, text: str = "", tokens: int = Synthetic.tokens) -> Synthetic:
    """The settings of a text for the experts of a model, which route in the model's groups unless the text says."""
    return parse_synthetic(text, Synthetic(tokens=tokens, groups=moe.groups, limit=moe.group_limit))


_LIMITS = {
    "zipf": (0, 10),
    "affinity": (0, 10),
    "seed": (0, 2**63),
    "tokens": (2, 10**7),
    "groups": (1, 10**4),
    "limit": (0, 10**4),
}


def _setting(name: str, value: str) -> float:
    low, high = _LIMITS[name]
    try:
        number = int(value) if name not in ("zipf", "affinity") else float(value)
    except ValueError:
        raise SpecError(f"--synthetic {name}={value!r} is no number; write '{name}={low or 1}'") from None
    if not low <= number <= high:
        raise OutOfRange(f"--synthetic {name} is {value}, but must be between {low} and {high}")
    return number


def chances(setting: Synthetic, experts: int, layers: int) -> tuple[Array, Array]:
    """(popularity in the first layer [expert], chance of each next expert [layer, expert, expert])."""
    draws = np.random.default_rng(setting.seed)
    ranks = np.stack([draws.permutation(experts) for _ in range(layers)]) + 1.0
    popularity = ranks**-setting.zipf
    chance = popularity[1:, None, :] * np.exp(setting.affinity * draws.standard_normal((layers - 1, experts, experts)))
    return popularity[0] / popularity[0].sum(), chance / chance.sum(axis=2, keepdims=True)


def generate(setting: Synthetic, experts: int, layers: int, picks: int = 1) -> Routing:
    """Route tokens through the layers: the first pick walks the chain, further ones are drawn beside it, all different.

    >>> generate(Synthetic(tokens=100), experts=8, layers=4).trace.shape
    (100, 4, 1)
    """
    if experts % setting.groups or 0 < setting.limit * (experts // setting.groups) < picks:
        raise OutOfRange(
            f"{setting.groups} groups, of which a token reaches {setting.limit or 'all'}, do not divide {experts} "
            f"experts evenly, or hold too few for {picks} picks"
        )
    start, chance = chances(setting, experts, layers)
    draws = np.random.default_rng((setting.seed, 1))
    trace = np.empty((setting.tokens, layers, picks), dtype=np.int64)
    for layer in range(layers):
        weights = start[None, :] if layer == 0 else chance[layer - 1][trace[:, layer - 1, 0]]
        trace[:, layer] = _pick(np.broadcast_to(weights, (setting.tokens, experts)), picks, draws, setting)
    limited = f", {setting.limit} of {setting.groups} groups" if 0 < setting.limit < setting.groups else ""
    words = f"synthetic routing (zipf {setting.zipf:g}, affinity {setting.affinity:g}, seed {setting.seed}{limited})"
    return from_trace(trace, experts, words)


def _pick(weights: Array, picks: int, draws: np.random.Generator, setting: Synthetic) -> Whole:
    """`picks` different experts per row, one after the other by weight: the largest of Gumbel-shifted logarithms, in
    the groups that are allowed."""
    scores = np.log(np.maximum(weights, 1e-300)) + draws.gumbel(size=weights.shape)
    if 0 < setting.limit < setting.groups:
        scores = _limited(scores, setting)
    if picks == 1:
        return np.asarray(scores.argmax(axis=1)[:, None], dtype=np.int64)
    if picks == scores.shape[1]:
        return np.asarray(np.argsort(-scores, axis=1), dtype=np.int64)
    first = np.argpartition(-scores, picks, axis=1)[:, :picks]
    order = np.argsort(-np.take_along_axis(scores, first, axis=1), axis=1)
    return np.asarray(np.take_along_axis(first, order, axis=1), dtype=np.int64)


def _limited(scores: Array, setting: Synthetic) -> Array:
    """Scores without those of the groups that a token does not reach."""
    table = scores.reshape(len(scores), setting.groups, -1)
    two = min(2, table.shape[2])
    best = -np.partition(-table, two - 1, axis=2)[:, :, :two].sum(axis=2)
    last = -np.partition(-best, setting.limit - 1, axis=1)[:, setting.limit - 1]
    return np.asarray(np.where((best >= last[:, None])[:, :, None], table, -np.inf).reshape(scores.shape), dtype=float)
