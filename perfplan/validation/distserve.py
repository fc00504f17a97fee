"""DistServe's placement search again, on its own fitted laws: each split of a node into prefill and decode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from perfplan.formulas.serving_bounds import distserve_decode_time, distserve_kv_tokens, distserve_prefill_time
from perfplan.serving.queues import Service, attained
from perfplan.units import parse

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Placement", "figure", "instances", "placements"]

STAGE = 1e-3  # s that the simulator adds per prefill stage
_POINTS = 400  # of the exponential distribution of prompts
_MOST = 40.0  # requests/s, beyond any instance here


@dataclass(frozen=True)
class Placement:
    """One split. rate: requests per second and accelerator that meet both limits [1/s]."""

    prefill: tuple[int, int]
    decode: tuple[int, int]
    rate: float

    @property
    def accelerators(self) -> int:
        """Accelerators of one prefill and one decode instance."""
        return self.prefill[0] * self.prefill[1] + self.decode[0] * self.decode[1]


def instances(heads: int, layers: int, most: int) -> Iterator[tuple[int, int]]:
    """Every (tp, pp) of at most `most` accelerators: a power of two that divides the heads, stages that divide the
    layers."""
    tp = 1
    while tp <= most:
        yield from ((tp, pp) for pp in range(1, most // tp + 1) if heads % tp == 0 and layers % pp == 0)
        tp *= 2


def pairs(heads: int, layers: int, gpus: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Every prefill and decode instance that fit on `gpus` accelerators together."""
    found = list(instances(heads, layers, gpus))
    return [(p, d) for p in found for d in found if p[0] * p[1] + d[0] * d[1] <= gpus]


def _lengths(mean: float) -> np.ndarray:
    import numpy

    drawn: np.ndarray = -numpy.log(1 - (numpy.arange(_POINTS) + 0.5) / _POINTS) * mean
    return drawn


def _coefficients(table: Mapping[Any, Any], tp: int) -> tuple[float, float, float]:
    first, second, third = (parse(value, "s") for value in table[str(tp)])
    return first, second, third


def _prefill_rate(inputs: Mapping[str, Any], tp: int, pp: int) -> float:
    """Highest rate at which the share of prompts wanted meets the limit of the first token [1/s]."""
    import numpy

    tokens = _lengths(float(inputs["isl"]))
    a, b, c = _coefficients(inputs["prefill"], tp)
    whole = distserve_prefill_time(tokens, tokens**2, a, b, c, 1) + STAGE * pp
    stage = distserve_prefill_time(tokens, tokens**2, a, b, c, pp) + STAGE
    service = Service(whole, numpy.full(len(tokens), 1 / len(tokens)), stage)
    rates = numpy.arange(0.01, _MOST, 0.01)
    met = attained(service, rates, parse(inputs["ttft"], "s")) >= float(inputs["share"])
    return float(rates[met].max()) if met.any() else 0.0


def _decode_rate(inputs: Mapping[str, Any], tp: int, pp: int) -> float:
    """Highest rate at which a decode step meets its limit and the cache holds the batch [1/s]."""
    import numpy

    isl, osl = float(inputs["isl"]), float(inputs["osl"])
    a, b, c = _coefficients(inputs["decode"], tp)
    batch, context = numpy.arange(1, 95), isl + osl / 2  # the law holds below 95 sequences
    usable = parse(inputs["usable"], "B")
    room = distserve_kv_tokens(tp * pp, usable, inputs["layers"], inputs["hidden"], 2.0, 16)
    stage = distserve_decode_time(batch * context, batch, a, b, c, pp)
    kept = (stage * pp <= parse(inputs["tpot"], "s")) & (batch * context <= room)
    return float((batch * pp / (stage * pp * osl))[kept].max()) if kept.any() else 0.0


def placements(inputs: Mapping[str, Any]) -> list[Placement]:
    """Every split of the node, the highest rate per accelerator first."""
    found = []
    for prefill, decode in pairs(inputs["heads"], inputs["layers"], inputs["gpus"]):
        rate = min(_prefill_rate(inputs, *prefill), _decode_rate(inputs, *decode))
        used = prefill[0] * prefill[1] + decode[0] * decode[1]
        found.append(Placement(prefill, decode, rate / used))
    return sorted(found, key=lambda one: (-one.rate, one.accelerators, one.prefill, one.decode))


def figure(inputs: Mapping[str, Any]) -> float:
    """One figure of the search: how many `configurations`, or of the best its `rate`, `prefill_tp`, `decode_pp` ..."""
    wanted = str(inputs["figure"])
    if wanted == "configurations":
        return float(len(pairs(inputs["heads"], inputs["layers"], inputs["gpus"])))
    best = placements(inputs)[0]
    pool, _, degree = wanted.partition("_")
    return best.rate if wanted == "rate" else float(getattr(best, pool)[("tp", "pp").index(degree)])
