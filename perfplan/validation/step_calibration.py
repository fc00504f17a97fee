"""`calibrate step`: constants of one accelerator and of its training software from measured steps, as catalog entries.

Which constants may move is data (catalogs/measurements/step_constants.yaml); what no row decides stays as the catalog
has it and is not written. A row faster than the dense peak is refused. The error left out is that of rows whose model
took no part in the fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from perfplan.calibration.found import Rejected
from perfplan.catalog import Catalog
from perfplan.catalog.specs import Accelerator, Kernel
from perfplan.errors import OutOfRange, UnknownName
from perfplan.training.estimate import estimate, model_flops
from perfplan.validation.holdouts import model_name
from perfplan.validation.rows import Row
from perfplan.validation.steps import Step, current, declared, fitted, predicted, steps_of, with_constants, with_terms

__all__ = ["Moved", "StepCalibration", "calibrate_steps"]

FEWEST = 5  # rows
FOLDS = 5  # parts into which the models are dealt for the error left out
_MOVED = 0.005  # change of a constant's ln below which the rows did not decide it
_TIMES = ("overhead", "launch", "host_gap", "step_gap", "skew", "sync", "group_launch", "moe_launch")


@dataclass(frozen=True)
class Moved:
    """A constant that the rows decided. owner: accelerator or framework; before, value: SI."""

    owner: str
    name: str
    before: float | None
    value: float

    @property
    def is_time(self) -> bool:
        """Whether it is a time [s]."""
        return self.name.rsplit(".", 1)[-1] in _TIMES


@dataclass(frozen=True)
class StepCalibration:
    """What whole steps say: constants that moved; rows used; mean absolute error before, in-fit, and with models left
    out (None: one model) [1]; quantiles 10, 50, 90 % of ln(measured / predicted) [1]; rows refused; entries of the
    catalog: path below its folder -> YAML."""

    moved: tuple[Moved, ...]
    rows: int
    before: float
    mape: float
    left_out: float | None
    quantiles: tuple[float, float, float]
    rejected: tuple[Rejected, ...]
    entries: Mapping[str, str]


def _is(catalog: Catalog, hardware: str, chip: str) -> bool:
    try:
        return bool(hardware) and catalog.accelerator(hardware).id == chip
    except UnknownName:
        return False


def _beats(step: Step) -> str:
    """Why a step is refused: it beats the dense peak; empty if not."""
    job = step.job
    peak = job.data_sheet_peak(job.recipe.gemm["forward"])
    share = model_flops(job) / (step.time * int(step.layout.world) * peak)
    return f"it beats the dense peak: {share:.0%} of it" if share > 1 else ""


def _steps(rows: Sequence[Row], catalog: Catalog, chip: str) -> tuple[list[Step], list[Rejected]]:
    bad: list[Rejected] = []
    mine = [row for row in rows if _is(catalog, row.hardware_id, chip)]
    steps = steps_of(mine, catalog, lambda row, why: bad.append(Rejected(row.id, why)))
    doubts = {step.row.id: _beats(step) for step in steps}
    bad += [Rejected(name, why) for name, why in doubts.items() if why]
    good = [step for step in steps if not doubts[step.row.id]]
    if len(good) < FEWEST:
        first = f"; {bad[0].row}: {bad[0].reason}" if bad else ""
        raise OutOfRange(f"whole steps of {chip} cannot be fitted: {len(mine)} rows name it, {len(good)} can be used,"
                         f" but {FEWEST} are needed{first}")  # fmt: skip
    return good, bad


def _errors(steps: Sequence[Step], times: Any) -> Any:
    return np.abs(times / np.array([step.time for step in steps]) - 1)


def _left_out(steps: Sequence[Step]) -> float | None:
    models = sorted({model_name(step) for step in steps})
    if len(models) < 2:
        return None
    errors = []
    for fold in range(min(FOLDS, len(models))):
        out = set(models[fold::FOLDS])
        held = [step for step in steps if model_name(step) in out]
        rest = [step for step in steps if model_name(step) not in out]
        errors += list(_errors(held, predicted(held, fitted(rest, from_catalog=True))))
    return float(np.mean(errors))


def _moved(steps: Sequence[Step], constants: Mapping[tuple[str, str, str], float]) -> list[Moved]:
    found: dict[tuple[str, str], Moved] = {}
    for step in steps:
        chip, framework = step.job.cluster.accelerator, step.job.framework
        for free in declared():
            owner = framework.id if free.of == "framework" else chip.id
            value = constants.get((free.of, chip.family if free.of == "family" else owner, free.name))
            before = current(free.name, free.of, step.job)
            if value is not None and (before is None or abs(np.log(value / before)) > _MOVED):
                found[owner, free.name] = Moved(owner, free.name, before, float(f"{value:.4g}"))
    return list(found.values())


def calibrate_steps(rows: Sequence[Row], catalog: Catalog, accelerator: str, files: str, date: str) -> StepCalibration:
    """Fit the free constants to the rows of one accelerator; OutOfRange if too few rows can be used."""
    chip = catalog.accelerator(accelerator)
    steps, rejected = _steps(rows, catalog, chip.id)
    constants = fitted(steps, from_catalog=True)
    times = predicted(steps, constants)
    logs = np.log(np.array([step.time for step in steps]) / times)
    low, middle, high = (float(q) for q in np.quantile(logs, (0.1, 0.5, 0.9)))
    mape, held = float(np.mean(_errors(steps, times))), _left_out(steps)
    shipped = np.array([float(estimate(step.job, step.layout).step_time) for step in steps])
    before = float(np.mean(_errors(steps, shipped)))
    moved = _moved(steps, constants)
    says = (f"perfplan calibrate step, {files}, {date}: {len(steps)} rows, mean abs. error {mape:.1%} in-fit"
            + (f", {held:.1%} with models left out" if held is not None else "")
            + f"; log residuals at 10/50/90 %: {low:+.3f}/{middle:+.3f}/{high:+.3f}")  # fmt: skip
    entries = _entries(catalog, steps, moved, says)
    return StepCalibration(tuple(moved), len(steps), before, mape, held, (low, middle, high), tuple(rejected), entries)


# ---------------------------------------------------------------- entries
def _entries(catalog: Catalog, steps: Sequence[Step], moved: Sequence[Moved], says: str) -> dict[str, str]:
    chip = steps[0].job.cluster.accelerator
    frameworks = {step.job.framework.id: step.job.framework for step in steps}
    found = {}
    for owner in dict.fromkeys(one.owner for one in moved):
        mine = {one.name: one for one in moved if one.owner == owner}
        kind = "framework" if owner in frameworks else "accelerator"
        data = deepcopy(dict(catalog.raw(kind, owner)[0]))
        if kind == "framework":
            _framework(data, mine, with_terms(frameworks[owner], {}).overlap, says)
        else:
            _accelerator(data, with_constants(chip, {name: one.value for name, one in mine.items()}), mine, says)
        text = yaml.safe_dump({"id": owner} | data, sort_keys=False, allow_unicode=True, width=120)
        found[f"{kind}s/{owner}.yaml"] = text
    return found


def _written(one: Moved) -> str | float:
    return f"{one.value * 1e6:.4g} us" if one.is_time else one.value


def _framework(data: dict[str, Any], mine: Mapping[str, Moved], overlap: Mapping[str, float], says: str) -> None:
    for name, one in mine.items():
        head, _, axis = name.partition(".")
        data[head] = dict(data.get(head) or overlap) | {axis: one.value} if axis else _written(one)
    data["source"] = f"{', '.join(mine)}: {says}; the rest as before: {data.get('source', '')}"


def _accelerator(data: dict[str, Any], chip: Accelerator, mine: Mapping[str, Moved], says: str) -> None:
    kernels = data["kernels"] = dict(data.get("kernels") or {})
    for name in mine:
        head, *rest = name.split(".")
        if head in ("sustained", "ratio"):
            data["sustained"] = dict(chip.sustained)
            data["sources"] = dict(data.get("sources") or {}) | {"sustained": says}
            continue
        kind, formats, item = rest
        table = kernels[kind] = dict(kernels.get(kind) or {})
        for dtype, kernel in chip.kernels.get(kind, {}).items():
            if formats == "*" or dtype in formats.split("+"):
                before = (table.get(dtype) or {}).get("source", kernel.source)
                table[dtype] = _constants(kernel) | {"source": _origin(item, says, before)}


def _constants(kernel: Kernel) -> dict[str, Any]:
    more: dict[str, Any] = {"half": kernel.half} if kernel.half else {}
    if kernel.step:
        more["step"] = f"{kernel.step * 1e9:.4g} ns"
    return {"compute": kernel.compute, "memory": kernel.memory, "overhead": f"{kernel.overhead * 1e6:.4g} us"} | more


def _origin(item: str, says: str, before: str) -> str:
    """The source of a kernel's constants: what was fitted here comes first; several of a kernel share the sentence."""
    ending = f": {says}; the rest as before: "
    names, rest = before.split(ending) if ending in before else ("", before)
    return ", ".join(filter(None, [names, item])) + ending + rest
