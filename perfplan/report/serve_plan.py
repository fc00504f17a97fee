"""Plans of deployments as text, as rows of a table and as a JSON document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from perfplan.formulas.accounting import energy_used
from perfplan.formulas.energy import price_per_million_tokens
from perfplan.overlap.serving_physics import pool_gaps
from perfplan.report.columns import Column, Row
from perfplan.report.text import paragraph, table
from perfplan.report.training import gap_sentence
from perfplan.serving.job import assumed
from perfplan.serving.plan import Flip, FrontPoint, ServePlan
from perfplan.serving.pools import Candidate, Limits, Operating, knee
from perfplan.serving.replay import Replayed
from perfplan.units import show

__all__ = ["FRONT_COLUMNS", "SERVE_COLUMNS", "front_rows", "front_text", "planned", "serve_document", "serve_rows",
           "serve_text"]

SERVE_COLUMNS = (
    Column("kind"),
    Column("layout"),
    Column("gpus", "GPUs"),
    Column("goodput", "goodput /s", "1"),
    Column("goodput_per_gpu", "per GPU", "1"),
    Column("ttft", "TTFT", "s"),
    Column("tpot", "TPOT", "s"),
    Column("load", "load", "%"),
    Column("limit", "ends by"),
)
_SIMULATED = (
    Column("sim_ttft", "TTFT simul.", "s"),
    Column("sim_tpot", "TPOT simul.", "s"),
    Column("sim_good", "within limits", "%"),
)
_MORE = (
    Column("batch", "batch", "1"),
    Column("kv"),
    Column("token_budget", "budget", "1"),
    Column("tokens_per_s_per_gpu", "tokens/s /GPU", "1"),
    Column("ttft_mean", "TTFT mean", "s"),
    Column("tpot_mean", "TPOT mean", "s"),
    Column("dollars_per_million_tokens", "$/M tokens", "$"),
)
_FLIP_COLUMNS = (
    Column("change", "with"),
    Column("goodput", "goodput of the plan", "1"),
    Column("gpus", "GPUs needed"),
    Column("reached", "their goodput", "1"),
    Column("kind", "best kind"),
    Column("layout"),
)
FRONT_COLUMNS = (
    Column("kind"),
    Column("tpot", "TPOT", "s"),
    Column("tokens_per_gpu", "tokens/s /GPU", "1"),
    Column("gpus", "GPUs"),
    Column("layout"),
)


def columns(simulated: bool, everything: bool = False) -> tuple[Column, ...]:
    """Columns of the table of deployments, with those of a simulation (for people instead of the goodput per
    accelerator), and for machines with all."""
    plain = tuple(c for c in SERVE_COLUMNS[:-1] if everything or not simulated or c.key != "goodput_per_gpu")
    return plain + _SIMULATED * simulated + SERVE_COLUMNS[-1:] + _MORE * everything


def _row(plan: ServePlan, one: Candidate, point: Operating, run: Replayed | None) -> Row:
    chip = one.decode.job.cluster.accelerator
    tokens = point.rate * plan.workload.osl.mean
    price = chip.price_per_hour
    return {
        "kind": one.kind,
        "layout": one.layout,
        "gpus": one.gpus,
        "goodput": one.goodput,
        "goodput_per_gpu": one.goodput / one.gpus,
        "ttft": point.ttft_percentile,
        "tpot": point.tpot_percentile,
        "load": point.load,
        "limit": one.limit,
        "batch": one.batch,
        "kv": one.decode.job.kv,
        "token_budget": one.decode.job.engine.token_budget,
        "tokens_per_s_per_gpu": tokens / one.gpus,
        "ttft_mean": point.ttft,
        "tpot_mean": point.tpot,
        "dollars_per_million_tokens": None if price is None else price_per_million_tokens(price, one.gpus, tokens),
        "sim_ttft": run.ttft if run else None,
        "sim_tpot": run.tpot if run else None,
        "sim_good": run.good if run else None,
    }


def serve_rows(plan: ServePlan, runs: Sequence[Replayed] = ()) -> list[Row]:
    """One row per deployment shown, best first."""
    every = [*runs, *[None] * (len(plan.candidates) - len(runs))]
    return [_row(plan, *each) for each in zip(plan.candidates, plan.points, every, strict=True)]


def _asked(plan: ServePlan) -> str:
    t, limits = plan.traffic, plan.limits
    load = (
        f"{t.rate:g} requests/s"
        if t.rate
        else f"{t.users:g} users" + (f" thinking {show(t.think, 's')} between requests" if t.think else " in flight")
    )
    p = 100 * limits.share
    return f"{load}, p{p:g} TTFT {show(limits.ttft, 's')}, p{p:g} TPOT {show(limits.tpot, 's')}{planned(limits)}"


def planned(limits: Limits) -> str:
    """What TPOT is planned to where that is below its limit."""
    return f" (planned to {show(limits.planned, 's')}, for predictions err)" if limits.margin else ""


def _headline(plan: ServePlan) -> str:
    job, w = plan.job, plan.workload
    return (
        f"{job.model.id} in {job.weights.id} on {job.cluster.id}, up to {plan.gpus} x {job.cluster.accelerator.id},"
        f" {job.engine.name}; {w.id} ({w.isl.mean:.0f} in, {w.osl.mean:.0f} out on average); {_asked(plan)}"
    )


def _details(plan: ServePlan) -> str:
    one, point = plan.best, plan.point
    row = serve_rows(plan)[0]
    chip = plan.job.cluster.accelerator
    p = f"p{100 * plan.limits.share:g}"
    words = [
        f"best: {one.kind}, {one.layout} on {one.gpus} accelerators;"
        f" {show(row['tokens_per_s_per_gpu'], '1')} output tokens/s per accelerator,"
        f" {show(point.batch, '1')} sequences per attention rank"
    ]
    for name, band in (("TTFT", plan.ttft_band), ("TPOT", plan.tpot_band)):
        if band is not None:
            words.append(f"{p} {name} should lie from {show(band[0], 's')} to {show(band[1], 's')}")
    if row["dollars_per_million_tokens"] is not None:
        words.append(f"{show(row['dollars_per_million_tokens'], '$')} per M output tokens at the catalog's price")
    if chip.tdp is not None:
        cluster = plan.job.cluster
        power = chip.tdp + cluster.overhead_power
        joules = energy_used(power, one.gpus, 1e6 / (row["tokens_per_s_per_gpu"] * one.gpus), cluster.pue)
        words.append(f"{show(float(joules), 'J')} per M output tokens at full board power")
    if one.kind == "disaggregated":
        first, second = one.prefills * one.prefill.gpus, one.decodes * one.decode.gpus
        words.append(f"{first} accelerators for prompts to {second} for decodes")
    budget = one.prefill.job.engine.token_budget
    limit = f"set the batch limit to {math.ceil(one.batch)} per attention rank, the token budget to {budget}"
    return "; ".join([*words, f"{limit}, the cache to {one.decode.job.kv}"])


def _other(plan: ServePlan) -> str:
    other = plan.other()
    missing = [kind for kind in plan.tried if kind != plan.best.kind]
    if other is None:
        return f"{missing[0]} meets the limits at no rate" if missing else ""
    best = plan.best
    if not other.feasible:
        return (
            f"why not {other.kind}: the most it reaches is {show(other.goodput, '1')} requests/s on {other.gpus}"
            f" accelerators ({other.layout}); {other.limit} ends it"
        )
    ratio = (other.goodput / other.gpus) / (best.goodput / best.gpus)
    return (
        f"why not {other.kind}: it needs {other.gpus} accelerators where {best.gpus} do, and meets the limits at"
        f" {show(ratio, '1')} times the rate per accelerator ({other.layout}); {other.limit} ends it"
    )


def _users(plan: ServePlan) -> str:
    """Where the users of the best deployment begin to wait for each other."""
    if not plan.traffic.users:
        return ""
    found = knee(plan.best, plan.traffic)
    return (
        f"users: a request takes {show(found.alone, 's')} alone and the deployment gives {show(1 / found.turn, '1')}"
        f" requests/s at most, so users wait for each other from {show(found.users, '1')} on (the knee of the closed"
        f" loop), each beyond adding {show(found.turn, 's')}; {plan.traffic.users:g} cannot be answered faster"
        f" than within {show(found.least, 's')} on average"
    )


def _baseline(plan: ServePlan) -> str:
    """The user's own deployment against the best."""
    own, best = plan.baseline, plan.best
    if own is None:
        return ""
    mine = f"your flags ({own.name}): {own.layout}"
    if own.candidate is None or own.point is None:
        return f"{mine} meets the limits at no rate; best: {best.layout}"
    one, p = own.candidate, f"p{100 * plan.limits.share:g}"
    gain = (best.goodput / best.gpus) / (one.goodput / one.gpus)
    enough = "" if one.feasible else f", short of the {show(one.needed, '1')} asked for"
    return (
        f"{mine}: {one.decodes} such instances on {one.gpus} accelerators meet the limits up to"
        f" {show(one.goodput, '1')} requests/s{enough} ({p} TTFT {show(own.point.ttft_percentile, 's')}, {p} TPOT"
        f" {show(own.point.tpot_percentile, 's')}; {one.limit} ends it); best: {best.gpus} accelerators,"
        f" {show(gain, '1')} times the rate per accelerator"
    )


def _proof(plan: ServePlan) -> str:
    tried = " and ".join(f"{count:,} {kind}" for kind, count in plan.tried.items())
    return (
        f"proof: exhaustive over {tried} deployments made of {plan.priced:,} layouts of an instance (tp, pp, ep, adp,"
        f" token budget, cache format); {plan.unfit:,} layouts do not hold the longest request"
    )


def _simulated(plan: ServePlan, runs: Sequence[Replayed]) -> str:
    """What the simulation says of the limits."""
    share, run = plan.limits.share, runs[0]
    held = [str(i) for i, each in enumerate(runs, 1) if each.holds(share)]
    missed = [str(i) for i, each in enumerate(runs, 1) if not each.holds(share)]
    verdicts = [f"{words} by {', '.join(rows)}" for words, rows in (("held", held), ("MISSED", missed)) if rows]
    return (
        f"simulated: {run.requests} requests, seed {run.seed}, the same step times and policy; of the best"
        f" {show(100 * run.quick, '1')}% met the limit on TTFT, {show(100 * run.smooth, '1')}% that on TPOT,"
        f" {show(100 * run.good, '1')}% both; each limit, for {100 * share:g}% of the requests, is"
        f" {' and '.join(verdicts)} (rows of the table)"
    )


def _gaps(plan: ServePlan) -> list[str]:
    """Where the steps of the best deployment go beyond physics."""
    prompt, decode = pool_gaps(plan.best.prefill, plan.best.decode, plan.point.batch)
    found = [gap_sentence(prompt, "gap to physics of a prompt of mean length")]
    if plan.workload.osl.longest > 1:
        found.append(gap_sentence(decode, "gap to physics of a decode step"))
    return found


def _flip_rows(flips: Sequence[Flip]) -> list[Row]:
    return [
        {"change": f.change, "goodput": f.goodput, "gpus": f.gpus or None, "reached": f.reached or None,
         "kind": f.kind or "none", "layout": f.layout}
        for f in flips
    ]


def _other_lengths(plan: ServePlan) -> str:
    return "what other lengths" + (", or fewer assumptions," if assumed(plan.job) else "") + " would change"


def serve_text(plan: ServePlan, runs: Sequence[Replayed] = ()) -> str:
    """The plan for people: the table, what binds, why not the other kind, and what other lengths would change."""
    blocks = [_headline(plan), "", table(serve_rows(plan, runs), columns(bool(runs))), ""]
    blocks += [paragraph(text) for text in (_details(plan), _users(plan), _baseline(plan), _other(plan), _proof(plan))
               if text]
    if runs:
        blocks.append(paragraph(_simulated(plan, runs)))
    blocks += ["", *_gaps(plan)]
    if plan.flips:
        blocks += ["", _other_lengths(plan), table(_flip_rows(plan.flips), _FLIP_COLUMNS)]
    notes = [paragraph(f"caveat: {caveat}") for caveat in plan.caveats]
    return "\n".join([paragraph(blocks[0]), *blocks[1:], *([""] if notes else []), *notes])


def front_rows(points: Sequence[FrontPoint]) -> list[Row]:
    """The trades between throughput and latency, by kind."""
    return [
        {
            "kind": p.kind,
            "tpot": p.tpot,
            "tokens_per_gpu": p.tokens_per_gpu,
            "gpus": p.gpus,
            "layout": p.layout,
            "rate": p.rate,
        }
        for p in points
    ]


def front_text(points: Sequence[FrontPoint]) -> str:
    """Throughput per accelerator against latency, for people."""
    return "throughput against latency\n" + table(front_rows(points), FRONT_COLUMNS)


def _baseline_row(plan: ServePlan) -> Row | None:
    own = plan.baseline
    if own is None:
        return None
    row = _row(plan, own.candidate, own.point, None) if own.candidate and own.point else {"goodput": 0.0}
    return {"line": own.name, "instance": str(own.layout), **row}


def serve_document(plan: ServePlan, runs: Sequence[Replayed] = (), points: Sequence[FrontPoint] = ()) -> dict[str, Any]:
    """The whole plan under machine names, SI units."""
    prompt, decode = pool_gaps(plan.best.prefill, plan.best.decode, plan.point.batch)
    return {
        "model": plan.job.model.id,
        "cluster": plan.job.cluster.id,
        "engine": plan.job.engine.id,
        "weights": plan.job.weights.id,
        "gpus": plan.gpus,
        "workload": plan.workload.id,
        "isl_mean": plan.workload.isl.mean,
        "osl_mean": plan.workload.osl.mean,
        "rate_per_s": plan.traffic.rate or None,
        "users": plan.traffic.users or None,
        "knee": asdict(knee(plan.best, plan.traffic)) if plan.traffic.users else None,
        "ttft_s": plan.limits.ttft,
        "tpot_s": plan.limits.tpot,
        "tpot_planned_s": plan.limits.planned,
        "percentile": 100 * plan.limits.share,
        "ttft_band_s": plan.ttft_band,
        "tpot_band_s": plan.tpot_band,
        "prompt_gap_s": prompt.parts,
        "decode_gap_s": decode.parts if plan.workload.osl.longest > 1 else None,
        "deployments": [dict(row) for row in serve_rows(plan, runs)],
        "simulated": [asdict(run) for run in runs],
        "baseline": _baseline_row(plan),
        "tried": plan.tried,
        "layouts_priced": plan.priced,
        "layouts_too_small": plan.unfit,
        "sensitivity": [dict(row) for row in _flip_rows(plan.flips)],
        "front": [dict(row) for row in front_rows(points)],
        "caveats": list(plan.caveats),
    }
