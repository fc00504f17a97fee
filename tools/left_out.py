"""Fit whole-step constants without parts of the data and predict those parts: `python tools/left_out.py [PROCESSES]`.

Study `source`: each source of the shipped measurements, or, for an accelerator in one source only, each model.
Study `model`: each model of vTrain. The predictions go to docs/left_out.csv, from which tools/accuracy.py takes its
figures, and their residuals become the error bands of catalogs/bands.yaml. Nothing is drawn at random: the same catalog
gives the same files. About eight minutes of one core.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from multiprocessing import Pool
from pathlib import Path

import numpy as np

from perfplan.catalog import Catalog
from perfplan.catalog.files import packaged_root
from perfplan.validation.bands import refit, residual
from perfplan.validation.holdouts import Holdout, model_holdouts, source_holdouts
from perfplan.validation.intervals import Residual
from perfplan.validation.rows import read_rows
from perfplan.validation.runs import validate_training
from perfplan.validation.steps import Step, fitted, predicted, steps_of
from perfplan.validation.training import dev_measurements

FILE = Path(__file__).parents[1] / "docs" / "left_out.csv"
COLUMNS = ("study", "without", "id", "measured_s", "predicted_s")


def predict(task: tuple[str, Holdout]) -> list[tuple[object, ...]]:
    """One line per step held out."""
    name, one = task
    times = predicted(one.held, fitted(one.rest))
    error = np.mean([abs(t / s.time - 1) for t, s in zip(times, one.held, strict=True)])
    print(f"{name}: without {one.name}: n {len(one.held)}, fitted on {len(one.rest)}, MAPE {error:.1%}",
          file=sys.stderr, flush=True)  # fmt: skip
    return [
        (name, one.name, s.row.id, f"{s.time:.6g}", f"{t:.6g}") for t, s in zip(times, one.held, strict=True)
    ]


def read(study: str) -> dict[str, float]:
    """Row id -> step time predicted by a fit without it [s]."""
    with FILE.open(newline="", encoding="utf-8") as stream:
        return {row["id"]: float(row["predicted_s"]) for row in csv.DictReader(stream) if row["study"] == study}


def residuals(steps: Sequence[Step], study: str) -> list[Residual]:
    """Residuals of the steps that a study predicted."""
    times = read(study)
    return [residual(step, times[step.row.id]) for step in steps if step.row.id in times]


def write_shipped_bands(steps: Sequence[Step]) -> None:
    """The bands from stored predictions; pairs of vTrain's layouts from the fits without their model."""
    absolute, models = residuals(steps, "source"), residuals(steps, "model")
    sources = {one.source for one in models}
    paired = models + [one for one in absolute if one.source not in sources]
    refit(packaged_root() / "bands.yaml", absolute, paired, validate_training().outcomes)


def main() -> None:
    """Both studies, then the bands."""
    steps = steps_of(read_rows(dev_measurements()), Catalog())
    tasks = [("source", one) for one in source_holdouts(steps)]
    tasks += [("model", one) for one in model_holdouts(steps, "vtrain")]
    with Pool(int(sys.argv[1]) if len(sys.argv) > 1 else 1) as pool:
        lines = [line for part in pool.map(predict, tasks, chunksize=1) for line in part]
    with FILE.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(lines)
    write_shipped_bands(steps)
    print(f"wrote {FILE.name} and bands.yaml", file=sys.stderr)


if __name__ == "__main__":
    main()
