"""What choosing by the prediction costs: the tensor-parallel width of a throughput test, a run under a TPOT ceiling.

Regret is the best measured rate among what was measured over that of the one which the prediction puts first, minus 1.
Under a ceiling a run is chosen as `plan serve` does: its predicted TPOT has to stay below it by the planner's margin.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from perfplan.validation.score import Outcome
from perfplan.validation.serving_rows import Run

__all__ = ["CEILINGS", "Choice", "ceiling_choice", "width_choice"]

CEILINGS = (20.0, 30.0, 50.0, 100.0)  # ms per token
WIDTHS = 3  # fewest widths that make a choice
Priced = Sequence[tuple[Run, Outcome]]


@dataclass(frozen=True)
class Choice:
    """groups: choices made; mean_regret, max_regret: of them [1]; broken: share that breaks its ceiling [1]; refused:
    choices not made, as no run was predicted below a ceiling that some run kept."""

    name: str
    groups: int
    mean_regret: float | None
    max_regret: float | None
    broken: float | None = None
    refused: int | None = None


def _summary(name: str, regrets: Sequence[float], broken: Sequence[bool] = (), refused: int | None = None) -> Choice:
    if not regrets:
        return Choice(name, 0, None, None)
    return Choice(name, len(regrets), fmean(regrets), max(regrets), fmean(broken) if broken else None, refused)


def width_choice(priced: Priced) -> Choice:
    """Tensor-parallel width by tokens per second and accelerator, of one model, chip, format and pair of lengths."""
    groups: dict[Hashable, list[tuple[int, float, float]]] = defaultdict(list)
    for run, one in priced:
        if run.metric == "output_tokens_per_s_total" and one.predicted and run.tp and run.accelerators:
            job = (run.group, run.model, run.hardware, run.weights, run.isl, run.osl)
            key = (*job, run.batch_kind, run.batch, run.qps)
            groups[key].append((run.tp, one.predicted / run.accelerators, run.value / run.accelerators))
    regrets = []
    for members in groups.values():
        if len({tp for tp, *_ in members}) >= WIDTHS:
            chosen = max(members, key=lambda member: member[1])
            regrets.append(max(value for *_, value in members) / chosen[2] - 1)
    return _summary("tensor-parallel width", regrets)


def _rate(run: Run, ttft: float, tpot: float) -> float:
    """Tokens per second of a closed loop from its latencies in ms."""
    osl, batch = run.osl or 1, run.batch or 1
    return 1e3 * batch * osl / (ttft + (osl - 1) * tpot)


def _paired(priced: Priced) -> Mapping[tuple[Any, ...], list[tuple[float, float, float, float]]]:
    """Group (model first) -> (predicted TPOT, predicted rate, measured TPOT, measured rate) of its runs that have both
    latencies."""
    rows: dict[str, dict[str, tuple[Run, Outcome]]] = defaultdict(dict)
    for run, one in priced:
        if run.metric in ("ttft_ms", "tpot_ms") and one.predicted:
            rows[f"{run.group} {run.id}"][run.metric] = (run, one)
    groups: dict[tuple[Any, ...], list[tuple[float, float, float, float]]] = defaultdict(list)
    for both in rows.values():
        if len(both) == 2:
            (run, first), (_, each) = both["ttft_ms"], both["tpot_ms"]
            ttft, tpot = first.predicted or 0.0, each.predicted or 0.0
            key = (run.model, run.hardware, run.engine, run.release, run.weights, run.isl, run.osl)
            groups[key].append((tpot, _rate(run, ttft, tpot), each.measured, _rate(run, first.measured, each.measured)))
    return groups


def ceiling_choice(priced: Priced, margin: Callable[[str], float]) -> Choice:
    """The run with the most tokens per second whose TPOT stays below a ceiling, of one job in several layouts. margin:
    share by which predictions for a model have to stay below it [1]."""
    regrets, broken, refused = [], [], 0
    for (model, *_), members in _paired(priced).items():
        less = margin(model)
        for ceiling in CEILINGS:
            allowed = [m for m in members if m[0] * (1 + less) <= ceiling]
            possible = [m[3] for m in members if m[2] <= ceiling]
            if len(members) < 2 or not possible:
                continue
            if allowed:
                chosen = max(allowed, key=lambda member: member[1])
                regrets.append(max(max(possible) / chosen[3] - 1, 0.0))
                broken.append(chosen[2] > ceiling)
            refused += not allowed
    return _summary("most tokens/s under a TPOT ceiling of 20, 30, 50, 100 ms", regrets, broken, refused)
