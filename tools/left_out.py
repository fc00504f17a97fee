"""Fit whole-step constants without parts of the data and predict those parts: `python tools/left_out.py` (minutes).

Study `source`: each source of the shipped measurements, or, for an accelerator in one source only, each model.
Study `model`: each model of vTrain. The predictions go to docs/left_out.csv, from which tools/accuracy.py and the error
bands take their figures. Same catalog, same file: nothing is drawn at random.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from perfplan.catalog import Catalog
from perfplan.validation.holdouts import Holdout, model_holdouts, source_holdouts
from perfplan.validation.rows import read_rows
from perfplan.validation.steps import fitted, predicted, steps_of
from perfplan.validation.training import dev_measurements

FILE = Path(__file__).parents[1] / "docs" / "left_out.csv"
COLUMNS = ("study", "without", "id", "slice", "method", "family", "moe", "group", "measured_s", "predicted_s")


def study(name: str, holdouts: list[Holdout]) -> list[tuple[object, ...]]:
    """One line per step held out."""
    lines: list[tuple[object, ...]] = []
    for one in holdouts:
        times = predicted(one.held, fitted(one.rest))
        error = np.mean([abs(t / s.time - 1) for t, s in zip(times, one.held, strict=True)])
        print(f"{name}: without {one.name}: n {len(one.held)}, fitted on {len(one.rest)}, MAPE {error:.1%}",
              file=sys.stderr, flush=True)  # fmt: skip
        lines += [
            (name, one.name, s.row.id, s.slice, s.row.method, s.job.cluster.accelerator.family, int(s.moe),
             s.row.group, f"{s.time:.6g}", f"{t:.6g}") for t, s in zip(times, one.held, strict=True)
        ]  # fmt: skip
    return lines


def main() -> None:
    """Both studies."""
    steps = steps_of(read_rows(dev_measurements()), Catalog())
    lines = study("source", source_holdouts(steps)) + study("model", model_holdouts(steps, "vtrain"))
    with FILE.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(lines)
    print(f"wrote {FILE.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
