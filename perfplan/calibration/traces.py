"""PyTorch profiler traces in: the Chrome trace JSON of `torch.profiler` with `record_shapes=True`, plain or gzipped.

A kernel belongs to the operator that launched it: by the correlation id of its launch, which lies inside the operator
on the same thread, else by the External id. The outermost operator known below gives kind and shape (the order of its
arguments is that of PyTorch's native_functions.yaml, or of flash_attn), the durations of all its kernels together the
time; calls of one shape count once, by their median. Kernels without such an operator are told by name, not fitted.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from perfplan.calibration.tables import KERNEL_COLUMNS, typed
from perfplan.errors import CatalogError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["is_trace", "read_trace"]

_FORMATS = {"c10::bfloat16": "bf16", "c10::half": "fp16", "float": "fp32", "c10::float8_e4m3fn": "fp8",
            "c10::float8_e5m2": "fp8", "c10::float8_e4m3fnuz": "fp8", "c10::float8_e5m2fnuz": "fp8"}
_OPERATORS, _LAUNCHES = {"cpu_op", "operator"}, {"cuda_runtime", "cuda_driver", "runtime", "driver", "hip_runtime"}
_BY_NAME = {"gemm": re.compile(r"gemm|cutlass|nvjet|cublas|wgmma|Cijk_", re.I),
            "attention_fwd": re.compile(r"flash|fmha|attention", re.I)}  # what a kernel without an operator looks like
_NO_SHAPE = "the trace records no shapes of it; profile with record_shapes=True"
Event = Mapping[str, Any]
Shape = Sequence[int]


@dataclass(frozen=True)
class _Attention:
    """Where an attention operator has its query and its causal flag; heads_first: batch x heads x length x width."""

    kernel: str
    backend: str
    query: int
    causal: int
    heads_first: bool = True
    masks: tuple[int, ...] = ()  # tensors that make the shapes or the work another


_SDPA = "aten::_scaled_dot_product_"
_ATTENTION = {
    f"{_SDPA}flash_attention": _Attention("attention_fwd", "flash", 0, 4),
    f"{_SDPA}flash_attention_backward": _Attention("attention_bwd", "flash", 1, 11),
    f"{_SDPA}efficient_attention": _Attention("attention_fwd", "efficient", 0, 6, masks=(3,)),
    f"{_SDPA}efficient_attention_backward": _Attention("attention_bwd", "efficient", 1, 11, masks=(4,)),
    f"{_SDPA}cudnn_attention": _Attention("attention_fwd", "cudnn", 0, 6, masks=(3,)),
    f"{_SDPA}cudnn_attention_backward": _Attention("attention_bwd", "cudnn", 1, 14, masks=(8,)),
    "aten::_flash_attention_forward": _Attention("attention_fwd", "flash", 0, 8, False, (3, 4)),
    "aten::_flash_attention_backward": _Attention("attention_bwd", "flash", 1, 11, False, (6, 7)),
    "flash_attn::_flash_attn_forward": _Attention("attention_fwd", "flash_attn", 0, 5, False),
    "flash_attn::_flash_attn_backward": _Attention("attention_bwd", "flash_attn", 1, 11, False),
}  # fmt: skip
_PRODUCTS = {"aten::mm": 0, "aten::addmm": 1, "aten::_addmm_activation": 1, "aten::bmm": 0, "aten::baddbmm": 1,
             "aten::_scaled_mm": 0, "aten::_grouped_mm": 0, "aten::_scaled_grouped_mm": 0}  # operator -> left factor


@dataclass
class _Call:
    """One operator or launch on a thread; parent: what encloses it; kernels: (name, duration [us])."""

    event: Event
    parent: _Call | None = None
    kernels: list[tuple[str, float]] = field(default_factory=list)

    def outermost(self) -> _Call | None:
        """The outermost enclosing operator whose shape can be read, itself included."""
        found, call = None, self
        while call is not None:
            found = call if call.event["name"] in _ATTENTION or call.event["name"] in _PRODUCTS else found
            call = call.parent  # type: ignore[assignment]
        return found


def is_trace(path: Path) -> bool:
    """Whether a file is named like a profiler's trace: .json, .json.gz."""
    return path.suffix == ".json" or path.suffixes[-2:] == [".json", ".gz"]


def _document(path: Path) -> Any:
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as text:
            return json.load(text)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CatalogError(f"{path} cannot be read: {reason.lower()}") from None
    except (ValueError, RecursionError):
        raise CatalogError(f"{path} is not the JSON of a profiler trace") from None


def _events(path: Path) -> tuple[list[Event], str]:
    """Complete events with name, start and duration, and the label of the software."""
    data = _document(path)
    found = data.get("traceEvents") if isinstance(data, dict) else data
    if not isinstance(found, list):
        raise CatalogError(f"{path} is not a profiler trace: it holds no list traceEvents")
    events: list[Event] = [one for one in found if isinstance(one, dict) and one.get("ph") == "X" and _whole(one)]
    version = data.get("cuda_runtime_version") if isinstance(data, dict) else None
    return events, "torch.profiler" + (f" CUDA {version}" if version else "")


def _whole(event: Event) -> bool:
    times = [event.get(name) for name in ("ts", "dur")]
    timed = all(isinstance(time, (int, float)) and 0 <= time < float("inf") for time in times)
    return timed and isinstance(event.get("name"), str) and isinstance(event.get("args", {}), dict)


def _kind(event: Event) -> str:
    return str(event.get("cat", "")).lower()


def _argument(event: Event, name: str) -> Any:
    """An argument of an event, whatever its capitals."""
    arguments = event.get("args", {})
    return arguments.get(name, arguments.get(name.lower()))


def _calls(events: Iterable[Event]) -> list[_Call]:
    """Operators and launches, each with what encloses it on its thread."""
    threads: dict[str, list[_Call]] = defaultdict(list)
    for event in events:
        if _kind(event) in _OPERATORS | _LAUNCHES:
            threads[f"{event.get('pid')} {event.get('tid')}"].append(_Call(event))
    for calls in threads.values():
        calls.sort(key=lambda call: (call.event["ts"], -call.event["dur"]))
        open_: list[_Call] = []
        for call in calls:
            while open_ and call.event["ts"] >= open_[-1].event["ts"] + open_[-1].event["dur"]:
                open_.pop()
            call.parent = open_[-1] if open_ else None
            open_.append(call)
    return [call for calls in threads.values() for call in calls]


def _launched(events: Sequence[Event]) -> tuple[list[_Call], dict[str, list[float]]]:
    """Known operators with their kernels, and the durations of all other kernels by name [us]."""
    calls = _calls(events)
    launches = {str(_argument(c.event, "correlation")): c for c in calls if _kind(c.event) in _LAUNCHES}
    operators = {str(_argument(c.event, "External id")): c for c in calls if _kind(c.event) in _OPERATORS}
    others: dict[str, list[float]] = defaultdict(list)
    for kernel in (event for event in events if _kind(event) == "kernel"):
        tries = (launches.get(str(_argument(kernel, "correlation"))),
                 operators.get(str(_argument(kernel, "External id"))))
        owner = next((found for call in tries if call and (found := call.outermost())), None)
        if owner is None:
            others[kernel["name"]].append(float(kernel["dur"]))
        else:
            owner.kernels.append((kernel["name"], float(kernel["dur"])))
    return [call for call in calls if call.kernels], others


def _dims(event: Event) -> list[Any]:
    found = _argument(event, "Input Dims")
    return found if isinstance(found, list) else []


def _tensor(dims: Sequence[Any], place: int, rank: int) -> list[int] | None:
    """The shape at a place if it has that many axes."""
    shape = dims[place] if place < len(dims) else None
    right = isinstance(shape, list) and len(shape) == rank and all(isinstance(one, int) and one > 0 for one in shape)
    return shape if right else None


def _format(event: Event, place: int, kernels: Iterable[str]) -> str:
    types = _argument(event, "Input type")
    name = str(types[place]) if isinstance(types, list) and place < len(types) else ""
    found = _FORMATS.get(name.lower(), name)
    return "tf32" if found == "fp32" and any("tf32" in kernel.lower() for kernel in kernels) else found


def _product(event: Event) -> dict[str, Any] | None:
    """Shape of D = A B: plain, batched (groups), or grouped by the rows of A."""
    grouped, batched = "grouped" in event["name"], "bmm" in event["name"]
    left = _PRODUCTS[event["name"]]
    a = _tensor(_dims(event), left, 3 if batched else 2)
    b = _tensor(_dims(event), left + 1, 3 if batched or grouped else 2)
    if not (a and b):
        return None
    if grouped:
        return {"kernel": "grouped_gemm", "m": a[0] / b[0], "n": b[2], "k": a[1], "groups": b[0]}
    shape = {"kernel": "gemm", "m": a[-2], "n": b[-1], "k": a[-1]}
    return shape | {"groups": a[0]} if batched else shape


def _attention(event: Event) -> tuple[dict[str, Any] | None, str]:
    """Shape of an attention operator, and why it is not to be fitted."""
    known, dims = _ATTENTION[event["name"]], _dims(event)
    q, k = _tensor(dims, known.query, 4), _tensor(dims, known.query + 1, 4)
    if not (q and k):
        return None, "its query and key have no four axes: sequences of several lengths are not read"
    axes = (1, 2) if known.heads_first else (2, 1)
    causal = _flag(event, known.causal)
    shape = {"kernel": known.kernel, "batch": q[0], "heads": q[axes[0]], "seq_len_q": q[axes[1]], "head_dim": q[3],
             "kv_heads": k[axes[0]], "seq_len_kv": k[axes[1]], "causal": int(bool(causal))}
    if any(place < len(dims) and dims[place] for place in known.masks):
        return shape, "it has a mask or lengths of its own"
    if shape["seq_len_q"] == 1 and known.kernel == "attention_fwd":
        return shape | {"kernel": "attention_decode", "causal": 0}, ""
    if causal is None:
        return shape, "the trace does not record whether it is causal (Concrete Inputs)"
    same = shape["seq_len_q"] == shape["seq_len_kv"]
    return shape, "" if same or not causal else "it is causal over lengths that differ"


def _flag(event: Event, place: int) -> bool | None:
    values = _argument(event, "Concrete Inputs")
    text = str(values[place]).lower() if isinstance(values, list) and place < len(values) else ""
    return {"true": True, "false": False, "1": True, "0": False}.get(text)


def _row(call: _Call, software: str) -> dict[str, Any]:
    """Kind, shape and format of a known operator, and why it is not to be fitted."""
    event, names = call.event, sorted({name for name, _ in call.kernels})
    if event["name"] in _PRODUCTS:
        shape, doubt, place = _product(event), _NO_SHAPE, _PRODUCTS[event["name"]]
        found = {"kernel": "gemm"} | (shape or {}) | {"doubt": "" if shape else doubt}
    else:
        known = _ATTENTION[event["name"]]
        shape, doubt = _attention(event) if _dims(event) else (None, _NO_SHAPE)
        found = {"kernel": known.kernel} | (shape or {}) | {"doubt": doubt}
        place, software = known.query, f"{software} {known.backend}"
    size = "x".join(str(found[name]) for name in ("groups", "batch", "m", "n", "k", "seq_len_q", "seq_len_kv", "heads",
                                                  "kv_heads", "head_dim") if name in found)
    dtype = _format(event, place, names)
    return found | {"dtype": dtype, "kv_dtype": dtype if "batch" in found else "", "software": software,
                    "id": " ".join(word for word in (event["name"], dtype, size) if word)}


def _merged(calls: Iterable[_Call], software: str) -> list[dict[str, Any]]:
    """One row per operator, format and shape, its time the median of the calls."""
    groups: dict[tuple[Any, ...], list[_Call]] = defaultdict(list)
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for call in calls:
        row = _row(call, software)
        key = tuple(sorted(row.items()))
        rows[key] = row
        groups[key].append(call)
    return [row | {"latency_us": median(sum(time for _, time in call.kernels) for call in groups[key]),
                   "note": f"median of {len(groups[key])} calls; {groups[key][0].kernels[0][0]}"}
            for key, row in rows.items()]


def _unknown(others: Mapping[str, Sequence[float]], software: str) -> list[dict[str, Any]]:
    """Kernels without a known operator, one row per name."""

    def kind(name: str) -> str:
        return next((kind for kind, pattern in _BY_NAME.items() if pattern.search(name)), "other")

    return [{"kernel": kind(name), "software": software, "id": name[:60], "latency_us": median(times),
             "doubt": "no operator with a shape launched it (a graph, or a library of its own)"}
            for name, times in others.items()]


def read_trace(path: Path) -> pd.DataFrame:
    """Operators of a trace in the columns of `read_kernels`; `doubt` says why a row is not to be fitted."""
    import pandas as pd

    events, software = _events(path)
    calls, others = _launched(events)
    rows = [*_merged(calls, software), *_unknown(others, software)]
    if not rows:
        raise CatalogError(f"{path} holds no kernels of an accelerator; profile with ProfilerActivity.CUDA")
    frame = pd.DataFrame([{"quality": "A", "suspect": 0, "source": "torch.profiler"} | row for row in rows])
    table = typed(frame.astype(object).where(frame.notna(), "").astype(str), KERNEL_COLUMNS, path)
    table["doubt"] = frame["doubt"].to_numpy()
    return table
