"""The library in three calls: plan, estimate or question a layout, by catalog names, as the command line does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from perfplan.calibration.bands import Bands
from perfplan.catalog import Catalog
from perfplan.catalog.specs import Moe
from perfplan.errors import SpecError
from perfplan.training.estimate import Estimate, estimate
from perfplan.training.job import Job
from perfplan.training.layout import Layout
from perfplan.training.plan import Plan, banded, gpu_counts, plan
from perfplan.training.why import Answer, why
from perfplan.units import parse

__all__ = ["estimate_train", "plan_train", "training_job", "why_train"]


def _loaded(catalog: Catalog | None) -> tuple[Catalog, Bands]:
    catalog = catalog or Catalog()
    return catalog, catalog.bands()


def training_job(
    model: str | Path,
    *,
    cluster: str,
    gpus: int,
    global_batch: int,
    seq_len: int,
    precision: str = "bf16",
    framework: str = "",
    attention: str = "",
    routing_skew: float = 1.0,
    overlap: Mapping[str, float] | None = None,
    order: str = "tp-cp-dp-pp",
    optimizer: str = "",
    method: str = "pretrain",
    lora_rank: int = 16,
    packed: int = 0,
    cuda_graphs: Sequence[str] = (),
    padded_experts: bool = False,
    technique: Sequence[str] = (),
    catalog: Catalog | None = None,
) -> Job:
    """A training job by names.

    model: catalog id, Hugging Face name, or path of a config.json; cluster: catalog id, or an accelerator for its
    default cluster; precision: a recipe; framework: a software release ("" = the vendor's usual one); optimizer: a
    catalog id ("" = Adam as the recipe stores it); method: pretrain, sft or lora (frozen base, adapters of
    `lora_rank` beside the attention projections); packed: mean tokens of documents that share a sequence, 0 = one
    document; cuda_graphs: what CUDA graphs capture (attn, mlp, moe_router ... or full_iteration);
    padded_experts: tokens beyond an expert's capacity are dropped, the rest padded to it.
    """
    catalog = catalog or Catalog()
    machine = catalog.cluster(cluster)
    software = framework or ("maxtext" if machine.accelerator.family == "tpu" else "megatron-core")
    spec = catalog.model(str(model))
    job = Job(
        spec,
        machine,
        gpus,
        global_batch,
        seq_len,
        catalog.recipe(precision),
        catalog.framework(software),
        attention,
        routing_skew,
        dict(overlap or {}),
        order,
        catalog.optimizer(optimizer) if optimizer else None,
        method,
        lora_rank,
        packed,
        tuple(cuda_graphs),
        padded_experts,
    )
    if lora_rank != 16 and method != "lora":
        raise SpecError(f"--lora-rank {lora_rank} changes nothing with method {method}; give --method lora")
    if routing_skew != 1 and not any(isinstance(kind.ffn, Moe) for kind in spec.kinds):
        raise SpecError(f"routing skew {routing_skew:g} changes nothing: {spec.id} has no routed experts")
    if padded_experts and not any(isinstance(kind.ffn, Moe) for kind in spec.kinds):
        raise SpecError(f"padded experts change nothing: {spec.id} has no routed experts")
    for name in technique:
        from perfplan.validation.techniques import apply

        job = apply(catalog.technique(name), job)
        job = replace(
            job, caveats=(*job.caveats, f"technique {name} applied as its file says; what it requires is not checked")
        )
    _all_used(catalog)
    return job


def _all_used(catalog: Catalog) -> None:
    unused = catalog.unused_settings()
    if unused:
        raise SpecError(f"setting {unused[0]} changes nothing here: this job uses no such entry")


def plan_train(
    model: str | Path,
    *,
    cluster: str,
    gpus: int | tuple[int, int],
    global_batch: int,
    seq_len: int,
    precision: str = "bf16",
    tokens: float | str | None = None,
    objective: str = "time",
    top: int = 10,
    deadline: float | str | None = None,
    fix: str = "",
    forbid: str = "",
    framework: str = "",
    attention: str = "",
    routing_skew: float = 1.0,
    overlap: Mapping[str, float] | None = None,
    order: str = "tp-cp-dp-pp",
    optimizer: str = "",
    method: str = "pretrain",
    lora_rank: int = 16,
    packed: int = 0,
    cuda_graphs: Sequence[str] = (),
    padded_experts: bool = False,
    technique: Sequence[str] = (),
    catalog: Catalog | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> Plan:
    """The best layouts for a training job; see `perfplan plan train`. tokens such as "15T", deadline such as "30 d"."""
    catalog, bands = _loaded(catalog)
    low, high = (gpus, gpus) if isinstance(gpus, int) else gpus
    counts = gpu_counts(low, high) if low != high else ()
    job = training_job(
        model,
        cluster=cluster,
        gpus=high,
        global_batch=global_batch,
        seq_len=seq_len,
        precision=precision,
        framework=framework,
        attention=attention,
        routing_skew=routing_skew,
        overlap=overlap,
        order=order,
        optimizer=optimizer,
        method=method,
        lora_rank=lora_rank,
        packed=packed,
        cuda_graphs=cuda_graphs,
        padded_experts=padded_experts,
        technique=technique,
        catalog=catalog,
    )
    return plan(
        job,
        bands,
        counts=counts,
        objective=objective,
        top=top,
        fix=fix,
        forbid=forbid,
        tick=tick,
        tokens=parse(tokens, "tokens") if isinstance(tokens, str) else tokens,
        deadline=parse(deadline, "s") if isinstance(deadline, str) else deadline,
    )


def estimate_train(
    model: str | Path,
    *,
    cluster: str,
    layout: str,
    global_batch: int,
    seq_len: int,
    gpus: int | None = None,
    precision: str = "bf16",
    framework: str = "",
    attention: str = "",
    routing_skew: float = 1.0,
    overlap: Mapping[str, float] | None = None,
    order: str = "tp-cp-dp-pp",
    optimizer: str = "",
    method: str = "pretrain",
    lora_rank: int = 16,
    packed: int = 0,
    cuda_graphs: Sequence[str] = (),
    padded_experts: bool = False,
    technique: Sequence[str] = (),
    catalog: Catalog | None = None,
) -> Estimate:
    """What one layout costs; `gpus` defaults to the accelerators that the layout uses."""
    catalog, bands = _loaded(catalog)
    parsed = Layout.parse(layout)
    job = training_job(
        model,
        cluster=cluster,
        gpus=gpus or parsed.world,
        global_batch=global_batch,
        seq_len=seq_len,
        precision=precision,
        framework=framework,
        attention=attention,
        routing_skew=routing_skew,
        overlap=overlap,
        order=order,
        optimizer=optimizer,
        method=method,
        lora_rank=lora_rank,
        packed=packed,
        cuda_graphs=cuda_graphs,
        padded_experts=padded_experts,
        technique=technique,
        catalog=catalog,
    )
    return banded(estimate(job, parsed), bands)


def why_train(
    model: str | Path, *, layout: str, catalog: Catalog | None = None, fix: str = "", forbid: str = "", **job: object
) -> Answer:
    """Whether a layout is in the searched space, why it was rejected, how far behind the best and in which parts."""
    catalog, bands = _loaded(catalog)
    return why(training_job(model, catalog=catalog, **job), Layout.parse(layout), bands, fix=fix, forbid=forbid)  # type: ignore[arg-type]
