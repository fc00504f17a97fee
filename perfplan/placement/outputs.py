"""Placements in the forms that engines and researchers read."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from perfplan.errors import Unsupported, offer
from perfplan.placement.routing import Whole

__all__ = ["FORMS", "physical", "slots", "written", "written_placement"]

FORMS = ("csv", "sglang", "vllm", "exflow")


def slots(placed: Whole) -> Whole:
    """Experts by slot [layer, slot], the slots of a GPU side by side.

    >>> slots(np.array([[1, 0, 1, 0]])).tolist()
    [[1, 3, 0, 2]]
    """
    return np.argsort(placed, axis=1, kind="stable").astype(np.int64)


def physical(table: Whole, layers: Sequence[int], all_layers: int) -> list[list[int]]:
    """Experts by slot for every layer of the model; a layer without experts gets them in order, as nobody reads it."""
    experts = int(table.max()) + 1
    rows = [[i % experts for i in range(table.shape[1])] for _ in range(all_layers)]
    for layer, row in zip(layers, table, strict=True):
        rows[layer] = [int(expert) for expert in row]
    return rows


def _no_copies(table: Whole, gpus: int) -> None:
    """Refuse two replicas of one expert on one GPU, for which an expert map has no place."""
    rows = np.sort(table.reshape(-1, table.shape[1] // gpus), axis=1)
    twice = np.argwhere(rows[:, 1:] == rows[:, :-1])
    if len(twice):
        row, slot = twice[0]
        raise Unsupported(
            f"layer {row // gpus} has expert {rows[row, slot]} twice on GPU {row % gpus}, which the form vllm cannot "
            "say; use --form sglang or another --policy"
        )


def written_placement(form: str, placed: Whole, gpus: int, layers: Sequence[int], all_layers: int) -> str:
    """The text of a file of a placement [routed layer, expert]; engines want as many slots on every GPU."""
    if form == "csv":
        rows = [f"{i},{expert},{gpu}" for i, row in enumerate(placed) for expert, gpu in enumerate(row.tolist())]
        return "\n".join(["layer,expert,gpu", *rows]) + "\n"
    if form == "exflow":
        return "\n".join(",".join(map(str, row)) for row in placed.tolist()) + "\n"
    if form in FORMS and any(len(set(np.bincount(row, minlength=gpus))) > 1 for row in placed):
        raise Unsupported(
            f"GPUs hold different numbers of experts, for which the form {form} has no place; use --form csv or exflow"
        )
    return written(form, slots(placed), gpus, layers, all_layers)


def written(form: str, table: Whole, gpus: int, layers: Sequence[int], all_layers: int) -> str:
    """The text of a file. table: experts by slot [routed layer, slot]; layers: where these stand in the model.

    csv: layer, expert, gpu; sglang: what `--init-expert-location` reads (release 0.5.23), every layer of the model in
    one list of experts by slot; vllm: the expert map by routed layer and device that vLLM's Ascend plug-in reads as
    `expert_map_path` (vllm-ascend 0.23.0), as vLLM itself (0.33.0) takes no file; exflow: the GPU of each expert, a row
    per layer and a column per expert.
    """
    if form not in FORMS:
        raise Unsupported(f"form {form!r} is unknown{offer(form, FORMS)}")
    size = table.shape[1] // gpus
    gpu = np.arange(table.shape[1]) // size
    if form == "csv":
        lines = [
            f"{layer},{expert},{g}"
            for layer, row in enumerate(table)
            for expert, g in sorted(zip(row.tolist(), gpu.tolist(), strict=True))
        ]
        return "\n".join(["layer,expert,gpu", *lines]) + "\n"
    if form == "sglang":
        return json.dumps({"physical_to_logical_map": physical(table, layers, all_layers)}) + "\n"
    if form == "vllm":
        _no_copies(table, gpus)
        devices = [
            {
                "layer_id": ordinal,
                "device_count": gpus,
                "device_list": [
                    {"device_id": g, "device_expert": row[g * size : (g + 1) * size].tolist()} for g in range(gpus)
                ],
            }
            for ordinal, row in enumerate(table)
        ]
        return json.dumps({"moe_layer_count": len(layers), "layer_list": devices}) + "\n"
    if table.shape[1] > int(table.max()) + 1:
        raise Unsupported("ExFlow's arrays give one GPU to each expert; write replicas in another form")
    where = np.empty_like(table)
    np.put_along_axis(where, table, np.broadcast_to(gpu, table.shape), axis=1)
    return "\n".join(",".join(map(str, row)) for row in where.tolist()) + "\n"
