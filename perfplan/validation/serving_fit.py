"""Constants of TPOT fitted on measured runs, release around engine around what engines share, and what they are worth
on a model that took no part.

All constants are found at once: each release is drawn towards its engine and each engine towards the value shared by
all, so that a release measured on one model alone, or on none, has something to learn from.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import least_squares

from perfplan.catalog import Catalog
from perfplan.catalog.specs import Engine
from perfplan.errors import PerfplanError
from perfplan.serving import estimate as price
from perfplan.serving.job import ServingJob
from perfplan.serving.layout import ServingLayout
from perfplan.validation.first_token_fit import fit_first_tokens
from perfplan.validation.kernels import shipped
from perfplan.validation.score import Outcome
from perfplan.validation.serving import LATENCY_FILES, Pricer, ServingValidation, listed, outcomes, with_choices
from perfplan.validation.serving_rows import METRICS, Run, read_runs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["CONSTANTS", "Columns", "Constant", "columns_of", "fit_engines", "left_out_models", "of_release",
           "with_constants"]

Key = tuple[str, ...]  # (engine, release), (engine,) or () for all
_Loop = tuple[ServingJob, ServingLayout, tuple[int, int], float]


@dataclass(frozen=True)
class Constant:
    """Where a fit starts and how far it goes, and the weight of a factor of e, against log residuals: of the shared
    value away from the start, of an engine away from the shared value, of a release away from its engine."""

    start: float
    low: float
    high: float
    shared: float
    engine: float
    release: float


CONSTANTS = {
    "step": Constant(5e-4, 5e-5, 1e-2, 3, 5, 5),
    "sequence": Constant(6e-6, 1e-7, 1e-4, 2, 1, 1),
    "overhead": Constant(0.8, 0.1, 3.0, 2, 1, 3),
    "launch": Constant(6e-4, 1e-6, 2e-3, 1, 1, 3),
    "compute": Constant(0.95, 0.5, 1.5, 4, 3, 3),
    "quantised": Constant(0.85, 0.4, 1.3, 2, 2, 2),
    "cached": Constant(1.0, 0.3, 1.3, 2, 1, 2),
    "together": Constant(0.15, 0.01, 1.0, 10, 10, 0.1),
    "gather": Constant(1.0, 0.3, 20.0, 0.5, 3, 30),
    "joined": Constant(700.0, 50.0, 4000.0, 3, 30, 30),
    "evenness": Constant(0.5, 0.05, 50.0, 0.1, 30, 30),
    "tables": Constant(0.5, 0.01, 2.0, 0.3, 0.3, 0.3),
    "routed": Constant(1.2e-5, 1e-7, 3e-4, 2, 30, 30),
}
EAGER = 5e-4  # host time of a step with prompts beyond that of a decode step [s]
WAVES = 1.0  # `together` of an engine that computes prompts before it decodes: a loop of equal requests stays in step
SCALE = 0.15  # log residual from which a row counts less
CROWD = 20  # rows of one model, chip and release that count in full
ROUNDS = 7


@dataclass(frozen=True, eq=False)
class Columns:
    """Runs that differ in layout, lengths and concurrency alone; one column each."""

    key: Key
    job: ServingJob
    layout: ServingLayout
    isl: Array
    osl: Array
    concurrency: Array
    held: Array
    measured: Array
    weight: float

    def predicted(self, values: Mapping[str, Any]) -> Array:
        """TPOT under the constants [ms]; with columns of shape (n, 1) for constants, one row for each of the n."""
        job = replace(self.job, engine=with_constants(self.job.engine, values))
        found: Array = 1e3 * price.steady(job, self.layout, self.isl, self.osl, self.concurrency, self.held).tpot
        return found

    def residuals(self, values: Mapping[str, Any]) -> Array:
        """Log ratios of prediction and measurement, large ones damped."""
        log = np.log(self.predicted(values) / self.measured) / SCALE
        damped: Array = self.weight * SCALE * np.sign(log) * np.sqrt(2 * (np.sqrt(1 + log**2) - 1))
        return damped


def with_constants(engine: Engine, values: Mapping[str, Any]) -> Engine:
    """The engine with constants of TPOT, and those that follow from them."""
    changed: dict[str, Any] = {"eager": values["overhead"], "prompt": values["step"] + EAGER, **values}
    return replace(engine, **changed)


def columns_of(runs: Sequence[Run], pricer: Pricer) -> list[Columns]:
    """The TPOT runs of closed loops that can be priced, in columns."""
    parts: dict[Key, list[tuple[Run, _Loop]]] = defaultdict(list)
    for run in runs:
        if METRICS[run.metric] != "tpot" or run.batch_kind != "concurrency" or not run.batch or listed(run):
            continue
        try:
            loop = pricer.loop(run)
        except PerfplanError:
            continue
        job, layout, (_, osl), _ = loop
        memory = f"{job.engine.memory_basis} {job.engine.memory_fraction}"  # tighter where a run would not fit
        if osl > 1:
            parts[run.engine, run.release, run.model, run.hardware, job.weights.id, job.kv, memory,
                  str(layout.ep)].append((run, loop))
    crowd: Counter[Key] = Counter()
    for key, rows in parts.items():
        crowd[key[:4]] += len(rows)
    return [_stacked(key, rows, crowd[key[:4]]) for key, rows in parts.items()]


def _stacked(key: Key, rows: Sequence[tuple[Run, _Loop]], crowd: int) -> Columns:
    def column(values: Iterable[Any]) -> Array:
        return np.array(list(values), dtype=float)

    degrees: dict[str, Any] = {
        name: column(getattr(layout, name) for _, (_, layout, *_) in rows) for name in ("tp", "pp", "adp", "dp")
    }
    isl, osl = (column(lengths[at] for _, (*_, lengths, _) in rows) for at in (0, 1))
    job, layout, *_ = rows[0][1]
    return Columns(key[:2], job, ServingLayout(ep=layout.ep, **degrees), isl, osl, column(run.batch for run, _ in rows),
                   column(held for _, (*_, held) in rows), column(run.value for run, _ in rows),
                   min(1.0, (CROWD / crowd) ** 0.5))


def _tree(columns: Sequence[Columns]) -> list[Key]:
    """Releases, then engines, then what they share."""
    releases = sorted({one.key for one in columns})
    return [*releases, *sorted({key[:1] for key in releases}), ()]


def _pulls(keys: Sequence[Key], starts: Array) -> tuple[Array, Array]:
    """(matrix, target) of what draws releases to engines, these to the shared values, those to their starts."""
    count, places = len(CONSTANTS), {key: i for i, key in enumerate(keys)}
    rows, target = [], []
    for key in keys:
        for at, (name, constant) in enumerate(CONSTANTS.items()):
            weight = (constant.shared, constant.engine, constant.release)[len(key)]
            row = np.zeros(len(keys) * count)
            row[places[key] * count + at] = weight
            fixed = not key or (name == "together")
            if not fixed:
                row[places[key[:-1]] * count + at] = -weight
            rows.append(row)
            target.append(weight * starts[places[key], at] if fixed else 0.0)
    return np.array(rows), np.array(target)


def _starts(keys: Sequence[Key], columns: Sequence[Columns]) -> Array:
    table = np.log([[one.start for one in CONSTANTS.values()] for _ in keys])
    waves = {one.key[:1] for one in columns if not one.job.engine.mixed}
    for at, key in enumerate(keys):
        if key[:1] in waves:
            table[at, list(CONSTANTS).index("together")] = np.log(WAVES)
    return np.asarray(table, dtype=float)


def fit_engines(columns: Sequence[Columns]) -> dict[Key, dict[str, float]]:
    """The constants of releases, engines and all together under which runs are predicted best."""
    keys, count = _tree(columns), len(CONSTANTS)
    places = {key: i for i, key in enumerate(keys)}
    low, high = (np.log([getattr(one, end) for one in CONSTANTS.values()]) for end in ("low", "high"))
    starts = _starts(keys, columns)
    pulls, target = _pulls(keys, starts)

    def data(table: Array) -> list[Array]:
        return [one.residuals(dict(zip(CONSTANTS, np.exp(table[places[one.key]]), strict=True))) for one in columns]

    def residuals(x: Array) -> Array:
        return np.concatenate([*data(x.reshape(-1, count)), pulls @ x - target])

    def slopes(x: Array) -> Array:  # runs depend on the constants of their own release alone
        table = x.reshape(-1, count)
        widths = np.where(table > high - 0.03, -0.02, 0.02)
        found = np.zeros((sum(len(one.measured) for one in columns), *table.shape))
        end = 0
        for one in columns:
            place = places[one.key]
            moved = table[place] + np.vstack([np.zeros(count), np.diag(widths[place])])
            rows = one.residuals(dict(zip(CONSTANTS, np.exp(moved.T)[..., None], strict=True)))
            start, end = end, end + len(one.measured)
            found[start:end, place] = ((rows[1:] - rows[0]) / widths[place][:, None]).T
        return np.concatenate([found.reshape(len(found), -1), pulls])

    bounds = (np.tile(low, len(keys)), np.tile(high, len(keys)))
    start = np.clip(starts.ravel(), bounds[0] + 1e-9, bounds[1] - 1e-9)
    best = least_squares(residuals, start, jac=slopes, bounds=bounds, max_nfev=ROUNDS).x.reshape(-1, count)
    return {key: dict(zip(CONSTANTS, map(float, np.exp(best[place])), strict=True)) for key, place in places.items()}


def of_release(fitted: Mapping[Key, dict[str, float]], engine: Engine, name: str, release: str) -> dict[str, float]:
    """The constants of a release, else of its engine, else of all engines."""
    for key in ((name, release), (name,), ()):
        if key in fitted:
            own = {} if key or engine.mixed else {"together": WAVES}
            return fitted[key] | own
    return {key: one.start for key, one in CONSTANTS.items()}


def left_out_models(files: Sequence[str | Path] = (), *, catalog: Catalog | None = None) -> ServingValidation:
    """Every figure predicted by constants of its engine release that were fitted without the figure's model."""
    source = catalog or Catalog()
    paths = [Path(name) for name in files] or list(shipped(LATENCY_FILES))
    runs = [run for path in paths for run in read_runs(path)]
    plain = Pricer(source)
    found: list[Outcome] = []
    order: list[Run] = []
    for model in sorted({run.model for run in runs}):
        others = [run for run in runs if run.model != model]
        columns = columns_of(others, plain)
        fitted = fit_engines(columns) if columns else {}
        parts: dict[Key, list[Run]] = defaultdict(list)
        for run in runs:
            if run.model == model:
                parts[run.engine, run.release].append(run)
        for (engine, release), members in parts.items():
            change = _Change(fitted, engine, release)
            peers = [run for run in others if run.engine == engine]
            first = fit_first_tokens(peers, release, Pricer(source, change))
            order += members
            found += outcomes(members, Pricer(source, replace(change, first=first)))
    return with_choices(order, found, source)


@dataclass(frozen=True, eq=False)
class _Change:
    """Puts fitted constants into an engine; first: those of its TTFT."""

    fitted: Mapping[Key, dict[str, float]]
    name: str
    release: str
    first: Mapping[str, float] | None = None

    def __call__(self, engine: Engine) -> Engine:
        values = of_release(self.fitted, engine, self.name, self.release)
        first: dict[str, Any] = dict(self.first or {})
        made = replace(with_constants(engine, values), **first)
        if made.mixed or (self.name, self.release) in self.fitted:
            return made
        return replace(made, burst=made.together)  # no run says otherwise: who is in step also comes in one burst
