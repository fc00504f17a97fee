"""Fit the constants of engine releases without each model, predict its latencies: `python tools/left_out_serving.py`.

The predictions go to docs/left_out_serving.csv, from which tools/accuracy.py takes its figures, and their residuals
become the bands of TPOT and TTFT in catalogs/bands.yaml. Nothing is drawn at random. About two minutes of one core.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import yaml

from perfplan.calibration.bands import fit_bands, write_bands
from perfplan.catalog import Catalog
from perfplan.catalog.files import packaged_root
from perfplan.validation.score import Outcome
from perfplan.validation.serving_fit import left_out_models

FILE = Path(__file__).parents[1] / "docs" / "left_out_serving.csv"
COLUMNS = ("slice", "id", "measured_ms", "predicted_ms")
PHASES = {"serving": "tpot", "first-token": "ttft"}


def read() -> dict[tuple[str, str], float]:
    """(slice, row id) -> latency predicted by constants that have not seen the row's model [ms]."""
    with FILE.open(newline="", encoding="utf-8") as stream:
        return {(row["slice"], row["id"]): float(row["predicted_ms"]) for row in csv.DictReader(stream)}


def held(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes that the study predicted, with those predictions."""
    stored = read()
    return [
        replace(o, predicted=stored[o.slice, o.id], ratio=stored[o.slice, o.id] / o.measured)
        for o in outcomes
        if (o.slice, o.id) in stored and o.ratio is not None
    ]


def model_of(outcome: Outcome) -> str:
    """Catalog id of the model that a group names first."""
    return outcome.source.split("/")[0]


def _row(catalog: Catalog, one: Outcome) -> dict[str, Any]:
    assert one.predicted is not None
    return {"source": model_of(one), "family": catalog.accelerator(one.hardware).family, "group": "",
            "moe": catalog.model(model_of(one)).routed, "log_predicted": log(one.predicted),
            "log_residual": log(one.measured / one.predicted)}  # fmt: skip


def write_shipped_bands(found: Sequence[Outcome]) -> None:
    """Bands of TPOT and TTFT from models left out, models counting equally; all else in the file stays."""
    path, catalog = packaged_root() / "bands.yaml", Catalog()
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    for phase, metric in PHASES.items():
        fitted = fit_bands([_row(catalog, one) for one in found if one.slice.startswith(metric)], phase)["bands"]
        said = f"{metric.upper()} of serving_latency_measured.csv, each model by constants of its engine release fitted"
        for entry in fitted.values():
            entry["source"] = f"{said} without it (python tools/left_out_serving.py); models count equally"
        kept = {name: entry for name, entry in data["bands"].items() if name.split("/")[0] != phase}
        data["bands"] = kept | fitted
    write_bands(path, [data], data["widening"], data["memory"])


def main() -> None:
    """The study, then its file, then the bands."""
    found = [o for o in left_out_models().outcomes if o.predicted is not None and not o.unsupported]
    with FILE.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((o.slice, o.id, f"{o.measured:.6g}", f"{o.predicted:.6g}") for o in found)
    write_shipped_bands(found)
    print(f"wrote {FILE.name} and bands.yaml", file=sys.stderr)


if __name__ == "__main__":
    main()
