"""Factors of software releases from the shipped measurements: `python tools/releases.py` prints them as YAML.

Beside them it says what they are worth: the mean error of rows whose factor comes from the other models of the same
release, accelerator and class (dense or MoE) alone, with and without it. The factors go into catalogs/frameworks by
hand, as `releases`.
"""

from __future__ import annotations

import numpy as np
import yaml

from perfplan.catalog import Catalog
from perfplan.training.estimate import estimate
from perfplan.validation.releases import factors, left_out
from perfplan.validation.rows import read_rows
from perfplan.validation.steps import steps_of
from perfplan.validation.training import dev_measurements

SOURCE = "measured over predicted step times of training_measured.csv, drawn towards 1 by two rows, 2026-11-26"


def main() -> None:
    """The factors per framework, then their worth."""
    steps = steps_of(read_rows(dev_measurements()), Catalog())
    times = np.array([float(estimate(step.job, step.layout).step_time) for step in steps])
    found: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    for (framework, release, where), one in factors(steps, times, SOURCE).items():
        entry = {"factor": one.factor, "rows": one.rows, "source": one.source}
        found.setdefault(framework, {}).setdefault(release, {})[where] = entry
    print(yaml.safe_dump(found, sort_keys=True, width=120))
    for moe in (False, True):
        part = [i for i, step in enumerate(steps) if step.moe == moe]
        rows, plain, corrected = left_out([steps[i] for i in part], times[part])
        name = "MoE" if moe else "dense"
        print(f"# {name}, models left out: {rows} rows, MAPE {plain:.1%} without, {corrected:.1%} with")


if __name__ == "__main__":
    main()
