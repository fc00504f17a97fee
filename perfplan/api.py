"""The library in a few calls: plan, estimate or question a layout, by catalog names, as the command line does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from perfplan.calibration.bands import Bands
from perfplan.catalog import Catalog
from perfplan.catalog.check import refuse_unused
from perfplan.errors import OutOfRange, SpecError, offer
from perfplan.serving.words import ENGINE
from perfplan.training.estimate import Estimate, estimate
from perfplan.training.job import Job
from perfplan.training.layout import Layout
from perfplan.training.plan import Plan, banded, gpu_counts, plan
from perfplan.units import parse

if TYPE_CHECKING:
    from perfplan.export.flags import LaunchFlags
    from perfplan.export.launched import Launched
    from perfplan.export.served import Served
    from perfplan.overlap.blocks import Sharing
    from perfplan.overlap.offload import Offload
    from perfplan.overlap.physics import Gap
    from perfplan.overlap.scheduled import ScheduledLayer, ScheduledPipeline
    from perfplan.overlap.serving_physics import ServedStep
    from perfplan.placement.chunked import ChunkedLayer
    from perfplan.serving.diagnose import Diagnosis
    from perfplan.serving.fleets import Provisioned
    from perfplan.serving.plan import ServePlan
    from perfplan.serving.replay import Replayed
    from perfplan.training.why import Answer

__all__ = [
    "JobOptions",
    "diagnose_serve",
    "estimate_train",
    "gap_serve",
    "gap_train",
    "launch_flags",
    "plan_serve",
    "plan_train",
    "provision_serve",
    "read_launch",
    "schedule_layer",
    "schedule_moe",
    "schedule_offload",
    "schedule_pipeline",
    "simulate_serve",
    "training_job",
    "why_train",
]


def _loaded(catalog: Catalog | None) -> tuple[Catalog, Bands]:
    catalog = catalog or Catalog()
    return catalog, catalog.bands()


def read_launch(
    framework: str, line: str, *, model: str | Path = "", gpus: int | None = None, catalog: Catalog | None = None
) -> Launched:
    """A user's own launch line, such as `("megatron-lm", "torchrun ... pretrain_gpt.py --num-layers 32 ...")`, for the
    `launch` of `estimate_train`, `why_train` and `training_job`. model: entry that it must agree with, "" = from the
    flags; gpus: accelerators, where the line does not start them."""
    from perfplan.export.launched import launched

    return launched(catalog or Catalog(), framework, line, model=str(model), gpus=gpus)


def launch_flags(
    found: Estimate | Plan, framework: str = "megatron-lm", catalog: Catalog | None = None
) -> LaunchFlags:
    """The flags with which a framework (megatron-lm, megatron-bridge, torchtitan, deepspeed) runs a layout, or the best
    one of a plan; `text` is what is pasted, `unmapped` what the framework has no flag for."""
    from perfplan.export.flags import launch_flags as flags_of

    e = found.best if isinstance(found, Plan) else found
    return flags_of(catalog or Catalog(), framework, e.job, e.layout)


_UNSAID = {"order": "tp-cp-dp-pp", "precision": "bf16"}


def _agreed(launch: Launched | None, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a job, from the launch line where they were not given; what contradicts it is an error."""
    said = launch.arguments if launch else {}
    for name, value in said.items():
        mine = given[name]
        if mine and mine not in (_UNSAID.get(name), value):
            raise SpecError(f"{name.replace('_', ' ')} {mine} was given, but the launch line says {value}; drop one")
    found = given | said
    for name, flag in (("gpus", "--gpus"), ("global_batch", "--global-batch"), ("seq_len", "--seq-len")):
        if found[name] is None:
            where = "in the launch line or beside it" if launch else "or a launch line that has it"
            raise SpecError(f"{name.replace('_', ' ')} is not given; give {flag}, {where}")
    return found


class JobOptions(TypedDict, total=False):
    """What `training_job` takes beside model, cluster, accelerators and batch; what is left out is its default."""

    precision: str
    framework: str
    attention: str
    routing_skew: float
    routing: str
    overlap: Mapping[str, float] | None
    order: str
    optimizer: str
    method: str
    lora_rank: int
    packed: int
    cuda_graphs: Sequence[str]
    padded_experts: bool
    mtp: int | None
    power_cap: str
    technique: Sequence[str]


def training_job(
    model: str | Path = "",
    *,
    cluster: str,
    gpus: int | None = None,
    global_batch: int | None = None,
    seq_len: int | None = None,
    precision: str = "bf16",
    framework: str = "",
    attention: str = "",
    routing_skew: float = 1.0,
    routing: str = "",
    overlap: Mapping[str, float] | None = None,
    order: str = "tp-cp-dp-pp",
    optimizer: str = "",
    method: str = "pretrain",
    lora_rank: int = 16,
    packed: int = 0,
    cuda_graphs: Sequence[str] = (),
    padded_experts: bool = False,
    mtp: int | None = None,
    power_cap: str = "",
    technique: Sequence[str] = (),
    launch: Launched | None = None,
    catalog: Catalog | None = None,
) -> Job:
    """A training job by names.

    model: catalog id, Hugging Face name, or path of a config.json; cluster: catalog id, or an accelerator for its
    default cluster; precision: a recipe; framework: a software release ("" = the vendor's usual one); optimizer: a
    catalog id ("" = Adam as the recipe stores it); method: pretrain, sft or lora (frozen base, adapters of
    `lora_rank` beside the attention projections); packed: mean tokens of documents that share a sequence, 0 = one
    document; cuda_graphs: what CUDA graphs capture (attn, mlp, moe_router ... or full_iteration);
    padded_experts: tokens beyond an expert's capacity are dropped, the rest padded to it; mtp: multi-token-prediction
    modules that are trained (None = the model's, in pretraining with a framework whose recipes train them); power_cap:
    of each accelerator, such as "500 W" ("" = none); routing: a file of
    routing, or `synthetic`, that gives the skew; launch: a launch line, which says what the others leave out.
    """
    from perfplan.training.power import CAPPED, capped

    catalog = catalog or Catalog()
    if launch is None and not str(model):
        raise SpecError("no model is named; give a catalog id, the path of a config.json, or a launch line")
    given: dict[str, Any] = _agreed(launch, {
        "gpus": gpus, "global_batch": global_batch, "seq_len": seq_len, "precision": precision, "order": order,
        "optimizer": optimizer, "attention": attention, "cuda_graphs": tuple(cuda_graphs),
        "padded_experts": padded_experts})
    optimizer = given["optimizer"]
    machine = catalog.cluster(cluster)
    if power_cap:
        machine = capped(machine, parse(power_cap, "W", "--power-cap"))
    software = framework or ("maxtext" if machine.accelerator.family == "tpu" else "megatron-core")
    spec, release = launch.model if launch else catalog.model(str(model)), catalog.framework(software)
    job = Job(
        spec,
        machine,
        given["gpus"],
        given["global_batch"],
        given["seq_len"],
        launch.recipe if launch else catalog.recipe(precision),
        launch.framework(release) if launch else release,
        given["attention"],
        routing_skew,
        {**(launch.overlap if launch else {}), **(overlap or {})},
        given["order"],
        catalog.optimizer(optimizer) if optimizer else None,
        method,
        lora_rank,
        packed,
        given["cuda_graphs"],
        given["padded_experts"],
        mtp,
        (*(launch.caveats if launch else ()), *((CAPPED,) if power_cap else ())),
    )
    if routing:
        job = _routed(job, routing)
    if lora_rank != 16 and method != "lora":
        raise SpecError(f"--lora-rank {lora_rank} changes nothing with method {method}; give --method lora")
    if routing_skew != 1 and not spec.routed:
        raise SpecError(f"routing skew {routing_skew:g} changes nothing: {spec.id} has no routed experts")
    if padded_experts and not spec.routed:
        raise SpecError(f"padded experts change nothing: {spec.id} has no routed experts")
    for name in technique:
        from perfplan.validation.techniques import apply

        job = apply(catalog.technique(name), job)
        job = replace(
            job, caveats=(*job.caveats, f"technique {name} applied as its file says; what it requires is not checked")
        )
    refuse_unused(catalog)
    return job


def _routed(job: Job, routing: str) -> Job:
    """The job with the skew of its routing at every width of the expert-parallel group."""
    from perfplan.placement.skew import skewed

    table, words = skewed(job.model, routing, job.routing_skew)
    return replace(job, skews=table, caveats=(*job.caveats, *words))


def plan_train(
    model: str | Path,
    *,
    cluster: str,
    gpus: int | tuple[int, int],
    global_batch: int,
    seq_len: int,
    tokens: float | str | None = None,
    objective: str = "time",
    top: int = 10,
    deadline: float | str | None = None,
    fix: str = "",
    forbid: str = "",
    catalog: Catalog | None = None,
    tick: Callable[[int], None] = lambda _: None,
    **job: Unpack[JobOptions],
) -> Plan:
    """The best layouts for a training job; see `perfplan plan train`. tokens such as "15T", deadline such as "30 d";
    job: as of `training_job`."""
    catalog, bands = _loaded(catalog)
    low, high = (gpus, gpus) if isinstance(gpus, int) else gpus
    counts = gpu_counts(low, high) if low != high else ()
    made = training_job(
        model,
        cluster=cluster,
        gpus=high,
        global_batch=global_batch,
        seq_len=seq_len,
        catalog=catalog,
        **job,
    )
    return plan(
        made,
        bands,
        counts=counts,
        objective=objective,
        top=top,
        fix=fix,
        forbid=forbid,
        tick=tick,
        tokens=parse(tokens, "tokens", "--tokens") if isinstance(tokens, str) else tokens,
        deadline=parse(deadline, "s", "--deadline") if isinstance(deadline, str) else deadline,
    )


def estimate_train(
    model: str | Path = "",
    *,
    cluster: str,
    layout: str = "",
    global_batch: int | None = None,
    seq_len: int | None = None,
    gpus: int | None = None,
    launch: Launched | None = None,
    catalog: Catalog | None = None,
    **job: Unpack[JobOptions],
) -> Estimate:
    """What one layout costs; `gpus` defaults to the accelerators that the layout uses. launch: a launch line, which
    says the layout and what else is left out; job: as of `training_job`."""
    catalog, bands = _loaded(catalog)
    parsed = _layout(layout, launch)
    made = training_job(
        model,
        cluster=cluster,
        gpus=gpus or parsed.world,
        global_batch=global_batch,
        seq_len=seq_len,
        launch=launch,
        catalog=catalog,
        **job,
    )
    return banded(estimate(made, parsed), bands)


def _layout(text: str, launch: Launched | None) -> Layout:
    """The layout that is written, or the launch line's."""
    if not text.strip() and launch is None:
        raise SpecError("no layout is given; give --layout, or a launch line with --from")
    if launch is None:
        return Layout.parse(text)
    if text.strip() and Layout.parse(text) != launch.layout:
        raise SpecError(f"--layout {text!r} was given, but the launch line says {str(launch.layout)!r}; drop one")
    return launch.layout


def why_train(
    model: str | Path = "",
    *,
    layout: str = "",
    launch: Launched | None = None,
    catalog: Catalog | None = None,
    fix: str = "",
    forbid: str = "",
    **job: Any,
) -> Answer:
    """Whether a layout is in the searched space, why it was rejected, how far behind the best and in which parts."""
    from perfplan.training.why import why

    catalog, bands = _loaded(catalog)
    parsed = _layout(layout, launch)
    return why(training_job(model, catalog=catalog, launch=launch, **job), parsed, bands, fix=fix, forbid=forbid)


def schedule_pipeline(
    model: str | Path, *, cluster: str, layout: str, compare: Sequence[str] = (), balance: bool = False, **job: Any
) -> ScheduledPipeline:
    """Pipeline schedules by name (all unless given) on the stages of one layout, or on balanced ones."""
    from perfplan.overlap.scheduled import schedule_pipeline as scheduled

    parsed = Layout.parse(layout)
    return scheduled(training_job(model, cluster=cluster, gpus=parsed.world, **job), parsed, compare, balance)


def schedule_offload(
    model: str | Path,
    *,
    cluster: str,
    layout: str,
    subgroup: str = "10M",
    host_memory: str = "",
    nvme: str = "",
    **job: Any,
) -> Offload:
    """Where the optimizer state of a layout lies and what updates it: named ways, and the best by MILP.

    subgroup: parameters updated at one time; host_memory: of the host for one accelerator's state, without limit unless
    given; nvme: bandwidth of an accelerator's disk in each direction, none unless given.
    """
    from perfplan.overlap.offload import Host
    from perfplan.overlap.offload import schedule_offload as scheduled

    parsed = Layout.parse(layout)
    made = training_job(model, cluster=cluster, gpus=parsed.world, **job)
    disk = parse(nvme, "B/s", "--nvme") if nvme else 0.0
    host = Host(parse(host_memory, "B", "--host-memory"), disk) if host_memory else Host(disk=disk)
    return scheduled(made, parsed, host, parse(subgroup, "tokens", "--subgroup"))


def plan_serve(
    model: str | Path = "",
    *,
    cluster: str,
    gpus: int,
    routing: str = "",
    routing_skew: float = 1.0,
    engine: str = "",
    weights: str = "",
    kv: Sequence[str] = (),
    launch: Served | None = None,
    catalog: Catalog | None = None,
    **wanted: Any,
) -> ServePlan:
    """The best deployments for a workload under latency limits; see `perfplan plan serve`.

    workload: catalog id or path of a CSV, or isl and osl [tokens]; rate such as "12/s", or concurrency with think time;
    ttft, tpot: limits such as "40 ms", met by `percentile` of the requests; kv: formats of the cache to choose from;
    routing: a file of routing, or `synthetic`, that gives the skew of the experts at every ep; launch: a serving
    launch line, which says what model, engine, weights and kv leave out, and is the baseline to beat; engine, weights,
    objective, kinds, top as on the command line.
    """
    from perfplan.export.served import against, planned_terms
    from perfplan.placement.skew import skewed
    from perfplan.serving.planning import plan_by_name

    found = catalog or Catalog()
    name, terms = planned_terms(str(model), launch, engine, weights, kv)
    table, words = skewed(found.model(name), routing, routing_skew)
    plan = plan_by_name(name, cluster=cluster, gpus=gpus, catalog=found, routing_skew=routing_skew, skews=table,
                        caveats=words, **terms, **wanted)
    plan = against(plan, launch) if launch else plan
    refuse_unused(found)
    return plan


def simulate_serve(plan: ServePlan, *, count: int = 3, requests: int = 0, seed: int = 0) -> list[Replayed]:
    """The first `count` deployments of a plan run through the event simulator at the rate that they have to serve."""
    from perfplan.serving.replay import replay

    return [
        replay(one, plan.workload, point.rate, plan.limits, plan.traffic.arrivals, requests=requests, seed=seed)
        for one, point in list(zip(plan.candidates, plan.points, strict=True))[:count]
    ]


def _seconds(measured: float | str | None) -> float | None:
    return parse(measured, "s", "--measured") if isinstance(measured, str) else measured


def gap_train(
    model: str | Path, *, cluster: str, layout: str, measured: float | str | None = None, **job: Any
) -> tuple[Estimate, Gap]:
    """A step of one layout, and its split into physics, layout, schedule and, with a measured step, the unexplained."""
    from perfplan.overlap.physics import gap

    found = estimate_train(model, cluster=cluster, layout=layout, **job)
    return found, gap(found, _seconds(measured))


def gap_serve(
    model: str | Path,
    *,
    cluster: str,
    layout: str,
    phase: str,
    batch: int,
    context: int,
    measured: float | str | None = None,
    catalog: Catalog | None = None,
    **formats: Any,
) -> tuple[ServedStep, Gap]:
    """A decode or prefill step of one replica, and its split like `gap_train`'s. batch: sequences of the replica;
    context: tokens cached by each, or of a prompt; formats: engine, weights, kv."""
    from perfplan.overlap.physics import Gap
    from perfplan.overlap.serving_physics import served_step, serving_physics
    from perfplan.serving.deploy import on_layout

    step = served_step(*on_layout(str(model), cluster, layout, catalog or Catalog(), context, **formats),
                       phase, batch, context)
    return step, Gap(step.time, step.compute, serving_physics(step), _seconds(measured))


def schedule_moe(
    model: str | Path,
    *,
    cluster: str,
    layout: str,
    batch: int,
    seq_len: int,
    chunks: Sequence[str] = ("1", "2", "4", "8"),
    precision: str = "bf16",
    framework: str = "",
    routing_skew: float = 1.0,
    catalog: Catalog | None = None,
) -> ChunkedLayer:
    """FSMoE's pipelined layer of a job: its times by number of chunks, and gradients in its idle windows.

    batch: sequences of a micro-batch; seq_len: tokens of each.
    """
    from perfplan.placement.chunked import chunked_layer

    if batch < 1 or seq_len < 2:
        raise OutOfRange(f"batch {batch} and {seq_len} tokens: give at least 1 and 2")
    if not all(word.isdigit() and 0 < int(word) <= 4096 for word in chunks):
        raise OutOfRange(f"chunks {','.join(chunks)!r} are numbers of 1 to 4096; write 1,2,4,8")
    at = replace(Layout.parse(layout), mbs=batch)
    job = training_job(model, cluster=cluster, gpus=at.world, global_batch=batch * at.dp, seq_len=seq_len,
                       precision=precision, framework=framework, routing_skew=routing_skew,
                       catalog=catalog or Catalog())
    return chunked_layer(job, at, [int(word) for word in chunks])


def schedule_layer(
    model: str | Path,
    *,
    cluster: str,
    layout: str,
    phase: str,
    batch: int,
    context: int,
    prompt: int = 0,
    technique: Sequence[str] = (),
    time_limit: float | None = None,
    sharing: Sharing | None = None,
    engine: str = ENGINE,
    weights: str = "",
    kv: str = "",
    precision: str = "bf16",
    framework: str = "",
    catalog: Catalog | None = None,
) -> ScheduledLayer:
    """Techniques on a window of two layers (all of them, and the best order, unless named).

    phase: decode, prefill or mixed (batch: sequences of the replica, context: tokens cached, or of a prompt; prompt:
    tokens of prompts beside the decodes of a mixed step), or train (batch: micro-batch, context: sequence length);
    time_limit: after which the search for the best order is cut short, which its certificate then says; 120 unless
    given [s].
    """
    from perfplan.overlap.blocks import Sharing
    from perfplan.overlap.scheduled import schedule_layer as scheduled

    if phase not in ("decode", "prefill", "mixed", "train"):
        raise OutOfRange(f"phase {phase!r} is unknown{offer(phase, ('decode', 'prefill', 'mixed', 'train'))}")
    if phase == "train" and prompt:
        raise OutOfRange(f"{prompt} tokens of prompt belong to serving; training has none")
    if batch < 1 or context < 1:
        raise OutOfRange(f"batch {batch} and context {context}: each must be at least 1")
    catalog, shares = catalog or Catalog(), sharing or Sharing()
    if phase == "train":
        from perfplan.overlap.training_window import training_window

        at = replace(Layout.parse(layout), mbs=batch)
        job = training_job(model, cluster=cluster, gpus=at.world, global_batch=batch * at.dp, seq_len=context,
                           precision=precision, framework=framework, catalog=catalog)
        return scheduled(training_window(job, at, shares), shares, technique, time_limit)
    from perfplan.overlap.serving_window import serving_window
    from perfplan.serving.deploy import on_layout

    served, place = on_layout(str(model), cluster, layout, catalog, context, engine=engine, weights=weights, kv=kv)
    window = serving_window(served, place, phase, batch, context, shares, prompt=prompt)
    return scheduled(window, shares, technique, time_limit)


def provision_serve(
    model: str | Path, *, clusters: Sequence[str], catalog: Catalog | None = None, **wanted: Any
) -> Provisioned:
    """A fleet of machines for a workload under latency limits; see `perfplan provision`."""
    from perfplan.serving.fleets import provision_by_name

    found = catalog or Catalog()
    fleet = provision_by_name(str(model), clusters=clusters, catalog=found, **wanted)
    refuse_unused(found)
    return fleet


def diagnose_serve(
    model: str | Path, *, cluster: str, measured: str, isl: int, osl: int, catalog: Catalog | None = None, **known: Any
) -> Diagnosis:
    """A measured throughput such as "7100 tok/s" against bound and estimate; see `perfplan diagnose`."""
    from perfplan.serving.planning import diagnose_by_name

    found = catalog or Catalog()
    told = diagnose_by_name(str(model), cluster=cluster, measured=measured, isl=isl, osl=osl, catalog=found, **known)
    refuse_unused(found)
    return told
