"""Fleets of machines as text, rows and a JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perfplan.catalog.workloads import Workload
from perfplan.report.columns import Column, Row
from perfplan.report.serve_plan import planned
from perfplan.report.text import paragraph, table
from perfplan.serving.pools import Limits, Traffic
from perfplan.serving.provision import Bounds, Design, Fleet
from perfplan.units import show

__all__ = ["DESIGN_COLUMNS", "FLEET_COLUMNS", "fleet_document", "fleet_rows", "fleet_text"]

FLEET_COLUMNS = (
    Column("machines", "machines"),
    Column("accelerator", "of"),
    Column("role"),
    Column("cap", "power cap", "%"),
    Column("layout", "on each"),
    Column("rate", "rate /s", "1"),
    Column("power", "power", "W"),
    Column("price", "price", "$/h"),
)
OTHER_COLUMNS = (Column("change", "with"), Column("rate", "requests/s", "1"))
DESIGN_COLUMNS = (
    Column("view"),
    Column("prefill", "prefill on"),
    Column("decode", "decode on"),
    Column("machines"),
    Column("rate", "rate /s", "1"),
    Column("power", "power", "W"),
    Column("price", "price", "$/h"),
)


def fleet_rows(fleet: Fleet) -> list[Row]:
    """One row per kind of machine in the fleet."""
    return [
        {
            "machines": s.machines,
            "accelerator": s.unit.cluster.accelerator.id,
            "role": s.unit.role,
            "cap": s.unit.cap,
            "layout": f"{s.unit.instances} x {s.unit.curve.layout}"
            + (f" over {s.unit.machines} machines" if s.unit.machines > 1 else ""),
            "rate": s.count * s.unit.rate,
            "power": s.count * s.unit.power,
            "price": None if s.unit.price is None else s.count * s.unit.price,
        }
        for s in fleet.shares
    ]


def design_rows(designs: Sequence[Design]) -> list[Row]:
    """One row per pairing of machine types."""
    return [
        {
            "view": d.view,
            "prefill": d.prefill,
            "decode": d.decode,
            "machines": f"{d.machines[0]}/{d.machines[1]}" if d.decode != "mixed" else f"{d.machines[0]}",
            "rate": d.rate,
            "power": d.power,
            "price": d.price,
        }
        for d in designs
    ]


def _answer(fleet: Fleet) -> str:
    price = "" if fleet.price is None else f", {show(fleet.price, '$/h')}"
    return (
        f"{fleet.machines} machines serve {show(fleet.rate, '1')} requests/s within the limits:"
        f" {show(fleet.power, 'W')}{price}"
    )


def _proof(fleet: Fleet) -> str:
    c = fleet.certificate
    if fleet.objective == "throughput":
        said = (
            f"{show(-c.objective, '1/s')}, proven optimal by {c.method}"
            if c.proven
            else f"{show(-c.objective, '1/s')} by {c.method}; no fleet does more than {show(-c.bound, '1/s')}"
        )
    else:
        said = f"{c.sentence()} (bound {show(c.bound, c.unit)}, gap {100 * c.gap:.3g} %)"
    checked = (
        "the queue of each pool confirms it" if fleet.checked else "the queues of the pools do not quite confirm it"
    )
    return f"proof: {fleet.objective} {said}; {checked} ({fleet.rounds} programme{'s' * (fleet.rounds > 1)} solved)"


def fleet_text(
    fleet: Fleet,
    designs: Sequence[Design],
    workload: Workload,
    traffic: Traffic,
    limits: Limits,
    model: str,
    caveats: Sequence[str],
    top: int,
    others: Sequence[tuple[str, float]] = (),
) -> str:
    """The fleet first, the proof, then what every pairing of machine types serves at the same power and price."""
    p = 100 * limits.share
    asked = f"{traffic.rate:g} requests/s" if traffic.rate else "as many requests as can be"
    head = (
        f"{model}, {workload.id} ({workload.isl.mean:.0f} in, {workload.osl.mean:.0f} out on average), {asked},"
        f" p{p:g} TTFT {show(limits.ttft, 's')}, p{p:g} TPOT {show(limits.tpot, 's')}{planned(limits)}"
    )
    blocks = [
        paragraph(head),
        "",
        paragraph(_answer(fleet)),
        "",
        table(fleet_rows(fleet), FLEET_COLUMNS),
        "",
        paragraph(_proof(fleet)),
    ]
    if others:
        loads = [{"change": words, "rate": rate} for words, rate in others]
        blocks += ["", "what the same machines serve under other lengths", table(loads, OTHER_COLUMNS)]
    for view in dict.fromkeys(d.view for d in designs):
        rows = design_rows([d for d in designs if d.view == view])
        more = f"; {len(rows) - top} more with --json" if len(rows) > top else ""
        blocks += [
            "",
            f"{view}: machines (prefill/decode) that serve the most{more}",
            table(rows[:top], DESIGN_COLUMNS[1:]),
        ]
    notes = [paragraph(f"caveat: {caveat}") for caveat in caveats]
    return "\n".join([*blocks, *([""] if notes else []), *notes])


def fleet_document(
    fleet: Fleet,
    designs: Sequence[Design],
    bounds: Bounds,
    caveats: Sequence[str],
    others: Sequence[tuple[str, float]] = (),
) -> dict[str, Any]:
    """The fleet under machine names, SI units; prices in $/h."""
    return {
        "objective": fleet.objective,
        "fleet": [dict(row) for row in fleet_rows(fleet)],
        "machines": fleet.machines,
        "rate_per_s": fleet.rate,
        "power_w": fleet.power,
        "price_per_h": fleet.price,
        "bound": -fleet.certificate.bound if fleet.objective == "throughput" else fleet.certificate.bound,
        "gap": fleet.certificate.gap,
        "checked": fleet.checked,
        "limits": {"power_w": bounds.power, "budget_per_h": bounds.budget, "servers": bounds.servers},
        "designs": [dict(row) for row in design_rows(designs)],
        "other_lengths": [{"change": words, "rate_per_s": rate} for words, rate in others],
        "caveats": list(caveats),
    }
