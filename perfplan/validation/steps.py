"""Whole-step constants fitted to measured rows: which constants are free, how they enter a job, what they then predict.

catalogs/measurements/step_constants.yaml declares the free constants. `fitted` fits them to some rows, `predicted`
prices any rows with the result; an accelerator or framework that had no row takes the mean of its relatives.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perfplan.calibration.step import Free, Knob, fit_steps
from perfplan.catalog.files import packaged_root, read_yaml
from perfplan.catalog.specs import Accelerator, Framework
from perfplan.errors import BadQuantity, PerfplanError
from perfplan.training.estimate import estimate
from perfplan.training.job import Job
from perfplan.training.layout import Layout
from perfplan.units import parse
from perfplan.validation.jobs import Case, CaseBuilder, Source
from perfplan.validation.rows import Row
from perfplan.validation.training import measured_step_time, vocabulary

__all__ = ["Constants", "Step", "current", "declared", "fitted", "owner_of", "predicted", "steps_of", "with_constants",
           "with_terms"]  # fmt: skip

Array = NDArray[np.float64]
Constants = Mapping[tuple[str, str, str], float]  # (accelerator | family | framework, owner, name) -> value [SI]
FILE = "step_constants.yaml"
FULL = 20  # rows of a slice (source, dense or MoE, method) that weigh 1 each; larger slices weigh no more in all
_UNREAD = {"id", "group", "epoch", "metric", "value", "also_memory_gib", "also_memory_gb_printed", "gold", "confidence",
           "note", "flop_convention"}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A measured step: its row, the job, the layout that fits, the time [s]; key: equal for rows priced alike."""

    row: Row
    job: Job
    layout: Layout
    time: float
    key: tuple[object, ...]

    @property
    def moe(self) -> bool:
        """Whether the model has routed experts."""
        return self.job.model.routed

    @property
    def slice(self) -> str:
        """Source, and dense or MoE."""
        return f"{self.row.source}/{'moe' if self.moe else 'dense'}"


def steps_of(rows: Iterable[Row], catalog: Source, refuse: Callable[[Row, str], None] = lambda row, why: None,
             chosen: Mapping[str, str] | None = None) -> list[Step]:  # fmt: skip
    """Every row with a step time that can be priced; `refuse` hears of the others; chosen: row id -> the layout that
    fits, where it is known already."""
    known = chosen or {}
    builder, found = CaseBuilder(catalog, vocabulary()), []
    for row in rows:
        try:
            if row.metric in ("oom", "memory_gib_per_accel"):
                continue
            case = builder.case(row)
            layout = Layout.parse(known[row.id]) if row.id in known else _first_that_fits(case)
            found.append(Step(row, _follows(case.job), layout, measured_step_time(case), _key(row, case.job, layout)))
        except PerfplanError as error:
            refuse(row, str(error))
    return found


def _first_that_fits(case: Case) -> Layout:
    fits = [layout for layout in case.layouts if estimate(case.job, layout).fits]
    return (fits or case.layouts[-1:])[0]


def _follows(job: Job) -> Job:
    """Overlap that the row leaves to the framework follows the framework when its constants move."""
    own = {axis: value for axis, value in job.overlap.items() if value != job.framework.overlap.get(axis)}
    return replace(job, overlap=own)


def _key(row: Row, job: Job, layout: Layout) -> tuple[object, ...]:
    cells = tuple(getattr(row, item.name) for item in fields(Row) if item.name not in _UNREAD)
    return (cells, job.framework.id, job.graphs, job.padded_experts, job.packed, job.recipe.id, str(layout))


# ---------------------------------------------------------------- declarations
def _si(value: object, where: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        return float(parse(value, "s"))
    raise BadQuantity(f"{where} holds {value!r} where a number or a time belongs")


@cache
def declared() -> tuple[Free, ...]:
    """The free constants of the declaration file."""
    data = read_yaml(packaged_root() / "measurements" / FILE)
    found = []
    for of in ("accelerator", "framework"):
        for name, entry in data[of].items():
            numbers = {key: _si(entry[key], f"{FILE}, {name}, {key}") for key in ("start", "least", "most", "doubt")}
            spread = float(entry.get("spread", 0.0))
            shared = "family" if of == "accelerator" and not spread else of
            found.append(Free(shared, name, **numbers, spread=spread, only=tuple(entry.get("only", ())),
                              scan=bool(entry.get("scan", False))))
    return tuple(found)


@cache
def _stand_in() -> Mapping[str, str]:
    return dict(read_yaml(packaged_root() / "measurements" / FILE)["stand_in"])


def owner_of(free: Free, job: Job) -> str | None:
    """Whose constant a job uses, None if the constant does not concern it."""
    chip, framework = job.cluster.accelerator, job.framework
    owner = {"accelerator": chip.id, "family": chip.family, "framework": framework.id}[free.of]
    relatives = framework.id if free.of == "framework" else chip.family
    if free.only and relatives not in free.only:
        return None
    if free.of == "framework" and not _framework_value(framework, free.name):
        return None
    return owner


def current(name: str, of: str, job: Job) -> float | None:
    """The catalog's value of a free constant for a job [SI], None if it has none."""
    if of == "framework":
        return _framework_value(job.framework, name)
    chip = job.cluster.accelerator
    head, *rest = name.split(".")
    if head == "sustained":
        return chip.sustained.get(rest[0].split("+")[0], chip.sustained.get("any", 1.0))
    if head == "ratio":
        clock = chip.sustained.get("any", 1.0)
        return chip.sustained.get(rest[0].split("+")[0], clock) / clock
    kind, formats, item = rest
    known = [k for dtype, k in chip.kernels.get(kind, {}).items() if formats == "*" or dtype in formats.split("+")]
    return float(getattr(known[0], item)) if known else None


def _started(free: Free, job: Job) -> Free:
    """The free constant with the catalog's value as its start."""
    value = current(free.name, free.of, job)
    return replace(free, start=min(max(value, free.least), free.most)) if value else free


def _framework_value(framework: Framework, name: str) -> float:
    head, _, axis = name.partition(".")
    value = getattr(framework, head)
    return float(value.get(axis, 0.0) if axis else value)


# ---------------------------------------------------------------- constants into jobs
def with_constants(chip: Accelerator, values: Mapping[str, float]) -> Accelerator:
    """The accelerator with constants by name: sustained.DTYPES, ratio.DTYPES (over sustained.any),
    kernels.KIND.DTYPES.FIELD; DTYPES joined by +, or *."""
    sustained, kernels = dict(chip.sustained), {kind: dict(table) for kind, table in chip.kernels.items()}
    for name, value in values.items():
        head, *rest = name.split(".")
        if head == "sustained":
            sustained |= dict.fromkeys(rest[0].split("+"), value)
            continue
        if head == "ratio":
            sustained |= dict.fromkeys(rest[0].split("+"), min(value * sustained.get("any", 1.0), 1.0))
            continue
        kind, formats, item = rest
        table = kernels.get(kind, {})
        for dtype in table:
            if formats == "*" or dtype in formats.split("+"):
                table[dtype] = replace(table[dtype], **{item: value})  # type: ignore[arg-type]
    return replace(chip, sustained=sustained, kernels=kernels)


def with_terms(framework: Framework, values: Mapping[str, float]) -> Framework:
    """The framework with constants by name: a field, or overlap.AXIS."""
    overlap = {name.partition(".")[2]: value for name, value in values.items() if "." in name}
    plain: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    return replace(framework, overlap={**framework.overlap, **overlap}, **plain)


class _Priced:
    """Prices steps under given constants, each chip and framework built once."""

    def __init__(self, constants: Constants) -> None:
        self.constants = constants
        self.chips: dict[str, Accelerator] = {}
        self.frameworks: dict[str, Framework] = {}

    def _mine(self, job: Job, framework: bool) -> dict[str, float]:
        names = {free.name: (free.of, owner, free.name) for free in declared()
                 if (free.of == "framework") == framework and (owner := owner_of(free, job)) is not None}  # fmt: skip
        return {name: self.constants[key] for name, key in names.items() if key in self.constants}

    def time(self, step: Step) -> float:
        job, chip, framework = step.job, step.job.cluster.accelerator, step.job.framework
        if chip.id not in self.chips:
            self.chips[chip.id] = with_constants(chip, self._mine(job, framework=False))
        if framework.id not in self.frameworks:
            self.frameworks[framework.id] = with_terms(framework, self._mine(job, framework=True))
        cluster = replace(job.cluster, accelerator=self.chips[chip.id])
        job = replace(job, cluster=cluster, framework=self.frameworks[framework.id])
        return float(estimate(job, step.layout).step_time)


def predicted(steps: Sequence[Step], constants: Constants) -> Array:
    """Step times under the constants [s]; owners without constants of their own get their relatives'."""
    priced, known = _Priced(_completed(steps, constants)), {}
    for step in steps:
        if step.key not in known:
            known[step.key] = priced.time(step)
    return np.array([known[step.key] for step in steps])


def _completed(steps: Sequence[Step], constants: Constants) -> Constants:
    """The constants, and for owners without them the geometric mean of their relatives, else the start."""
    found = dict(constants)
    families: dict[str, str] = {}
    for step in steps:
        families[step.job.cluster.accelerator.id] = step.job.cluster.accelerator.family
    for free in declared():
        for step in steps:
            owner = owner_of(free, step.job)
            if owner is not None and (free.of, owner, free.name) not in found:
                found[free.of, owner, free.name] = _relatives(free, owner, constants, families.get(owner, ""))
    return found


def _relatives(free: Free, owner: str, constants: Constants, family: str) -> float:
    same = {who: value for (of, who, name), value in constants.items() if (of, name) == (free.of, free.name)}
    if free.of == "framework":
        return same.get(_stand_in().get(owner, ""), free.start)
    kin = constants.get(("relatives", family, free.name))
    if kin is not None:
        return kin
    return float(np.exp(np.mean(np.log(list(same.values()))))) if same else free.start


# ---------------------------------------------------------------- the fit
def _weights(steps: Sequence[Step]) -> Array:
    labels = [(step.slice, step.row.method) for step in steps]
    count = Counter(labels)
    return np.array([min(1.0, FULL / count[label]) for label in labels])


def fitted(steps: Sequence[Step], rounds: int = 5, *, from_catalog: bool = False) -> dict[tuple[str, str, str], float]:
    """Constants that fit the steps; under ("relatives", family, name) the mean of a family's accelerators.

    from_catalog: what no row decides stays as the catalog has it; else as the declaration's `start`, so that nothing
    fitted before shows through.
    """
    unique: dict[tuple[object, ...], Step] = {}
    places: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, step in enumerate(steps):
        unique.setdefault(step.key, step)
        places[step.key].append(i)
    alone, weights = list(unique.values()), _weights(steps)
    measured = np.array([float(np.exp(np.mean([np.log(steps[i].time) for i in places[s.key]]))) for s in alone])
    shares = np.array([weights[places[s.key]].sum() for s in alone])
    knobs = _knobs(alone, from_catalog)

    def price(x: Array, rows: Array) -> Array:
        priced = _Priced({(k.free.of, k.owner, k.free.name): float(v) for k, v in zip(knobs, x, strict=True)})
        return np.log([priced.time(alone[int(i)]) for i in rows])

    values = fit_steps(price, measured, shares, knobs, rounds)
    found = {(k.free.of, k.owner, k.free.name): float(v) for k, v in zip(knobs, values, strict=True)}
    return found | _means(knobs, values)


def _knobs(steps: Sequence[Step], from_catalog: bool) -> list[Knob]:
    rows: dict[tuple[Free, str, str], list[int]] = defaultdict(list)
    for i, step in enumerate(steps):
        for free in declared():
            owner = owner_of(free, step.job)
            if owner is not None:
                family = step.job.cluster.accelerator.family if free.of != "framework" else ""
                rows[_started(free, step.job) if from_catalog else free, owner, family].append(i)
    return [Knob(*key, np.array(mine, dtype=float)) for key, mine in rows.items()]


def _means(knobs: Sequence[Knob], values: Array) -> dict[tuple[str, str, str], float]:
    groups: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for knob, value in zip(knobs, values, strict=True):
        if knob.free.of == "accelerator":
            groups["relatives", knob.relatives, knob.free.name].append(float(np.log(value)))
    return {key: float(np.exp(np.mean(logs))) for key, logs in groups.items()}
