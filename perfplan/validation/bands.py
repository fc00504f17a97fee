"""The error bands that ship, from residuals of steps predicted by fits that left them out, and what they are worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perfplan.calibration.bands import Band, Bands, fit_bands, write_bands
from perfplan.training.plan import unlike
from perfplan.validation.intervals import BandScore, Residual, left_out_bands
from perfplan.validation.memory import distinct_ratios
from perfplan.validation.score import Outcome
from perfplan.validation.steps import Step

__all__ = ["WIDENING", "band_scores", "margin", "refit", "residual"]

WIDENING = {
    "family": {"value": 1.5, "source": "assumption: a chip family without rows of its own; not fitted"},
    "kind": {"value": 2.0, "source": "assumption: another kind of model stands in; not fitted"},
    "borrowed": {
        "value": 2.0,
        "source": "another chip's kernel constants widen the 80 % kernel error by a median of 2.9x;"
        " halved for a whole step by judgement",
    },
}


def residual(step: Step, predicted: float) -> Residual:
    """ln(measured / predicted) of a step, with what decides its band."""
    return Residual(
        step.row.source,
        step.job.cluster.accelerator.family,
        step.moe,
        step.row.method,
        step.row.group,
        math.log(predicted),
        math.log(step.time / predicted),
        unlike(step.job, bool(step.layout.offload)),
    )


def _find(bands: Bands, one: Residual) -> Band:
    return bands.find("training", one.moe, one.family, borrowed=one.unlike)


def band_scores(residuals: Sequence[Residual]) -> list[BandScore]:
    """Coverage, width and interval score of bands fitted without the source they are scored on."""
    return left_out_bands(residuals, WIDENING, _find)


def margin(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """How far memory is under-predicted: 90th percentile of measured over predicted, minus 1, of distinct readings."""
    ratios = distinct_ratios(outcomes)
    value = max(0.0, float(np.quantile([1 / ratio for ratio, _ in ratios], 0.9)) - 1)
    source = "90th percentile of measured over predicted, minus 1"
    return {"margin": round(value, 4), "n": len(ratios), "source": source}


def refit(path: Path, absolute: Sequence[Residual], paired: Sequence[Residual], outcomes: Sequence[Outcome]) -> None:
    """Write the bands of pretraining to `path` (`catalogs/bands.yaml`): the absolute ones from residuals of steps whose
    source was left out, the paired ones from `paired`, the memory margin from validation outcomes."""
    fitted = fit_bands([one.as_row() for one in absolute if one.method == "pretrain"])
    ties = fit_bands([one.as_row() for one in paired if one.method == "pretrain"])
    fitted = {"bands": fitted["bands"], "paired": ties["paired"]}
    write_bands(path, [fitted, _others(path)], WIDENING, margin(outcomes))


def _others(path: Path) -> dict[str, Any]:
    """The bands of `path` that are of other phases than training."""
    import yaml

    data = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {table: {name: entry for name, entry in (data.get(table) or {}).items() if not name.startswith("training")}
            for table in ("bands", "paired")}
