"""Placements of experts as text, as rows of a table and as JSON documents."""

from __future__ import annotations

from typing import Any

from perfplan.placement.replicated import KNEE, Choice, Replicated, Sweep
from perfplan.placement.routing import Routing
from perfplan.placement.step import Step
from perfplan.placement.study import Option, Study
from perfplan.report.columns import Column, Row
from perfplan.report.text import paragraph, table
from perfplan.units import show

__all__ = [
    "CHOICE_COLUMNS",
    "OPTION_COLUMNS",
    "SWEEP_COLUMNS",
    "choice_rows",
    "option_rows",
    "replicated_document",
    "replicated_text",
    "study_document",
    "study_text",
    "sweep_document",
    "sweep_rows",
    "sweep_text",
]

OPTION_COLUMNS = (
    Column("placement"),
    Column("cross", "cross-GPU", "%"),
    Column("cross_node", "cross-node", "%"),
    Column("gpus", "GPUs hit", "1"),
    Column("nodes", "nodes hit", "1"),
    Column("balance", "max/mean load", "1"),
    Column("worst", "worst layer", "1"),
    Column("experts", "experts", "s"),
    Column("exchange", "exchange", "s"),
    Column("step", "step", "s"),
    Column("coherent", "step, coherent", "s"),
)


def _row(option: Option) -> Row:
    return {
        "placement": option.name,
        "cross": option.score.cross,
        "cross_node": option.score.cross_node,
        "gpus": option.reached and option.reached[0],
        "nodes": option.reached and option.reached[1],
        "balance": option.score.balance,
        "worst": option.score.worst,
        "experts": option.time.experts,
        "exchange": option.time.exchange,
        "step": option.time.step,
        "coherent": option.coherent.step if option.coherent else None,
    }


def option_rows(study: Study) -> list[Row]:
    """One row per placement."""
    return [_row(option) for option in study.options]


def _routed(step: Step, routing: Routing) -> str:
    per = f", context {step.context}" if step.phase == "decode" else ""
    sent = step.job.cluster.dispatcher
    by = f", dispatch by {sent.id}" if sent else ""
    return (
        f"{step.job.model.id} on {step.job.cluster.id}, ep{step.gpus}: {routing.layers} layers x {routing.experts}"
        f" experts by {routing.source}; {step.phase} of {step.tokens} tokens a GPU{per}, {step.job.engine.name},"
        f" {step.job.weights.id}{by}"
    )


def _price(study: Study) -> str:
    own, coherent = study.step.cache_price()
    return (
        f"coherent: ExFlow's exchange, one all-to-all a layer and one all-gather a step; every GPU then keeps the"
        f" cache of all sequences, {show(coherent, 'B')} instead of {show(own, 'B')} for each of its tokens"
    )


def study_text(study: Study) -> str:
    """The report for people."""
    before, after = study.options[0], study.best
    verdict, objective = study.verdict, study.request.objective
    lines = [paragraph(_routed(study.step, study.problem.routing)), "", table(option_rows(study), OPTION_COLUMNS), ""]
    if study.certificate is not None:
        lines.append(paragraph(f"{objective}: {study.certificate.sentence()}"))
    exchange = study.request.exchange
    if exchange == "coherent" and before.coherent and after.coherent:
        pair = before.coherent.step, after.coherent.step
    else:
        pair = before.time.step, after.time.step
    lines.append(
        paragraph(f"step: {show(pair[0], 's')} with {before.name}, {show(pair[1], 's')} with {after.name} ({exchange})")
    )
    lines += [paragraph(f"verdict: {verdict.word}; {verdict.why}")]
    if study.request.capacity:
        held, each = study.problem.held(after.placed), study.step.expert_bytes()
        lines.append(
            paragraph(
                f"memory: {held.min()} to {held.max()} experts of all layers on a GPU, at most"
                f" {show(held.max() * each, 'B')}, with room for {study.request.capacity}"
            )
        )
    if after.coherent is not None:
        lines.append(paragraph(_price(study)))
    return "\n".join(lines)


def study_document(study: Study) -> dict[str, Any]:
    """Everything, for machines."""
    found = study.certificate
    return {
        "model": study.step.job.model.id,
        "cluster": study.step.job.cluster.id,
        "ep": study.step.gpus,
        "phase": study.step.phase,
        "tokens_per_gpu": study.step.tokens,
        "routing": study.problem.routing.source,
        "objective": study.request.objective,
        "exchange": study.request.exchange,
        "placements": [dict(row) for row in option_rows(study)],
        "certificate": found
        and {
            "objective": found.objective,
            "bound": found.bound,
            "gap": found.gap,
            "proven": found.proven,
            "unit": found.unit,
            "sentence": found.sentence(),
        },
        "verdict": study.verdict,
        "layer_balance": study.best.score.layers,
        "experts_held": study.problem.held(study.best.placed),
        "gpu": study.best.placed,
    }


# ---------------------------------------------------------------- replicas
CHOICE_COLUMNS = (
    Column("policy"),
    Column("balance", "max/mean load", "1", 4),
    Column("worst", "worst layer", "1", 4),
    Column("bound", "at least", "1", 4),
    Column("gap", "gap", "%"),
    Column("experts", "experts", "s"),
    Column("exchange", "exchange", "s"),
    Column("step", "step", "s"),
)


def choice_rows(found: Replicated) -> list[Row]:
    """One row per policy."""
    return [
        {
            "policy": one.plan.name,
            "balance": one.certificate.objective,
            "worst": float(one.balance.max()),
            "bound": one.certificate.bound,
            "gap": one.certificate.gap,
            "experts": one.time.experts,
            "exchange": one.time.exchange,
            "step": one.time.step,
        }
        for one in found.choices
    ]


def replicated_text(found: Replicated, chosen: Choice) -> str:
    """The report for people."""
    step, routing, first = found.step, found.routing, found.choices[0]
    per = f", context {step.context}" if step.phase == "decode" else ""
    head = (
        f"{step.job.model.id} on {step.job.cluster.id}, ep{step.gpus}: {routing.layers} layers x {routing.experts}"
        f" experts, {found.redundant} redundant slots a layer ({found.slots} a GPU), by {routing.source}; {step.phase}"
        f" of {step.tokens} tokens a GPU{per}, {step.job.engine.name}, {step.job.weights.id}"
    )
    gain = 1 - chosen.time.step / first.time.step
    return "\n".join(
        [
            paragraph(head),
            "",
            table(choice_rows(found), CHOICE_COLUMNS),
            "",
            paragraph(
                f"{chosen.plan.name}: {chosen.certificate.sentence()} (largest over mean load, mean of the layers)"
            ),
            paragraph(
                f"step: {show(first.time.step, 's')} without replicas, {show(chosen.time.step, 's')} with them,"
                f" {100 * gain:.1f} % less, for {show(found.memory(), 'B')} of weights a GPU"
            ),
            paragraph(
                "fractional split needs weighted dispatch: a token goes to a replica with the share that --json lists"
            ),
        ]
    )


def replicated_document(found: Replicated, chosen: Choice) -> dict[str, Any]:
    """Everything, for machines."""
    return {
        "model": found.step.job.model.id,
        "cluster": found.step.job.cluster.id,
        "ep": found.step.gpus,
        "redundant": found.redundant,
        "phase": found.step.phase,
        "tokens_per_gpu": found.step.tokens,
        "policies": choice_rows(found),
        "chosen": chosen.plan.name,
        "certificate": chosen.certificate.sentence(),
        "extra_weights_bytes": found.memory(),
        "physical_to_logical_map": chosen.plan.slots,
        "shares": chosen.plan.shares,
    }


# ---------------------------------------------------------------- how many redundant slots
SWEEP_COLUMNS = (
    Column("redundant", "redundant", ""),
    Column("slots", "slots a GPU", ""),
    Column("balance", "max/mean load", "1", 4),
    Column("worst", "worst layer", "1", 4),
    Column("gap", "gap", "%"),
    Column("experts", "experts", "s"),
    Column("exchange", "exchange", "s"),
    Column("step", "step", "s"),
    Column("next", "next window", "s"),
    Column("memory", "memory", "B"),
)


def sweep_rows(found: Sweep) -> list[Row]:
    """One row per amount of redundant slots."""
    return [
        {
            "redundant": one.redundant,
            "slots": one.slots,
            "balance": one.choice.certificate.objective,
            "worst": float(one.choice.balance.max()),
            "gap": one.choice.certificate.gap,
            "experts": one.choice.time.experts,
            "exchange": one.choice.time.exchange,
            "step": one.choice.time.step,
            "next": one.next,
            "memory": one.memory,
        }
        for one in found.rows
    ]


def sweep_text(found: Sweep) -> str:
    """The report for people."""
    knee, first = found.knee, found.rows[0]
    window = "on the next window " if knee.next is not None else ""
    pair = (first.choice.time.step, knee.choice.time.step) if knee.next is None else (first.next, knee.next)
    words = (
        f"knee: {knee.redundant} redundant slots a layer ({knee.slots} a GPU), by {knee.choice.plan.name}: a step takes"
        f" {show(pair[1] or 0.0, 's')} {window}instead of {show(pair[0] or 0.0, 's')} with {first.redundant}, for"
        f" {show(knee.memory, 'B')} of weights a GPU; no larger amount listed saves another {100 * KNEE:.0f} %"
    )
    lines = [paragraph(_routed(found.step, found.routing)), "", table(sweep_rows(found), SWEEP_COLUMNS), ""]
    if knee is found.rows[-1] and len(found.rows) > 1:
        words += "; it is the largest listed, so more may save more"
    return "\n".join([*lines, paragraph(words)])


def sweep_document(found: Sweep) -> dict[str, Any]:
    """Everything, for machines."""
    return {
        "model": found.step.job.model.id,
        "cluster": found.step.job.cluster.id,
        "ep": found.step.gpus,
        "phase": found.step.phase,
        "tokens_per_gpu": found.step.tokens,
        "routing": found.routing.source,
        "amounts": sweep_rows(found),
        "knee": found.knee.redundant,
        "policy": found.knee.choice.plan.name,
        "physical_to_logical_map": found.knee.choice.plan.slots,
    }
