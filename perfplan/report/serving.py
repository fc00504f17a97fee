"""Serving fits and estimates as text, as rows of a table and as JSON documents."""

from __future__ import annotations

from typing import Any

from perfplan.errors import MissingField
from perfplan.overlap.serving_physics import decode_gap
from perfplan.report.columns import Column, Row
from perfplan.report.text import paragraph, table
from perfplan.report.training import gap_sentence, parts_table
from perfplan.serving.deploy import Deployment, Room
from perfplan.serving.estimate import Steady
from perfplan.serving.memory import Fit
from perfplan.units import show

__all__ = ["DEPLOYMENT_COLUMNS", "FIT_COLUMNS", "deployment_document", "deployment_row", "deployment_text",
           "fit_document", "fit_rows", "fit_text"]

SHOWN = 12  # layouts printed for people

FIT_COLUMNS = (
    Column("layout"),
    Column("fits"),
    Column("weights", "weights /GPU", "B"),
    Column("activations", "act. /GPU", "B"),
    Column("pool", "cache /GPU", "B"),
    Column("per_token", "KV per token /GPU", "B"),
    Column("tokens", "KV tokens", "1"),
    Column("worst", "users at full length", "1"),
    Column("expected", "users expected", "1"),
)
DEPLOYMENT_COLUMNS = (
    Column("layout"),
    Column("gpus", "GPUs"),
    Column("load"),
    Column("ttft", "TTFT", "s"),
    Column("tpot", "TPOT", "s"),
    Column("ttft_p50", "TTFT p50", "s"),
    Column("ttft_p99", "TTFT p99", "s"),
    Column("tpot_p50", "TPOT p50", "s"),
    Column("tpot_p99", "TPOT p99", "s"),
    Column("tokens_per_s", "tokens/s", "1"),
    Column("tokens_per_s_per_gpu", "tokens/s /GPU", "1"),
    Column("tokens_per_s_per_user", "tokens/s /user", "1"),
    Column("requests_per_s", "requests/s", "1"),
    Column("in_flight", "in flight", "1"),
    Column("binding", "binds"),
)


WITHOUT_COLUMNS = (Column("change", "with"), *(column for column in DEPLOYMENT_COLUMNS if column.key in (
    "ttft", "tpot", "tokens_per_s", "tokens_per_s_per_gpu", "requests_per_s", "in_flight")))


def _fit_row(one: Fit) -> Row:
    return {"layout": str(one.layout), "fits": "yes" if one.fits else "no", "weights": one.weights,
            "activations": one.activations, "pool": one.pool, "per_token": one.per_token,
            "tokens": one.tokens * one.layout.dp, "worst": one.users, "expected": int(one.expected) * one.layout.dp}


def fit_rows(room: Room) -> list[Row]:
    """One row per legal layout, best first."""
    return [_fit_row(one) for one in room.layouts]


def _answer(room: Room) -> str:
    job, best = room.job, room.layouts[0] if room.layouts else None
    users = f"{room.users} user{'s' * (room.users > 1)}"
    what = (f"{job.model.id} in {job.weights.id} with {users} of {room.context} tokens on {room.gpus} x"
            f" {job.cluster.accelerator.id} ({job.engine.name}, cache in {job.kv})")
    if room.fits and best is not None:
        text = f"yes: {what}; {best.layout} holds {best.users} at full length, {best.tokens * best.layout.dp} tokens"
    else:
        text = f"no: {what} does not fit"
    if room.used < room.gpus:
        text += f"; no layout takes all {room.gpus} accelerators, those of {room.used} are shown"
    least = "more than 256 accelerators" if room.least is None else f"{room.least} accelerator{'s' * (room.least > 1)}"
    return f"{text}; the fewest that fit: {least}"


def fit_text(room: Room) -> str:
    """The answer first, then every legal layout."""
    blocks = [paragraph(_answer(room)), table(fit_rows(room)[:SHOWN], FIT_COLUMNS)]
    if (more := len(room.layouts) - SHOWN) > 0:
        blocks.append(f"{more} more legal layouts; --csv prints all")
    return "\n\n".join([*blocks, *(paragraph(f"caveat: {caveat}") for caveat in room.job.caveats)])


def fit_document(room: Room) -> dict[str, Any]:
    """The fit under machine names."""
    return {"model": room.job.model.id, "cluster": room.job.cluster.id, "gpus": room.gpus, "context": room.context,
            "users": room.users, "fits": room.fits, "fewest_gpus": room.least,
            "layouts": [dict(row) for row in fit_rows(room)], "caveats": room.job.caveats}


def deployment_row(one: Deployment) -> Row:
    """One line of a table of deployments."""
    return {"layout": str(one.layout), "gpus": one.layout.world, "load": one.load,
            **_figures(one.steady, one.layout.world)}


def _figures(steady: Steady, gpus: int) -> Row:
    return {"ttft": float(steady.ttft), "tpot": float(steady.tpot),
            "ttft_p50": float(steady.ttft_at.p50), "ttft_p99": float(steady.ttft_at.p99),
            "tpot_p50": float(steady.tpot_at.p50), "tpot_p99": float(steady.tpot_at.p99),
            "tokens_per_s": float(steady.tokens_per_s), "tokens_per_s_per_gpu": float(steady.tokens_per_s) / gpus,
            "tokens_per_s_per_user": float(steady.tokens_per_s_per_user) if steady.tpot else None,
            "requests_per_s": float(steady.rate), "in_flight": float(steady.in_flight), "binding": steady.binding}


def without_rows(one: Deployment) -> list[Row]:
    """What going without each assumption would give, one row each."""
    return [{"change": words, **_figures(steady, one.layout.world)} for words, steady in one.without]


def _costs(one: Deployment) -> list[tuple[str, str]]:
    words = []
    for name, unit in (("joules_per_million", "J"), ("dollars_per_million", "$")):
        try:
            words.append(f"{show(getattr(one, name), unit)}")
        except MissingField:
            words.append("not known")
    return [("per M tokens", f"{words[0]} at full board power, {words[1]} at the catalog's price")]


def _spread(row: Row, name: str, band: tuple[float, float]) -> str:
    mean, half, late, low, high = (show(value, "s") for value in (
        row[name], row[f"{name}_p50"], row[f"{name}_p99"], *band))
    return f"{mean} mean, {half} p50, {late} p99; band of the mean {low} to {high}"


def deployment_text(one: Deployment) -> str:
    """One deployment for people: headline, the latency of a request by part, caveats."""
    job, row = one.job, deployment_row(one)
    tpot, ttft = (_spread(row, name, band) for name, band in (("tpot", one.band), ("ttft", one.first_band)))
    user = f", {show(row['tokens_per_s_per_user'], '1')} per user" if row["tokens_per_s_per_user"] else ""
    lines = [
        ("TTFT", ttft),
        ("TPOT", tpot if row["tpot"] else "none: an output of one token ends with the first"),
        ("tokens/s", f"{show(row['tokens_per_s'], '1')}, {show(one.tokens_per_s_per_gpu, '1')} per accelerator{user}"),
        ("requests", f"{show(row['requests_per_s'], '1')} per second, {show(row['in_flight'], '1')} in a batch"),
        ("memory", f"weights {show(one.fit.weights, 'B')}, cache {show(one.fit.pool, 'B')} for {one.fit.tokens} tokens"
                   " per replica"),
        ("binds", one.steady.binding),
        *_costs(one),
    ]
    head = (f"{job.model.id} in {job.weights.id}, cache in {job.kv}, on {job.cluster.id}, {one.layout.world} x"
            f" {job.cluster.accelerator.id}, {job.engine.name}, {one.isl} + {one.osl} tokens, {one.load}")
    blocks = [paragraph(head) + f"\n{one.layout}", "\n".join(f"{name:<12} {words}" for name, words in lines),
              parts_table(one.request, "s", "mean latency of a request", "in all"),
              paragraph(f"percentiles: {one.assumed}")]
    if (split := decode_gap(one)) is not None:
        blocks.append(gap_sentence(split, "gap to physics of a decode step"))
    if one.without:
        rows = [{"change": "as given", **row}, *without_rows(one)]
        blocks.append("what going without each assumption would give\n" + table(rows, WITHOUT_COLUMNS))
    notes = "\n".join(paragraph(f"caveat: {caveat}") for caveat in one.caveats)
    return "\n\n".join([*blocks, *([notes] if notes else [])])


def deployment_document(one: Deployment) -> dict[str, Any]:
    """One deployment under machine names, SI floats."""
    row, split = deployment_row(one), decode_gap(one)
    return {column.field: row[column.key] for column in DEPLOYMENT_COLUMNS} | {
        "tpot_low_s": one.band[0], "tpot_high_s": one.band[1],
        "ttft_low_s": one.first_band[0], "ttft_high_s": one.first_band[1],
        "decode_step_s": {k: float(v) for k, v in one.steady.decode.items()},
        "prompt_s": {k: float(v) for k, v in one.steady.prompt.items()},
        "decode_gap_s": split.parts if split else None, "request_s": dict(one.request), "percentiles": one.assumed,
        "without": [dict(row) for row in without_rows(one)], "caveats": one.caveats}
