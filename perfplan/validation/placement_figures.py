"""Published figures of expert placement: placements that load and are balanced, replicas, a pipelined layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from perfplan.catalog import Catalog
from perfplan.catalog.files import packaged_root
from perfplan.errors import OutOfRange
from perfplan.placement.exact import assignment_chain, partition_path
from perfplan.placement.pipeline import Chunked, best_chunks, simulated
from perfplan.placement.read import read_routing
from perfplan.placement.replicate import Plan, eplb, plans
from perfplan.placement.score import Problem
from perfplan.placement.synthetic import Synthetic, generate

if TYPE_CHECKING:
    import pandas as pd

    from perfplan.validation.reproduce import Prices

__all__ = ["placement_prices"]

_FOLDER = packaged_root() / "measurements" / "placement"
_SHAPE = {"batch": 4, "sequence": 1024, "width": 4096, "hidden": 14336, "picks": 2.4, "shards": 8, "matrices": 3}


def _table(name: str) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(_FOLDER / f"{name}.csv")


def _exflow(inputs: Mapping[str, Any]) -> float:
    """Experts per GPU and layer of a published placement, which must be the same everywhere."""
    gpus = int(inputs["gpus"])
    table = _table("moe_exflow_mixtral_placement")
    counts = table[table["gpus"] == gpus].groupby(["layer", "gpu"]).size().unstack(fill_value=0).to_numpy()
    if counts.min() != counts.max():
        raise OutOfRange(f"ExFlow's placement for {gpus} GPUs has {counts.min()} to {counts.max()} experts on a GPU")
    return float(counts.min())


def _mixtral(inputs: Mapping[str, Any]) -> float:
    """Share of transitions that cross GPUs at the optimum for the default made-up routing of Mixtral's shape."""
    gpus = int(inputs["gpus"])
    problem = Problem(generate(Synthetic(), 8, 32), gpus, gpus)
    placed = assignment_chain(problem) if gpus == 8 else partition_path(problem)
    return float(problem.score(placed).cross or 0.0)


@cache
def _example() -> tuple[Any, dict[str, Plan]]:
    loads = read_routing(_FOLDER / "moe_eplb_example.csv").loads
    return loads, {plan.name: plan for plan in plans(loads, 16, 8, nodes=2, groups=4)}


def _most_loaded(inputs: Mapping[str, Any]) -> float:
    """Largest load of a GPU in a layer of EPLB's example, by policy."""
    loads, found = _example()
    return float(found[str(inputs["policy"])].gpu_loads(loads, 8)[int(inputs["layer"])].max())


def _same_slots(inputs: Mapping[str, Any]) -> float:
    """GPUs of EPLB's example, both layers, that hold the published experts."""
    loads, _ = _example()
    ours = eplb(loads, 16, 8, nodes=2, groups=4).reshape(-1, 2)
    theirs: list[set[int]] = [set() for _ in range(16)]
    for row in _table("moe_eplb_example").to_dict("records"):
        for gpu in str(row["replica_gpus_expected_hierarchical"]).split():
            theirs[int(row["layer"]) * 8 + int(gpu)].add(int(row["expert"]))
    return float(sum(set(pair) == wanted for pair, wanted in zip(ours.tolist(), theirs, strict=True)))


def _layer(inputs: Mapping[str, Any]) -> Chunked:
    """FSMoE's layer by its published constants, ms per element or multiply-accumulate."""
    table = _table("moe_fsmoe_alpha_beta")
    rows = table[table["gpus"] == 32].set_index("op")
    alpha, beta = rows["alpha_ms"].to_dict(), rows["beta_ms_per_unit"].to_dict()
    s = _SHAPE | {"sequence": int(inputs.get("sequence", _SHAPE["sequence"]))}
    tokens = s["picks"] * s["batch"] * s["sequence"] * s["width"]
    size = {"all_to_all": tokens / s["shards"], "all_gather": tokens, "reduce_scatter": tokens,
            "expert_gemm": tokens * s["hidden"] * s["matrices"] / s["shards"]}
    twice = {"expert_gemm": 2.0 if inputs.get("pass") == "backward" else 1.0}
    cost = {op: (twice.get(op, 1.0) * alpha[op] / 1e3, twice.get(op, 1.0) * beta[op] * n / 1e3)
            for op, n in size.items()}
    return Chunked(cost["all_to_all"], cost["all_gather"], cost["reduce_scatter"], cost["expert_gemm"])


def _agreeing(inputs: Mapping[str, Any]) -> float:
    """Points at which formula and event simulation agree to 1 ns, over sequences, passes and numbers of chunks."""
    layers = [_layer({"sequence": s, "pass": p}) for s in (512, 1024, 2048) for p in ("forward", "backward")]
    apart = [abs(one.time(r) - simulated(one, r)) for one in layers for r in (1, 2, 4, 8, 16)]
    return float((np.array(apart) < 1e-9).sum())


def placement_prices(catalog: Catalog) -> Prices:
    """By name, the figures above as functions of a published row's inputs."""
    found: dict[str, Callable[[Mapping[str, Any]], float]] = {
        "exflow_experts_per_gpu": _exflow,
        "mixtral_cross_fraction": _mixtral,
        "eplb_most_loaded": _most_loaded,
        "eplb_gpus_as_published": _same_slots,
        "fsmoe_time": lambda inputs: _layer(inputs).time(int(inputs["chunks"])),
        "fsmoe_chunks": lambda inputs: float(best_chunks(_layer(inputs))),
        "fsmoe_simulated": lambda inputs: simulated(_layer(inputs), int(inputs["chunks"])),
        "fsmoe_agreeing": _agreeing,
    }
    return found
