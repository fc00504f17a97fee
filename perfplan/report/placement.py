"""Placements of experts as text, as rows of a table and as JSON documents."""

from __future__ import annotations

from typing import Any

from perfplan.placement.study import Option, Study
from perfplan.report.columns import Column, Row
from perfplan.report.text import paragraph, table
from perfplan.units import show

__all__ = ["OPTION_COLUMNS", "option_rows", "study_document", "study_text"]

OPTION_COLUMNS = (
    Column("placement"),
    Column("cross", "cross-GPU", "%"),
    Column("cross_node", "cross-node", "%"),
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


def _head(study: Study) -> str:
    step, routing = study.step, study.problem.routing
    per = f", context {step.context}" if step.phase == "decode" else ""
    return (
        f"{step.job.model.id} on {step.job.cluster.id}, ep{step.gpus}: {routing.layers} layers x {routing.experts}"
        f" experts by {routing.source}; {step.phase} of {step.tokens} tokens a GPU{per}, {step.job.engine.name},"
        f" {step.job.weights.id}"
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
    lines = [paragraph(_head(study)), "", table(option_rows(study), OPTION_COLUMNS), ""]
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
        "gpu": study.best.placed,
    }
