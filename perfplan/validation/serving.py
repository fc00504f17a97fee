"""`validate serving` and `validate latency`: published runs of serving engines priced and scored.

A figure is scored in the slice of what it measures and its group (`tpot/<group>`, `ttft/<group>`, `rate/<group>` ...);
rows that leave the format of the weights to the checkpoint have slices of their own. The null predictor knows the
median of the slice. Quality C and suspect rows are listed, not scored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import ceil, inf
from pathlib import Path
from statistics import median
from typing import Any

from perfplan.catalog import Catalog
from perfplan.catalog.specs import Cluster, Engine, LayerKind, Model, Moe
from perfplan.errors import Infeasible, PerfplanError, Unsupported
from perfplan.formulas.serving import piped_share
from perfplan.serving import estimate as price
from perfplan.serving.deploy import tpot_margin
from perfplan.serving.finite import finite_test
from perfplan.serving.formats import number_format
from perfplan.serving.job import ServingJob
from perfplan.serving.layout import ServingLayout, check
from perfplan.serving.step import decode_step, network, whole
from perfplan.validation.kernels import shipped, summary
from perfplan.validation.score import Outcome
from perfplan.validation.serving_choice import Choice, ceiling_choice, width_choice
from perfplan.validation.serving_rows import METRICS, Run, cache_of, formats_of, layout_of, lengths_of, read_runs
from perfplan.validation.training import Validation

__all__ = ["LATENCY_FILES", "SERVING_FILES", "Pricer", "ServingValidation", "listed", "outcomes", "planner_margin",
           "replicated", "validate_latency", "validate_serving", "with_choices"]

SERVING_FILES = ("serving_measured.csv",)
LATENCY_FILES = ("serving_latency_measured.csv",)
REQUESTS = 500  # of one run of an online test (README of the measurements: 500 requests per run)
TIGHT: dict[str, Any] = {"memory_basis": "free", "memory_fraction": 0.98, "context": 0.5 * 2**30, "token_budget": 2048}
"""Memory settings of a run that does not fit by the engine's defaults."""
POOLS = {"input_tokens_per_s_per_node": "prompts", "output_tokens_per_s_per_node": "decodes"}
"""Metrics that are published of one pool of a disaggregated deployment (DeepSeek's and SGLang's reports, recalled)."""
ALONE = "pcie-box"  # cluster of accelerators that have none
ENGINES: dict[str | tuple[str, str], str] = {
    "atom": "qserve", "quarot": "qserve", "deepseek_inhouse": "sglang", ("atom", "AMD"): "vllm"}
"""Engines without an entry of their own, those of one vendor with it -> whose policies and host times they are given;
two engines are called atom: that of the paper on 4-bit weights, and AMD's own (recalled)."""


class Pricer:
    """Prices runs with one catalog; entries are read once. engine: changes an engine's constants, for fits."""

    def __init__(self, catalog: Catalog, engine: Callable[[Engine], Engine] | None = None) -> None:
        """`catalog`: where models, clusters and engines come from."""
        self.catalog, self.change = catalog, engine or (lambda one: one)
        self._engine = cache(self._read_engine)
        self._hardware, self._model = cache(catalog.hardware), cache(catalog.served_model)

    def named(self, run: Run) -> Run:
        """The run with its chip, model and engine as the catalog calls them."""
        if unsaid := [name for name in ("model", "hardware", "engine") if not getattr(run, name)]:
            raise Unsupported(f"{' and '.join(unsaid)} not stated")
        engine = run.engine.lower()
        return replace(run, hardware=self._hardware(run.hardware), model=self._model(run.model),
                       engine=self.catalog.aliases("engine").get(engine, engine))

    def _read_engine(self, name: str, release: str, family: str, chip: str) -> Engine:
        return self.catalog.engine(name, release, family, chip)

    def read_as(self, run: Run) -> tuple[str, ...]:
        """What the run is priced as where that is not what it says."""
        named, engine = self.named(run), self.job(run).engine
        pairs = [(run.hardware, named.hardware), (run.model, named.model), (named.engine, engine.id.partition("-")[0])]
        lacking = [note for note in engine.notes if note.startswith(f"release {run.release} ")]
        return (*(f"{said} read as {meant}" for said, meant in pairs if said != meant), *lacking)

    def _machine(self, name: str) -> Cluster:
        """The usual cluster of an accelerator; one without a cluster stands alone in a PCIe host."""
        chip = self.catalog.accelerator(name)
        return self.catalog.cluster(name) if chip.default_cluster else replace(
            self.catalog.cluster(ALONE), accelerator=chip)

    def job(self, run: Run) -> ServingJob:
        """The job of a run."""
        run = self.named(run)
        machine = self._machine(run.hardware)
        chip = machine.accelerator
        name = ENGINES.get((run.engine, chip.vendor)) or ENGINES.get(run.engine, run.engine)
        engine = self.change(self._engine(name, run.release, chip.family, chip.id))
        model = self.catalog.model(run.model)
        form = replace(number_format(formats_of(run, model)), otherwise="bf16")  # weights alone where units are lacking
        return ServingJob(model, machine, engine, form, run.kv or cache_of(run, form.id))

    def steady(self, run: Run) -> tuple[price.Steady, ServingLayout]:
        """What the model says of the run."""
        run = self.named(run)
        job = self.job(run)
        layout = layout_of(run, job.model)
        job = replace(job, model=replicated(job.model, layout.ep))
        check(job.model, layout)
        isl, osl = lengths_of(run, self.catalog)
        if METRICS[run.metric] in ("decode", "prefill"):
            return _alone(job, layout, run, isl, osl), layout
        if run.metric in POOLS:
            return _pool(job, layout, run, isl, osl), layout
        if METRICS[run.metric] == "tpot" and osl < 2:
            raise Unsupported("one output token has no time between tokens")
        try:
            return _loaded(job, layout, run, isl, osl), layout
        except Infeasible:  # it ran: its memory was set tighter than the engine's default
            job = replace(job, engine=replace(job.engine, **TIGHT))
            return _loaded(job, layout, run, isl, osl), layout

    def loop(self, run: Run) -> tuple[ServingJob, ServingLayout, tuple[int, int], float]:
        """What a closed loop is priced with: (job, layout, lengths, sequences that a rank has room for)."""
        run = self.named(run)
        job = self.job(run)
        layout = layout_of(run, job.model)
        check(job.model, layout)
        isl, osl = lengths_of(run, self.catalog)
        try:
            return job, layout, (isl, osl), price.capacity(job, layout, isl, osl)
        except Infeasible:
            job = replace(job, engine=replace(job.engine, **TIGHT))
            return job, layout, (isl, osl), price.capacity(job, layout, isl, osl)

    def predict(self, run: Run) -> float:
        """The figure of the run, in its metric."""
        steady, layout = self.steady(run)
        return float(_figure(run, steady, layout))


def _alone(job: ServingJob, layout: ServingLayout, run: Run, isl: int, osl: int) -> price.Steady:
    """One sequence: decode over `osl` tokens after a prompt of `isl`, or that prompt."""
    net = network(job, layout)
    if METRICS[run.metric] == "decode":
        parts = decode_step(job, net, layout, 1.0, isl + osl / 2)
        return price.Steady(0.0, whole(parts), 0.0, 1 / whole(parts), 1, parts, {})
    share = piped_share(max(ceil(isl / job.engine.token_budget), 1), layout.pp) if job.engine.chunked else 1.0
    parts = {name: share * time for name, time in price.prompt_time(job, net, layout, isl).items()}
    return price.Steady(whole(parts), 0.0, 1 / whole(parts), 0.0, 1, {}, parts)


def replicated(model: Model, ep: int) -> Model:
    """The model with copies of experts beside its own until they divide into the ranks, as wide deployments run it."""
    def padded(kind: LayerKind) -> LayerKind:
        if not isinstance(kind.ffn, Moe) or not kind.ffn.experts % ep:
            return kind
        return replace(kind, ffn=replace(kind.ffn, experts=ceil(kind.ffn.experts / ep) * ep))

    return replace(model, kinds=tuple(padded(kind) for kind in model.kinds)) if ep > 1 else model


def _pool(job: ServingJob, layout: ServingLayout, run: Run, isl: int, osl: int) -> price.Steady:
    """One pool of a disaggregated deployment, prompts or decodes alone; two halves of a batch take turns, so that one
    sends tokens to experts while the other computes."""
    net = network(job, layout)
    if POOLS[run.metric] == "prompts":
        parts = price.prompt_time(job, net, layout, isl, float(job.engine.token_budget))
        rate = layout.adp * layout.dp / _overlapped(parts)
        return price.Steady(whole(parts), 0.0, rate, 0.0, 1, {}, parts)
    room = price.capacity(job, layout, isl, osl)
    batch = min(run.batch / (layout.adp * layout.dp), room) if run.batch else room
    parts = decode_step(job, net, layout, batch / 2, isl + osl / 2)  # each half reads the weights
    step = 2 * _overlapped(parts)
    rate = batch * layout.adp * layout.dp / step / osl
    return price.Steady(0.0, step, rate, rate * osl, batch * layout.adp, parts, {})


def _overlapped(parts: Mapping[str, Any]) -> float:
    sent = parts.get("ep", 0.0)
    return float(max(whole(dict(parts)) - sent, sent))


def _loaded(job: ServingJob, layout: ServingLayout, run: Run, isl: int, osl: int) -> price.Steady:
    match run.batch_kind:
        case "static" if run.batch:
            return price.static_batch(job, layout, isl, osl, run.batch)
        case "concurrency" if run.batch:
            return price.steady(job, layout, isl, osl, float(run.batch))
        case "qps":
            return finite_test(job, layout, isl, osl, REQUESTS, run.qps or inf)
        case "unknown" | "max":
            return price.saturated(job, layout, isl, osl, run.batch)
    raise Unsupported(f"batch of kind {run.batch_kind or 'unknown'} without a number")


def _figure(run: Run, steady: price.Steady, layout: ServingLayout) -> Any:
    """The row's metric of what the model says."""
    gpus = layout.world
    values: dict[str, Callable[[], Any]] = {
        "ttft_ms": lambda: 1e3 * steady.ttft,
        "tpot_ms": lambda: 1e3 * steady.tpot,
        "itl_ms": lambda: 1e3 * steady.tpot,
        "output_tokens_per_s_total": lambda: steady.tokens_per_s,
        "output_tokens_per_s_per_gpu": lambda: steady.tokens_per_s / gpus,
        "output_tokens_per_s_per_node": lambda: steady.tokens_per_s / gpus * 8,
        "input_tokens_per_s_per_node": lambda: steady.rate * (run.isl or 0) / gpus * 8,
        "output_tokens_per_s_per_user": lambda: 1 / steady.tpot,
        "batch_latency_s": lambda: (run.batch or 1) / steady.rate,
        "samples_per_s": lambda: steady.rate,
        "decode_tokens_per_s": lambda: 1 / steady.tpot,
        "prefill_tokens_per_s": lambda: (run.isl or 0) / steady.ttft,
    }
    return values[run.metric]()


def listed(run: Run) -> str:
    """Why a row is listed and not scored, "" if it is."""
    if run.suspect:
        return "suspect row, listed and not scored"
    return "quality C, listed and not scored" if run.quality == "C" else ""


def _outcome(run: Run, pricer: Pricer, usual: float) -> Outcome:
    layout = f"tp{run.tp} pp{run.pp}"
    one = Outcome(run.id, run.group, run.slice, run.group, (run.id,), run.metric, run.value, hardware=run.hardware,
                  unsupported=listed(run), layout_text=layout, assumptions=run.assumed)
    if one.unsupported:
        return one
    if run.value <= 0:
        return replace(one, unsupported="measured value is not above 0")
    try:
        predicted = pricer.predict(run)
    except PerfplanError as error:
        return replace(one, unsupported=str(error))
    if not 0 < predicted < inf:
        return replace(one, unsupported="the model gives no finite figure")
    return replace(one, predicted=predicted, ratio=predicted / run.value, null_ratio=usual / run.value,
                   assumptions=run.assumed + pricer.read_as(run))


def outcomes(runs: Sequence[Run], pricer: Pricer) -> list[Outcome]:
    """Every run beside its prediction; the null predictor knows the median of the slice."""
    values: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        if not listed(run):
            values[run.slice].append(run.value)
    return [_outcome(run, pricer, median(values[run.slice]) if values[run.slice] else run.value) for run in runs]


@dataclass(frozen=True)
class ServingValidation(Validation):
    """Scores of runs, and what choosing by their predictions would have cost."""

    choices: tuple[Choice, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Scores, rows and choices under machine names."""
        return {**super().as_dict(), "choices": [asdict(one) for one in self.choices]}


def planner_margin(catalog: Catalog) -> Callable[[str], float]:
    """Model id -> share by which the planner lets TPOT exceed its prediction [1]."""
    bands = catalog.bands()
    return lambda model: tpot_margin(bands, catalog.model(model))


def with_choices(runs: Sequence[Run], found: Sequence[Outcome], catalog: Catalog) -> ServingValidation:
    """Scores of outcomes, one per run in the same order, and the choices among them, made with the planner's margin."""
    scores, priced = summary(found), list(zip(runs, found, strict=True))
    choices = tuple(one for one in (width_choice(priced), ceiling_choice(priced, planner_margin(catalog)))
                    if one.groups)
    return ServingValidation(scores.overall, scores.slices, scores.outcomes, choices)


def _validate(files: Sequence[Path], catalog: Catalog | None) -> ServingValidation:
    runs = [run for path in files for run in read_runs(path)]
    source = catalog or Catalog()
    return with_choices(runs, outcomes(runs, Pricer(source)), source)


def validate_serving(files: Iterable[str | Path] = (), *, catalog: Catalog | None = None) -> ServingValidation:
    """Scores of throughput, latency and batch-1 figures, per group; the shipped file unless others are named."""
    return _validate([Path(name) for name in files] or list(shipped(SERVING_FILES)), catalog)


def validate_latency(files: Iterable[str | Path] = (), *, catalog: Catalog | None = None) -> ServingValidation:
    """Scores of TTFT and TPOT, per group; the shipped file unless others are named."""
    return _validate([Path(name) for name in files] or list(shipped(LATENCY_FILES)), catalog)
