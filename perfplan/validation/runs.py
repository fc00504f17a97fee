"""The two proofs with everything in its place: measurements scored, and published figures predicted again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perfplan.calibration.bands import Bands
from perfplan.catalog import Catalog
from perfplan.errors import MissingField
from perfplan.training.estimate import Estimate, estimate
from perfplan.training.job import Job
from perfplan.training.layout import Layout
from perfplan.training.plan import banded
from perfplan.validation.overlap_figures import overlap_prices
from perfplan.validation.placement_figures import placement_prices
from perfplan.validation.reproduce import Check, reproduce
from perfplan.validation.rows import read_rows
from perfplan.validation.ruled import ruled_prices
from perfplan.validation.serving_figures import serving_prices
from perfplan.validation.techniques import Technique, technique_from_yaml
from perfplan.validation.training import Validation, dev_measurements, validate

__all__ = ["reproduce_published", "technique", "validate_training"]

_JOB = ("model", "cluster", "gpus", "global_batch", "seq_len", "precision", "framework", "layout")


def validate_training(
    measured: Sequence[str | Path] = (),
    *,
    catalog: Catalog | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Validation:
    """Score the model against CSV files in the schema of `training_measured.csv`, the shipped ones if none is named."""
    catalog = catalog or Catalog()
    bands = _bands(catalog)

    def predict(job: Job, layout: Layout) -> Estimate:
        return bands(estimate(job, layout))

    rows = read_rows([Path(path) for path in measured] or dev_measurements())
    return validate(rows, catalog, predict, progress)


def _bands(catalog: Catalog) -> Callable[[Estimate], Estimate]:
    found: Bands = catalog.bands()
    return lambda guess: banded(guess, found)


def technique(catalog: Catalog, name: str) -> Technique:
    """The technique or published system `name` of the catalog."""
    return technique_from_yaml(catalog.technique(name), f"technique {name}")


def reproduce_published(system: str | None = None, *, catalog: Catalog | None = None) -> list[Check]:
    """The published figures of one system predicted again, or those of every system in the catalog."""
    found = catalog or Catalog()
    names = [system] if system else found.ids("technique")
    others = {**serving_prices(found), **ruled_prices(found), **overlap_prices(found),
              **placement_prices(found)}
    return [check for name in names for check in reproduce(technique(found, name), _step_time(found), others)]


def _step_time(catalog: Catalog) -> Callable[[Mapping[str, Any]], float]:
    def price(inputs: Mapping[str, Any]) -> float:
        missing = [name for name in _JOB if name not in inputs]
        if missing:
            raise MissingField(f"a published step time needs {', '.join(missing)}")
        job = Job(
            catalog.model(inputs["model"]),
            catalog.cluster(inputs["cluster"]),
            inputs["gpus"],
            inputs["global_batch"],
            inputs["seq_len"],
            catalog.recipe(inputs["precision"]),
            catalog.framework(inputs["framework"]),
            inputs.get("attention", ""),
        )
        return float(estimate(job, Layout.parse(inputs["layout"])).step_time)

    return price
