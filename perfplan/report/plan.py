"""A training plan, and the answer to why a layout is not it, as text, rows and JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from perfplan.overlap.physics import gap
from perfplan.report.columns import Column, Row
from perfplan.report.machine import plain
from perfplan.report.text import paragraph, table
from perfplan.report.training import (
    estimate_columns,
    estimate_document,
    estimate_row,
    gap_sentence,
    job_document,
    job_line,
    parts_table,
    short,
)
from perfplan.training.estimate import Estimate
from perfplan.training.layout import Layout
from perfplan.training.plan import Plan, Run
from perfplan.training.why import Answer
from perfplan.units import show

__all__ = [
    "FRONT_COLUMNS",
    "front_rows",
    "front_text",
    "plan_columns",
    "plan_document",
    "plan_rows",
    "plan_text",
    "why_document",
    "why_rows",
    "why_text",
    "WHY_COLUMNS",
]

_TEXT = (
    Column("rank", "#"),
    Column("layout"),
    Column("gpus", "GPUs"),
    Column("step_time", "step", "s"),
    Column("band"),
    Column("tokens_per_s_per_gpu", "tokens/s /GPU", "1"),
    Column("mfu", "MFU", "%"),
    Column("memory", unit="B"),
    Column("headroom", "headroom", "B"),
)
FRONT_COLUMNS = (
    Column("gpus", "GPUs"),
    Column("layout"),
    Column("step_time", "step", "s"),
    Column("memory", unit="B"),
)
_SEARCHED = (
    Column("gpus", "GPUs searched"),
    Column("size", "layouts"),
    Column("fit"),
    Column("fastest", "fastest step", "s"),
    Column("memory", "rejected for memory"),
    Column("rules", "for a rule or the deadline"),
)
WHY_COLUMNS = (
    Column("part"),
    Column("layout", "this layout", "s"),
    Column("best", unit="s"),
    Column("difference", unit="s"),
)


def plan_columns(plan: Plan) -> list[Column]:
    """Columns of the table of layouts for machines: headline figures, then step time and memory by part."""
    first, *headline = estimate_columns(plan.best)
    return [Column("rank"), first, Column("tied"), *headline]


def plan_rows(plan: Plan) -> list[Row]:
    """The layouts, best first."""
    pairs = zip(plan.estimates, plan.tied, strict=True)
    return [{"rank": rank, "tied": tied, **estimate_row(each)} for rank, (each, tied) in enumerate(pairs, 1)]


def _band(low: float, high: float) -> str:
    """A range of times; the unit is told once if both have the same.

    >>> _band(33.3, 42.1), _band(50.8, 66)
    ('33.3 - 42.1 s', '50.8 s - 1.10 min')
    """
    first, last = show(low, "s"), show(high, "s")
    return f"{first.split()[0] if first.split()[1] == last.split()[1] else first} - {last}"


def _layouts(plan: Plan) -> str:
    def shown(row: Row, each: Estimate) -> Row:
        rank = f"{row['rank']}{'=' if row['tied'] else ''}"
        return {**row, "layout": short(each.layout), "rank": rank, "band": _band(*each.band)}

    rows = [shown(row, each) for row, each in zip(plan_rows(plan), plan.estimates, strict=True)]
    same = {row["gpus"] for row in rows} == {plan.job.gpus}
    return table(rows, [column for column in _TEXT if not (same and column.key == "gpus")])


def _ties(plan: Plan) -> str:
    ties, fit = plan.ties, sum(found.feasible for _, _, found in plan.searches)
    apart = f"{100 * math.expm1(ties.band.high):.0f}%"
    rule = f"the model orders two layouts of one job rightly in 80% of cases only where it sees them {apart} apart"
    if ties.count < 2:
        return f"ties: none of the {fit:,} layouts that fit; {rule}"
    cost = ""
    if ties.band.worst_regret is not None and ties.band.median_regret is not None:
        cost = (
            f"; in {ties.band.jobs} measured jobs the slowest layout of such a tie took {ties.band.median_regret:.0%}"
            f" longer than the fastest of the job at the median, {ties.band.worst_regret:.0%} at worst"
        )
    tied = f"{ties.count:,} of the {fit:,} layouts that fit cannot be told from the first (= where shown)"
    return "; ".join(filter(None, [f"ties: {tied}", f"{rule}{cost}", ties.band.caveat]))


def _pick(plan: Plan) -> str:
    """Which of the tied layouts to take."""
    ties = plan.ties
    why = (
        f"of the tied ones shown or on the Pareto front it has at least {ties.margin:.0%} of the memory to spare (the"
        " error of the memory model) if any has, then the fewest parallel dimensions, then the least step time"
    )
    e = ties.pick
    said = f"{short(e.layout)}, {show(float(e.step_time), 's')}, headroom {show(e.headroom, 'B')}"
    return f"tie broken: {said}; {why}"


def _searched(plan: Plan) -> str:
    """What was searched at each accelerator count, if there were several."""
    rows = [
        {
            "gpus": str(gpus),
            "size": f"{found.size:,}",
            "fit": f"{found.feasible:,}",
            "fastest": found.fastest if math.isfinite(found.fastest) else None,
            "memory": f"{found.rejected['memory']:,}",
            "rules": f"{found.size - found.feasible - found.rejected['memory']:,}",
        }
        for gpus, _, found in plan.searches
    ]
    return table(rows, _SEARCHED) if len(rows) > 1 else ""


def front_rows(plan: Plan) -> list[Row]:
    """The Pareto front: no layout is at least as good in step time, memory and accelerators and better in one."""
    rows = [
        {"gpus": row["gpus"], "layout": row["layout"], "step_time": row["step_time_s"], "memory": row["memory_bytes"]}
        for row in plan.front_rows()
    ]
    return sorted(rows, key=lambda row: (row["gpus"], row["step_time"]))


def front_text(plan: Plan) -> str:
    """The Pareto front as a table for people."""
    rows = [{**row, "layout": short(Layout.parse(row["layout"]))} for row in front_rows(plan)]
    return f"Pareto front of step time, memory and accelerators\n{table(rows, FRONT_COLUMNS)}"


def _binds(best: Estimate) -> str:
    share = best.breakdown[best.binding] / best.step_time
    unused = best.job.gpus - best.layout.world
    left = f"; {unused} of {best.job.gpus} accelerators are left over" if unused else ""
    return f"binds: {best.binding}, {100 * share:.0f}% of the step{left}"


def _matters(plan: Plan) -> str:
    ranked = sorted(plan.sensitivities.items(), key=lambda pair: (-abs(pair[1]), pair[0]))
    words = ", ".join(f"{name} {value:+.2f}%" for name, value in ranked if abs(value) >= 0.005)
    return f"what matters: 1% more of a hardware number changes the step by: {words}"


def _run_text(run: Run) -> str:
    cost = "price unknown" if run.cost is None else f"{show(run.cost, '$')} at the catalog's price"
    energy = "energy unknown" if run.energy is None else f"{run.energy / 3.6e9:,.0f} MWh at the meter"
    return (
        f"run of {show(run.tokens, 'tokens')} tokens: {show(run.time / 86400, '1')} days without interruptions, "
        f"{run.accelerator_hours:,.0f} accelerator-hours, {cost}, {energy}"
    )


def plan_text(plan: Plan) -> str:
    """The plan for people: layouts, what binds, proof, ties, the best one by part, what matters, what a run costs."""
    best = plan.best
    remarks = [_binds(best), f"proof: {plan.certificate}", _ties(plan)]
    remarks += [_pick(plan)] if plan.ties.count > 1 else []
    remarks += [_matters(plan)]
    remarks += [_run_text(plan.run)] if plan.run else []
    blocks = [
        paragraph(job_line(best.job)),
        _layouts(plan),
        "\n".join(paragraph(each) for each in remarks),
        *([searched] if (searched := _searched(plan)) else []),
        f"the best layout: {best.layout}",
        parts_table(best.breakdown, "s", "step by part", "step time"),
        parts_table(best.memory, "B", "memory of the fullest rank", "reserved in all"),
        gap_sentence(gap(best)),
    ]
    return "\n\n".join(blocks + [paragraph(f"caveat: {caveat}") for caveat in best.caveats])


def plan_document(plan: Plan) -> dict[str, Any]:
    """The plan under machine names, SI floats."""
    run = plan.run
    searched = [
        {
            "gpus": gpus,
            "axes": axes,
            "layouts": found.size,
            "feasible": found.feasible,
            "rejected": {reason: count for reason, count in sorted(found.rejected.items()) if count},
        }
        for gpus, axes, found in plan.searches
    ]
    document = {
        "job": job_document(plan.best.job),
        "objective": plan.objective,
        "layouts": [
            estimate_document(each) | {"tied": tied} for each, tied in zip(plan.estimates, plan.tied, strict=True)
        ],
        "ties": {
            "count": plan.ties.count,
            "ratio": math.exp(plan.ties.band.high),
            "jobs": plan.ties.band.jobs,
            "median_regret": plan.ties.band.median_regret,
            "worst_regret": plan.ties.band.worst_regret,
            "pick": str(plan.ties.pick.layout),
        },
        "certificate": {"kind": "exhaustive", "searched": searched},
        "elasticities": dict(plan.sensitivities),
        "front": plan.front_rows(),
        "run": run
        and {
            "tokens": run.tokens,
            "time_s": run.time,
            "accelerator_hours": run.accelerator_hours,
            "cost_usd": run.cost,
            "energy_j": run.energy,
        },
    }
    return dict(plain(document))


def why_rows(answer: Answer) -> list[Row]:
    """Step time by part beside the best layout's, the largest loss first; parts that neither has are left out."""
    if answer.layout is None or answer.best is None:
        return []
    mine, best = answer.layout.breakdown, answer.best.breakdown
    parts = sorted((part for part in mine if mine[part] or best[part]), key=lambda part: -answer.parts[part])
    return [{"part": p, "layout": mine[p], "best": best[p], "difference": answer.parts[p]} for p in parts]


def _verdict(answer: Answer) -> list[str]:
    if answer.layout is None:
        return [f"it cannot run: {reason}" for reason in answer.broken]
    behind = "" if answer.behind is None else f", {100 * answer.behind:+.1f}% against the best"
    words = [f"step time {show(answer.layout.step_time, 's')}{behind}{'; the two are a tie' * answer.tied}"]
    if not answer.layout.fits:
        words.append(
            f"it does not fit: {show(answer.layout.memory_total, 'B')} on the fullest rank, "
            f"{show(-answer.layout.headroom, 'B')} too much"
        )
    return words


def why_text(answer: Answer, layout: str) -> str:
    """Why a layout is not the plan, for people."""
    outside: Sequence[str] = answer.outside
    place = f"outside the searched space: {', '.join(outside)}" if outside else "in the searched space"
    best = f"best:   {answer.best.layout}" if answer.best else f"best:   none, {answer.nothing}"
    head = [f"layout: {layout}", best, place, *_verdict(answer)]
    blocks = ["\n".join(paragraph(each) for each in head)]
    if rows := why_rows(answer):
        blocks.append(table(rows, WHY_COLUMNS))
    return "\n\n".join(blocks)


def why_document(answer: Answer) -> dict[str, Any]:
    """Why a layout is not the plan, under machine names."""
    return {
        "in_space": not answer.outside,
        "outside": answer.outside,
        "broken": answer.broken,
        "tied": answer.tied,
        "behind": answer.behind,
        "layout": answer.layout and estimate_document(answer.layout),
        "best": answer.best and estimate_document(answer.best),
        "infeasible": answer.nothing or None,
        "difference_s": answer.parts,
    }
