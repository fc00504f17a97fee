"""Constants of an engine release fitted on measured runs, and what they are worth on a model that took no part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from perfplan.catalog import Catalog
from perfplan.catalog.specs import Engine
from perfplan.errors import PerfplanError
from perfplan.validation.first_token_fit import fit_first_tokens
from perfplan.validation.kernels import shipped
from perfplan.validation.score import Outcome
from perfplan.validation.serving import LATENCY_FILES, Pricer, ServingValidation, listed, outcomes, with_choices
from perfplan.validation.serving_rows import METRICS, Run, read_runs

__all__ = ["CONSTANTS", "fit_engine", "left_out_models"]

CONSTANTS = {
    "step": (5e-4, 1e-5, 3e-2), "prompt": (2e-3, 1e-5, 8e-2), "sequence": (5e-6, 1e-8, 1e-3),
    "overhead": (0.6, 0.05, 3.0),
    "eager": (0.8, 0.3, 3.0), "compute": (1.0, 0.5, 1.1),
    "routed": (1.2e-5, 1e-6, 5e-4), "idle_experts": (0.05, 1e-3, 1.0),
}  # constant -> where a fit starts and how far it goes
PRIOR = 0.03  # weight of a factor of e away from the start, against log residuals
SCALE = 0.15  # log residual from which a row counts less
MOST = 90  # figures of one fit: more of one release say the same
LEAST = 20  # figures of a release that a fit of its own needs
BAD = 3.0  # log residual of a row that has no finite prediction


def _thin(runs: Sequence[Run]) -> list[Run]:
    """At most MOST runs with a TPOT, evenly over the file."""
    usable = [run for run in runs if METRICS[run.metric] == "tpot" and not listed(run)]
    step = max(len(usable) / MOST, 1.0)
    return [usable[int(i * step)] for i in range(int(len(usable) / step))]


def _residual(run: Run, pricer: Pricer) -> float:
    try:
        value = float(np.log(pricer.predict(run) / run.value))
    except PerfplanError:
        return 0.0
    return value if np.isfinite(value) else BAD


def fit_engine(runs: Sequence[Run], catalog: Catalog) -> dict[str, float]:
    """The constants under which an engine's runs are predicted best: least squares of log ratios, soft beyond SCALE."""
    names = list(CONSTANTS)
    start, low, high = (np.log([CONSTANTS[name][i] for name in names]) for i in range(3))
    rows = _thin(runs)

    def residuals(x: Any) -> Any:
        values = {name: float(np.exp(v)) for name, v in zip(names, x, strict=True)}
        pricer = Pricer(catalog, lambda engine: _with(engine, values))
        pull = PRIOR * (x - start) * np.sqrt(len(rows)) * 0.3
        return np.concatenate([[_residual(run, pricer) for run in rows], pull])

    found = least_squares(residuals, start, bounds=(low, high), loss="soft_l1", f_scale=SCALE, diff_step=0.02,
                          max_nfev=8)
    return {name: float(np.exp(v)) for name, v in zip(names, found.x, strict=True)}


def _with(engine: Engine, values: Mapping[str, float]) -> Engine:
    plain: dict[str, Any] = {name: value for name, value in values.items() if name != "idle_experts"}
    if "idle_experts" in values:
        plain["idle_experts"] = {"fp8-block": values["idle_experts"]}
    return replace(engine, **({"burst": 0.12} | plain))


def _others(runs: Sequence[Run], engine: str, release: str, model: str) -> list[Run]:
    """Runs of other models by the release; by any release of the engine where there are fewer than LEAST."""
    same = [run for run in runs if run.engine == engine and run.model != model]
    released = [run for run in same if run.release == release]
    return released if len(_thin(released)) >= LEAST else same


def left_out_models(files: Sequence[str | Path] = (), *, catalog: Catalog | None = None) -> ServingValidation:
    """Every figure predicted by constants of its engine release that were fitted without the figure's model."""
    source = catalog or Catalog()
    paths = [Path(name) for name in files] or list(shipped(LATENCY_FILES))
    runs = [run for path in paths for run in read_runs(path)]
    parts: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for run in runs:
        parts[run.engine, run.release, run.model].append(run)
    found: list[Outcome] = []
    order: list[Run] = []
    known: dict[tuple[Run, ...], dict[str, float]] = {}
    for (engine, release, model), members in parts.items():
        others = tuple(_thin(_others(runs, engine, release, model)))
        if others not in known:
            known[others] = fit_engine(others, source) if others else {n: v[0] for n, v in CONSTANTS.items()}
        peers = [run for run in runs if run.engine == engine and run.model != model]
        pricer = Pricer(source, lambda one, values=known[others]: _with(one, values))  # type: ignore[misc]
        values = known[others] | fit_first_tokens(peers, release, pricer)
        order += members
        found += outcomes(members, Pricer(source, lambda one, values=values: _with(one, values)))  # type: ignore[misc]
    return with_choices(order, found)
