"""`validate training`: every measured row priced and scored, against a predictor that is a plain argument."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from perfplan.catalog.files import packaged_root
from perfplan.errors import Indivisible, MissingField, PerfplanError, SpecError, UnknownName, Unsupported
from perfplan.training.job import Job
from perfplan.training.layout import Layout
from perfplan.validation.assumptions import assumed
from perfplan.validation.baselines import with_null
from perfplan.validation.flops import convention, flops_per_token, stated_peak
from perfplan.validation.jobs import Case, CaseBuilder, Source
from perfplan.validation.memory import STATE, component, component_bytes, priced_as
from perfplan.validation.rows import Row
from perfplan.validation.score import RATES, Facts, Outcome, Score, overall, score

__all__ = [
    "ROW_FAULTS",
    "Predict",
    "Prediction",
    "Validation",
    "dev_measurements",
    "measured_step_time",
    "validate",
    "vocabulary",
]

ROW_FAULTS = (SpecError, UnknownName, MissingField)
_FILES = ("training_measured.csv", "training_vtrain_single_node.csv")


class Prediction(Protocol):
    """What a predictor gives back: step time and its band [s], memory of the fullest rank [B], whether that fits."""

    @property
    def step_time(self) -> float:
        """Time of one step [s]."""

    @property
    def band(self) -> tuple[float, float]:
        """Interval of the step time [s]."""

    @property
    def memory(self) -> Mapping[str, float]:
        """Memory of the fullest rank by part [B]."""

    @property
    def fits(self) -> bool:
        """Whether that fits."""


Predict = Callable[[Job, Layout], Prediction]


@dataclass(frozen=True)
class Validation:
    """Scores over all rows and per slice, and every row beside its prediction."""

    overall: Score
    slices: tuple[Score, ...]
    outcomes: tuple[Outcome, ...]

    def as_dict(self) -> dict[str, Any]:
        """The scores as one object: `overall` and `slices`."""
        return {"overall": self.overall, "slices": list(self.slices)}


def dev_measurements() -> tuple[Path, ...]:
    """The measurement files that ship with the catalogs."""
    return tuple(packaged_root() / "measurements" / name for name in _FILES)


def vocabulary() -> int:
    """Vocabulary assumed where a row states none [entries]."""
    return assumed("vocabulary")


def _peak(case: Case) -> float:
    stated = stated_peak(case.row.flop_convention)
    return stated or case.job.data_sheet_peak(case.job.recipe.gemm["forward"])


def measured_step_time(case: Case) -> float:
    """The measured time of one step [s], converted with the row's own FLOP convention where it counts FLOPs."""
    row = case.row
    samples, n = row.global_batch or 0, row.n_accel or 0
    if row.metric == "step_time_s":
        return row.value
    if row.metric == "samples_per_s_total":
        return samples / row.value
    tokens = samples * (row.seq_len or 0)
    if row.metric == "tokens_per_s_per_accel":
        return tokens / (n * row.value)
    name = convention(row.flop_convention)
    if name is None:
        raise Unsupported(f"flop convention {row.flop_convention or 'not stated'} is not recognised")
    rate = row.value * 1e12 if row.metric == "tflops_per_accel" else row.value / 100 * _peak(case)
    return tokens * flops_per_token(case.job.model, row.seq_len or 0, name) / (n * rate)


def _slice(row: Row, case: Case | None) -> str:
    moe = bool(row.experts)
    if case is not None:
        moe = case.job.model.routed
    return f"{row.source}/{'moe' if moe else 'dense'}"


def _first_fitting(case: Case, predict: Predict) -> tuple[Layout, Prediction]:
    """The first layout that fits, else the last one that can run at all."""
    found: tuple[Layout, Prediction] | None = None
    for layout in case.layouts:
        found = layout, predict(case.job, layout)
        if found[1].fits:
            break
    assert found is not None
    return found


def _without(row: Row, reason: str, case: Case | None = None) -> Outcome:
    return Outcome(
        row.id,
        row.source,
        _slice(row, case),
        row.group,
        row.layout_key,
        row.metric,
        row.value,
        oom=row.metric == "oom",
        unsupported=reason,
        hardware=row.hardware_id,
        method=row.method,
    )


def _reason(error: PerfplanError) -> str:
    """The error without the row's own numbers, so that like reasons count together."""
    text = str(error).split("; ")[0].rstrip(".")
    return f"layout cannot run: {text.split(': ', 1)[-1]}" if isinstance(error, Indivisible) else text


def _over_measured(row: Row, size: float) -> float | None:
    measured = row.value if row.metric == "memory_gib_per_accel" else row.also_memory_gib
    return size / 2**30 / measured if measured else None


def _outcome(case: Case, predict: Predict) -> Outcome:
    row = case.row
    part = component(row)
    layout, guess = _first_fitting(case, predict)
    parts = predict(priced_as(case.job, part), layout).memory if part else guess.memory
    memory = component_bytes(parts, part)
    base = replace(
        _without(row, "", case),
        fits=guess.fits,
        layout_text=str(layout),
        assumptions=case.assumptions,
        memory_ratio=_over_measured(row, memory),
        state_ratio=_over_measured(row, sum(guess.memory.get(name, 0.0) for name in STATE)),
        component=part,
        facts=_facts(case),
    )
    if row.metric == "oom":
        return base
    if row.metric == "memory_gib_per_accel":
        return replace(base, predicted=memory / 2**30)
    measured = measured_step_time(case)
    slower = float(guess.step_time) / measured
    ratio = 1 / slower if row.metric in RATES else slower
    return replace(
        base,
        predicted=row.value * ratio,
        ratio=ratio,
        time=float(guess.step_time),
        measured_time=measured,
        band=guess.band,
    )


def _facts(case: Case) -> Facts:
    row, job = case.row, case.job
    return Facts(
        row.epoch,
        row.model_id or f"{row.layers} layers of {row.hidden_size}, {row.experts or 0} experts",
        row.precision,
        job.gpus,
        job.seq_len,
        job.global_batch,
        flops_per_token(job.model, job.seq_len, convention(row.flop_convention) or "causal")
        * job.seq_len
        * job.global_batch,
        job.data_sheet_peak(job.recipe.gemm["forward"]),
        row.tp,
        row.pp,
        row.micro_batch,
        job.recipe.id,
    )


def validate(
    rows: Iterable[Row],
    catalog: Source,
    predict: Predict,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Validation:
    """Price and score `rows`; a row that cannot be priced is counted under its reason."""
    builder = CaseBuilder(catalog, vocabulary())
    cases: dict[str, Case] = {}
    outcomes: list[Outcome] = []
    wanted = list(rows)
    for done, row in enumerate(wanted):
        progress(done, len(wanted))
        try:
            cases[row.id] = builder.case(row)
            outcomes.append(_outcome(cases[row.id], predict))
        except ROW_FAULTS as error:  # a broken catalog is no fault of a row and ends the run
            outcomes.append(_without(row, _reason(error), cases.get(row.id)))
    outcomes = with_null(outcomes)
    slices: dict[str, list[Outcome]] = defaultdict(list)
    for o in outcomes:
        slices[o.slice].append(o)
    return Validation(overall(outcomes), tuple(score(name, slices[name]) for name in sorted(slices)), tuple(outcomes))
