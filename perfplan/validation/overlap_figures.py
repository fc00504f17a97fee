"""Published figures of overlap that need a simulation or a whole step: bubbles by events, ablations, inequalities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from perfplan.catalog import Catalog
from perfplan.formulas.overlap import fused_collective_time
from perfplan.overlap.blocks import Sharing
from perfplan.overlap.orders import chunks_of, order
from perfplan.overlap.pipeline import Passes, Run, run
from perfplan.overlap.serving_window import serving_window
from perfplan.overlap.techniques import TILES, scheduled
from perfplan.serving.deploy import serving_job
from perfplan.serving.layout import ServingLayout
from perfplan.training.estimate import estimate
from perfplan.training.job import Job
from perfplan.training.layers import op_times
from perfplan.training.layout import Layout
from perfplan.training.network import Group, Network
from perfplan.training.ops import Gemm
from perfplan.units import parse
from perfplan.validation.techniques import apply

if TYPE_CHECKING:
    from perfplan.validation.reproduce import Prices

__all__ = ["overlap_prices"]


def _simulated(_: Catalog, inputs: Mapping[str, Any]) -> Run:
    """A schedule with equal stages; times are those of a whole rank, split evenly over its chunks."""
    name, ranks, micro = str(inputs["schedule"]), int(inputs["ranks"]), int(inputs["micro_batches"])
    chunks = chunks_of(name, int(inputs.get("chunks", 1)))
    made = order(name, ranks, micro, chunks)
    share = chunks // made.copies
    forward, inward, late = ([parse(str(inputs[key]), "s") / share] * len(made.place)
                             for key in ("forward", "inputs", "weights"))
    return run(made, Passes(forward, inward, late, [1.0 / share] * len(made.place)))


def _working(ran: Run) -> float:
    """Least share of the time between its own first and last pass in which a rank works."""
    spans = [ends[-1] - starts[0] for starts, ends in zip(ran.starts, ran.ends, strict=True)]
    return min(busy / span for busy, span in zip(ran.busy, spans, strict=True))


def _ablation(catalog: Catalog, inputs: Mapping[str, Any]) -> float:
    """How many steps of an ablation raise the predicted MFU, each on top of those before."""
    job = Job(
        catalog.model(inputs["model"]),
        catalog.cluster(inputs["cluster"]),
        inputs["gpus"],
        inputs["global_batch"],
        inputs["seq_len"],
        catalog.recipe(inputs["precision"]),
        catalog.framework(inputs["framework"]),
    )
    job = _changed(job, inputs["start"])
    utilised = [_mfu(job, inputs)]
    for change in inputs["steps"]:
        job = _changed(job, change)
        utilised.append(_mfu(job, inputs))
    return float(sum(after > before for before, after in zip(utilised, utilised[1:], strict=False)))


def _changed(job: Job, change: Mapping[str, Any]) -> Job:
    """A job after one step of an ablation: a larger batch, or changes as a technique's file writes them."""
    if "global_batch" in change:
        return replace(job, global_batch=change["global_batch"])
    made: Job = apply({"id": "ablation", "name": "", "source": "", "summary": "", "changes": change}, job)
    return made


def _mfu(job: Job, inputs: Mapping[str, Any]) -> float:
    return estimate(job, Layout.parse(inputs["layout"])).mfu


def _inside(catalog: Catalog, inputs: Mapping[str, Any]) -> float:
    """1 if overlapped layers take at least as long as their busiest resource and no longer than all in a row."""
    job = serving_job(inputs["model"], inputs["cluster"], catalog)
    window = serving_window(job, ServingLayout.parse(inputs["layout"]), inputs["phase"], inputs["batch"],
                            inputs["context"], Sharing())
    found = scheduled(window, inputs["technique"])
    busiest = max(found.graph.loads.values())
    alone = sum(op.duration for op in found.graph.ops)  # nano-batches read weights again: their sum, not the window's
    return float(busiest <= found.time * (1 + 1e-9) and found.time <= alone * (1 + 1e-9))


def _ordered(_: Catalog, inputs: Mapping[str, Any]) -> float:
    """How many rows of measured pairs (fused, unfused) [ms] are ordered, none below its floor of arithmetic."""
    peak = parse(str(inputs["peak"]), "FLOP/s")
    rows: Sequence[Mapping[str, Any]] = inputs["rows"]
    return float(sum(_floor(row, peak) <= row["fused"] / 1e3 <= row["apart"] / 1e3 for row in rows))


def _floor(row: Mapping[str, Any], peak: float) -> float:
    """Least time of the grouped product of one rank [s]."""
    return float(2 * 8192 * row["top_k"] * 8192 * 8192 / 8 / peak)


def _fused(catalog: Catalog, inputs: Mapping[str, Any]) -> float:
    """Time of experts' first product (M = N = K = 8192 over eight ranks) fused with the gather of its tokens [s]."""
    cluster, width = catalog.cluster(inputs["cluster"]), 8192.0
    job = Job(catalog.model(inputs["model"]), cluster, 8, 8, 1024, catalog.recipe(inputs["precision"]),
              catalog.framework(inputs["framework"]))
    ep = int(inputs["ep"])
    rows, inner = width * inputs["top_k"] / ep, width * ep / 8
    product = Gemm("expert up", "moe", rows, inner, width, "grouped_gemm", inputs["experts"] / ep)
    gather = Network(cluster, 8).path(Group(8, 1)).all_gather(2 * width * width)
    return float(fused_collective_time(op_times(job, product)[0], gather, TILES))


def _possible(catalog: Catalog, inputs: Mapping[str, Any]) -> float:
    """How many measured rows [ms] take at least as long as the ideal fusion does on a cluster."""
    return float(sum(_fused(catalog, {**inputs, **row}) <= row["fused"] / 1e3 for row in inputs["rows"]))


def overlap_prices(catalog: Catalog) -> Prices:
    """The quantities of this module by name, over one catalog."""
    named: dict[str, Callable[[Catalog, Mapping[str, Any]], float]] = {
        "simulated_bubble": lambda found, inputs: _simulated(found, inputs).most_idle,
        "simulated_working_share": lambda found, inputs: _working(_simulated(found, inputs)),
        "simulated_time": lambda found, inputs: _simulated(found, inputs).time,
        "simulated_in_flight": lambda found, inputs: max(_simulated(found, inputs).held),
        "ablation_order": _ablation,
        "overlap_inside": _inside,
        "fused_order": _ordered,
        "fused_time": _fused,
        "fused_possible": _possible,
    }
    return {name: partial(price, catalog) for name, price in named.items()}
