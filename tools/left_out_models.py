"""How well constants fitted without a model predict it: `python tools/left_out_models.py` (about four minutes).

For each of the eight models (hidden size x layers) of training_vtrain_single_node.csv the constants of the A100 and of
its software are fitted again on 120 rows of the other seven, with half of the other A100 rows of training_measured.csv
beside them. Then the 180 rows of the model left out are scored: MAPE, and the regret of the layout that is ranked first
in groups of at least 4 layouts.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from perfplan.catalog import Catalog
from perfplan.catalog.specs import Accelerator
from perfplan.errors import PerfplanError
from perfplan.training.estimate import estimate
from perfplan.training.job import Job
from perfplan.validation.jobs import Case, CaseBuilder
from perfplan.validation.rows import read_rows
from perfplan.validation.training import dev_measurements, measured_step_time, vocabulary

# (kernel kind or framework, field, start, least, most); start: the shipped values
KERNELS = (
    ("gemm", "overhead", 13.7e-6, 2e-6, 15e-6),
    ("unfused_attention", "compute", 0.789, 0.05, 0.95),
    ("stream", "memory", 0.623, 0.5, 0.92),
    ("stream", "overhead", 9.24e-6, 1e-6, 12e-6),
    ("attention_flash1", "compute", 0.316, 0.05, 0.9),
    ("attention_flash1", "half", 1400.0, 10.0, 5000.0),
)
SOFTWARE = (
    ("megatron-2021", "launch", 58.4e-6, 2e-6, 1e-4),
    ("megatron-2021", "host_gap", 5.76e-3, 1e-5, 3e-2),
    ("megatron-2021", "step_gap", 4.29e-3, 1e-3, 0.1),
    ("megatron-2021", "skew", 9.45e-6, 1e-8, 1e-4),
    ("fsdp", "launch", 98e-6, 2e-6, 1e-4),
    ("fsdp", "host_gap", 4.17e-3, 1e-5, 3e-2),
    ("fsdp", "step_gap", 38.5e-3, 1e-3, 0.1),
    ("fsdp", "optimizer_bytes", 82.0, 30.0, 120.0),
)
ALL = (*KERNELS, *SOFTWARE)
Measured = tuple[Case, float]


def with_constants(job: Job, values: Sequence[float]) -> Job:
    """The job with the fitted constants in place of the catalog's."""
    chip: Accelerator = job.cluster.accelerator
    kernels: dict[str, dict[str, Any]] = {kind: dict(table) for kind, table in chip.kernels.items()}
    for (kind, name, *_), value in zip(KERNELS, values, strict=False):
        kernels[kind] = {dtype: replace(k, **{name: value}) for dtype, k in kernels[kind].items()}
    framework = job.framework
    for (release, name, *_), value in zip(SOFTWARE, values[len(KERNELS) :], strict=True):
        if release == framework.id:
            changed: dict[str, Any] = {name: float(value)}
            framework = replace(framework, **changed)
    cluster = replace(job.cluster, accelerator=replace(chip, kernels=kernels))
    return replace(job, cluster=cluster, framework=framework)


def residuals(rows: Sequence[Measured], values: Sequence[float]) -> Any:
    """log(predicted / measured) of each row [1]."""
    times = [float(estimate(with_constants(case.job, values), case.layouts[-1]).step_time) for case, _ in rows]
    return np.log(np.array(times) / np.array([measured for _, measured in rows]))


def fitted(rows: Sequence[Measured], weights: Any) -> Any:
    """Constants that fit the rows: log error, soft L1."""
    start, least, most = (np.log([entry[i] for entry in ALL]) for i in (2, 3, 4))
    start = np.clip(start, least + 1e-3, most - 1e-3)
    solve: Any = least_squares

    def loss(x: Any) -> Any:
        return np.sqrt(weights) * residuals(rows, list(np.exp(x)))

    options = {"loss": "soft_l1", "f_scale": 0.1, "max_nfev": 8, "diff_step": 0.02}
    found = solve(loss, start, bounds=(least, most), **options)
    return list(np.exp(found.x))


def regret(rows: Sequence[Measured], errors: Any) -> list[float]:
    """Per group of at least 4 layouts: measured time of the layout ranked first over the best, minus 1."""
    groups: dict[str, list[tuple[float, float, str]]] = {}
    for (case, measured), error in zip(rows, errors, strict=True):
        groups.setdefault(case.row.group, []).append((measured * math.exp(error), measured, str(case.layouts[0])))
    ranked = [group for group in groups.values() if len({layout for *_, layout in group}) >= 4]
    return [min(group)[1] / min(measured for _, measured, _ in group) - 1 for group in ranked]


def cases() -> list[Measured]:
    """Every A100 row whose step time can be predicted."""
    builder, found = CaseBuilder(Catalog(), vocabulary()), []
    for row in read_rows(dev_measurements()):
        try:
            if row.hardware_id.startswith("a100") and row.metric not in ("oom", "memory_gib_per_accel"):
                case = builder.case(row)
                found.append((case, measured_step_time(case)))
        except PerfplanError as error:
            print(f"{row.id} left out: {error}", file=sys.stderr)
    return found


def main() -> None:
    """Leave each model out once and print what the others say of it."""
    random.seed(2)
    every = cases()
    vtrain = [pair for pair in every if pair[0].row.source == "vtrain"]
    others = [pair for pair in every if pair[0].row.source in ("foundry", "koro22", "sc21", "mlm20")][::2]
    names = sorted({f"{case.job.model.hidden}x{len(case.job.model.layers)}" for case, _ in vtrain})
    mapes, regrets = [], []
    for name in names:
        mine = [p for p in vtrain if f"{p[0].job.model.hidden}x{len(p[0].job.model.layers)}" == name]
        train = random.sample([p for p in vtrain if p not in mine], 120) + others
        weights = np.array([1.0] * 120 + [90 / len(others)] * len(others))
        errors = residuals(mine, fitted(train, weights))
        mapes.append(float(np.mean(np.abs(np.expm1(errors)))))
        regrets.append(float(np.mean(regret(mine, errors))))
        print(f"without {name}: n {len(mine)}, MAPE {mapes[-1]:.1%}, mean regret {regrets[-1]:.1%}", flush=True)
    print(f"all {len(names)} models: MAPE {np.mean(mapes):.1%}, mean regret {np.mean(regrets):.1%}")


if __name__ == "__main__":
    main()
