"""The declared space of layouts: values per axis, their product, and the columns of it that survive the cheap rules."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

import numpy as np

from perfplan.catalog.specs import Moe
from perfplan.errors import BadLayout
from perfplan.training.job import Job
from perfplan.training.layout import CP_KINDS, Layout, block, parse_tokens
from perfplan.training.rules import KEY_RULES, limits

__all__ = ["Axes", "declare", "keys", "largest_dp", "restrict"]

_KEY_AXES = ("tp", "sp", "cp", "ep", "etp", "mbs", "cp_kind")


@dataclass(frozen=True)
class Axes:
    """Values per axis; the space is their product. sharding: widths of weights, gradients, optimizer; 0 = all."""

    tp: tuple[int, ...]
    sp: tuple[int, ...]
    cp: tuple[int, ...]
    cp_kind: tuple[str, ...]
    pp: tuple[int, ...]
    vpp: tuple[int, ...]
    ep: tuple[int, ...]
    etp: tuple[int, ...]
    mbs: tuple[int, ...]
    sharding: tuple[tuple[int, int, int], ...]
    recompute: tuple[tuple[str, ...], ...]
    offload: tuple[tuple[tuple[str, int], ...], ...] = ((),)
    hpz: tuple[int, ...] = (0,)
    qwz: tuple[int, ...] = (0,)
    qgz: tuple[int, ...] = (0,)

    @property
    def splits(self) -> tuple[tuple[Any, ...], ...]:
        """Every combination of the widths, hpz, qwz and qgz."""
        return tuple(product(self.sharding, self.hpz, self.qwz, self.qgz))

    @property
    def size(self) -> int:
        """Layouts in the space; dp follows from the others."""
        return math.prod(len(getattr(self, axis.name)) for axis in fields(self))

    def __str__(self) -> str:
        """The space on one line; axes that are off unless asked for only where they are on."""
        shown = [axis.name for axis in fields(self) if getattr(self, axis.name) != axis.default]
        return " ".join(f"{name}:{len(getattr(self, name))}" for name in shown)


def _doubling(limit: int) -> tuple[int, ...]:
    return tuple(1 << i for i in range(max(limit, 1).bit_length()))


def _divisors(number: int, limit: int) -> tuple[int, ...]:
    return tuple(n for n in range(1, min(number, limit) + 1) if number % n == 0)


def declare(job: Job) -> Axes:
    """The space searched for a job.

    tp: powers of two up to the fast domain (at least a node) and 64; cp: powers of two that leave 1024 tokens per
    rank; pp: divisors of the accelerators up to the layers; vpp: up to 12; ep: divisors of the experts; micro-batch:
    powers of two up to 8; dp: the largest that fits and divides the batch.
    """
    experts = [k.ffn for k in job.model.kinds if isinstance(k.ffn, Moe)]
    layers, domain = len(job.model.layers), job.cluster.fast_domain
    reach = min(max(domain if domain > 0 else 64, job.cluster.accelerators_per_node), 64, job.gpus)
    sharding = [(1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 0, 0)]
    if 1 < domain < job.gpus:
        sharding.append((domain, domain, domain))
    cp = _doubling(min(job.seq_len // 1024, 64, job.gpus))
    return Axes(
        tp=_doubling(reach),
        sp=(0, 1),
        cp=cp,
        cp_kind=CP_KINDS if len(cp) > 1 else CP_KINDS[:1],
        pp=_divisors(job.gpus, min(layers, 256)),
        vpp=tuple(v for v in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12) if v <= layers),
        ep=_divisors(math.gcd(*(f.experts for f in experts)), min(job.gpus, 256)) if experts else (1,),
        etp=_doubling(min(8, job.gpus)) if experts else (1,),
        mbs=_doubling(min(8, job.global_batch)),
        sharding=tuple(sharding),
        recompute=((), ("core_attn",), ("full",)),
    )


def _tokens(text: str) -> dict[str, Any]:
    found = parse_tokens(text)
    widths = [found.pop(name) for name in ("shard_weights", "shard_gradients", "shard_optimizer") if name in found]
    return found | ({"sharding": tuple(widths)} if widths else {})


def restrict(axes: Axes, fix: str = "", forbid: str = "") -> Axes:
    """The space with some axes fixed to one value and some values forbidden, both in the layout grammar."""
    chosen, banned = _tokens(fix), [_tokens(token) for token in forbid.split()]
    if "dp" in chosen or any("dp" in tokens for tokens in banned):
        raise BadLayout("dp follows from the accelerators and the other degrees; fix or forbid those instead")
    if block(chosen.get("recompute", ())):
        raise BadLayout("the search does not cover rc=full:N; estimate such a layout, or fix rc=full")
    axes = replace(axes, **{name: (value,) for name, value in chosen.items()})
    for tokens in banned:
        for name, value in tokens.items():
            left = tuple(v for v in getattr(axes, name) if v != value)
            if not left:
                raise BadLayout(f"forbidding {forbid!r} leaves no value for {name}")
            axes = replace(axes, **{name: left})
    return axes


def keys(job: Job, axes: Axes, rejected: Counter[str]) -> dict[str, Any]:
    """Columns of the axes that layer costs depend on, recomputation and offload aside: one row per combination that no
    rule about them alone rejects, cp_kind as its place in `CP_KINDS`. `rejected` counts whole layouts by rule."""
    values = {name: getattr(axes, name) for name in _KEY_AXES} | {"cp_kind": list(map(CP_KINDS.index, axes.cp_kind))}
    grid = np.meshgrid(*(np.array(each, dtype=np.int64) for each in values.values()), indexing="ij")
    columns = {name: column.ravel() for name, column in zip(values, grid, strict=True)}
    each = axes.size // math.prod(map(len, values.values()))
    limit = limits(job)
    for rule in KEY_RULES:
        bad = np.broadcast_to(rule.broken(job, limit, Layout(**columns)), columns["tp"].shape)
        if bad.any():
            rejected[rule.name] += int(bad.sum()) * each
            columns = {name: column[~bad] for name, column in columns.items()}
    return columns


def largest_dp(job: Job, ranks: Any, mbs: Any) -> Any:
    """The largest dp that fits `job.gpus` beside `ranks` others and divides the batch into micro-batches, else 0."""
    room, quotient = np.minimum(job.gpus // ranks, job.global_batch // mbs), job.global_batch // mbs
    best = np.zeros_like(room)
    for dp in _divisors(job.global_batch, job.gpus):
        best = np.where((dp <= room) & (quotient % dp == 0), dp, best)
    return np.where(job.global_batch % mbs == 0, best, 0)
