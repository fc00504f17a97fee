"""Refits the shipped error bands from residuals of the shipped measurements: `python -m perfplan.validation.bands`."""

from __future__ import annotations

import math
from typing import Any

from perfplan.calibration.bands import fit_bands, write_bands
from perfplan.catalog import Catalog
from perfplan.catalog.files import packaged_root
from perfplan.training.estimate import estimate
from perfplan.validation.training import Validation, dev_measurements, validate_files

__all__ = ["WIDENING", "refit", "residuals"]

WIDENING = {
    "family": {"value": 1.5, "source": "assumption: a chip family without rows of its own; not fitted"},
    "kind": {"value": 2.0, "source": "assumption: another kind of model stands in; not fitted"},
    "borrowed": {
        "value": 2.0,
        "source": "another chip's kernel constants widen the 80 % kernel error by a median of 2.9x;"
        " halved for a whole step by judgement",
    },
}


def residuals(validation: Validation, catalog: Catalog) -> list[dict[str, Any]]:
    """Log residuals of the scored step times of pretraining [1], with source, chip family, dense or MoE, and job."""
    rows = []
    for outcome in validation.outcomes:
        if outcome.time and outcome.measured_time and outcome.method == "pretrain":
            family = catalog.accelerator(outcome.hardware).family
            rows.append(
                {
                    "source": outcome.source,
                    "family": family,
                    "moe": outcome.slice.endswith("/moe"),
                    "group": outcome.group,
                    "log_residual": math.log(outcome.measured_time / outcome.time),
                }
            )
    return rows


def refit() -> None:
    """Validate on the shipped measurements and write `catalogs/bands.yaml`."""
    catalog = Catalog()
    validation = validate_files(dev_measurements(), catalog, estimate)
    write_bands(packaged_root() / "bands.yaml", [fit_bands(residuals(validation, catalog))], WIDENING)


if __name__ == "__main__":
    refit()
