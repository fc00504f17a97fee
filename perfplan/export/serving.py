"""A serving deployment as the launch settings of an engine."""

from __future__ import annotations

import math
from dataclasses import replace

from perfplan.catalog import Catalog
from perfplan.export.flags import LaunchFlags, placed_flags, written
from perfplan.export.launchers import Fact, launcher
from perfplan.serving.deploy import Deployment
from perfplan.serving.formats import number_format
from perfplan.serving.job import BITS, ServingJob
from perfplan.serving.layout import ServingLayout
from perfplan.serving.plan import ServePlan

__all__ = ["deployment_flags", "plan_flags", "serving_flags"]

ON_LOADING = ("fp8",)
"""Formats to which engines quantise a 16-bit checkpoint as they load it; for others they need one that has them."""


def _facts(job: ServingJob, layout: ServingLayout, sequences: int, length: int, role: str) -> dict[str, Fact]:
    """What a launch may say of an instance; defaults are left out."""
    routed = job.model.routed
    facts: dict[str, Fact] = {"heads_tp": layout.tp, "width": layout.width, "length": length,
                              "token_budget": job.engine.token_budget,
                              "all_token_budget": job.engine.token_budget * layout.adp}
    facts |= {"sequences": sequences, "all_sequences": sequences * layout.adp} if sequences else {}
    facts |= {name: size for name, size in (("pp", layout.pp), ("adp", layout.adp), ("dcp", layout.dcp)) if size > 1}
    if layout.adp > 1:
        facts["attention_dp"] = True
        facts["all_attention_dp" if layout.tp == 1 else "some_attention_dp"] = True
    if routed and layout.width > 1:
        facts |= {"ep": layout.ep, "etp": layout.etp}
        facts |= {"experts_apart": True} if layout.ep == layout.width else {}
        facts |= {"experts_in_between": True} if 1 < layout.ep < layout.width else {}
    facts |= {"kv": job.kv} if job.kv != "bf16" else {}
    facts |= {"quantization": job.weights.id} if job.weights != number_format(job.model.dtype) else {}
    facts |= {"memory_fraction": f"{job.engine.memory_fraction:g}"}
    facts |= {"drafts": job.drafts} if job.drafts else {}
    return facts | ({"role": role} if role else {})


def serving_flags(catalog: Catalog, name: str, job: ServingJob, layout: ServingLayout, *, sequences: int, length: int,
                  role: str = "") -> LaunchFlags:
    """The settings with which the engine `name` runs one instance. sequences: most that run at a time on one attention
    rank, 0 = as the engine likes; length: tokens of the longest request; role: prefill or decode, where pools are
    apart."""
    table = launcher(catalog, name, phase="serving")
    facts = _facts(job, layout, sequences, length, role)
    rows = {row.fact for row in table.flags}
    between, part = facts.pop("experts_in_between", False), facts.pop("some_attention_dp", False)
    unmapped = [f"ep{layout.ep} of {layout.width} ranks"] if between and "ep" not in rows else []
    if part and "all_attention_dp" in rows:
        unmapped.append(f"adp{layout.adp} beside tp{layout.tp}")
    own = job.engine.id.startswith(table.engine)
    if not own:
        facts.pop("memory_fraction")
    loads = "quantization" in rows and facts.get("quantization") in ON_LOADING and job.model.dtype in BITS
    form = "" if loads else facts.pop("quantization", "")
    placed = placed_flags(table, facts)
    said = {row.fact for row, _ in placed} | {*table.implied}
    unmapped += [f"{fact} {facts[fact]}" for fact in facts if fact not in said]
    notes = [f"start {layout.dp} such instances behind a router"] if layout.dp > 1 else []
    notes += [f"serve a checkpoint with weights in {form}, as they are priced"] if form else []
    notes += [] if own else [f"the figures are those of {job.engine.id}, not of {table.name}"]
    return LaunchFlags(table, facts, written(table, placed), tuple(unmapped), tuple(notes))


def deployment_flags(catalog: Catalog, name: str, found: Deployment) -> tuple[LaunchFlags, ...]:
    """The settings of a priced layout, as many sequences as were in flight."""
    sequences = math.ceil(float(found.steady.in_flight) / found.layout.adp)
    return (serving_flags(catalog, name, found.job, found.layout, sequences=sequences, length=found.isl + found.osl),)


def plan_flags(catalog: Catalog, name: str, plan: ServePlan) -> tuple[LaunchFlags, ...]:
    """The settings of the best deployment: one for all its instances, or one for each pool."""
    best, longest = plan.best, plan.workload.isl.longest + plan.workload.osl.longest
    pools = [(best.decode, best.decodes, math.ceil(best.batch), "decode")]
    if best.kind == "disaggregated":
        pools.insert(0, (best.prefill, best.prefills, 0, "prefill"))
    return tuple(
        serving_flags(catalog, name, curve.job, replace(curve.layout, dp=count), sequences=sequences,
                      length=int(longest), role=role if best.kind == "disaggregated" else "")
        for curve, count, sequences, role in pools)
