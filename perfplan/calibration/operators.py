"""Operator tables in: the CSV and parquet files that the collectors of aiconfigurator write, one operator per row.

Columns: framework, version, kernel_source, op_name, latency [ms], and per operator gemm_dtype, m, n, k; attn_dtype,
kv_cache_dtype, batch_size, isl, step, num_heads, num_key_value_heads, head_dim, window_size, beam_width; moe_dtype,
num_tokens, hidden_size, inter_size, topk, num_experts, moe_tp_size, moe_ep_size, distribution; nccl_dtype or
allreduce_dtype, num_gpus, message_size [elements]. Parquet needs pyarrow: pip install 'perfplan[operators]'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perfplan.calibration.tables import COLLECTIVE_COLUMNS, EXPERT_COLUMNS, KERNEL_COLUMNS, typed
from perfplan.errors import CatalogError, MissingField

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["is_operator_table", "operator_collectives", "operator_experts", "operator_kernels"]

_MARKS = {"op_name", "latency"}  # columns by which such a table is known
_FORMATS = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32",
            "fp8_block": "fp8-block", "int4_wo": "int4", "sq": "int8", "w4a8_mxfp4_mxfp8": "mxfp4"}
_ELEMENT = {"half": 2, "float16": 2, "bfloat16": 2, "float": 4, "float32": 4, "int8": 1, "fp8": 1}  # B
_GEMM = {"kernel": "gemm", "m": "{m}", "n": "{n}", "k": "{k}"}
_HEADS = {"batch": "{batch_size}", "heads": "{num_heads}", "kv_heads": "{num_key_value_heads}",
          "head_dim": "{head_dim}", "kv_dtype": "{kv_cache_dtype}"}
_EXPERTS = {"tokens": "num_tokens", "hidden_size": "hidden_size", "moe_ffn_hidden_size": "inter_size",
            "experts_per_token": "topk", "experts": "num_experts", "moe_tp": "moe_tp_size", "moe_ep": "moe_ep_size",
            "distribution": "distribution"}
_NAMES = {"alltoall": "all_to_all"}
Record = Mapping[str, str]


def is_operator_table(path: Path) -> bool:
    """Whether a file is a parquet table, or a CSV table with the columns of an operator table."""
    if path.suffix == ".parquet":
        return True
    try:
        with path.open(encoding="utf-8") as lines:
            names = {name.strip() for name in lines.readline(1 << 16).split(",")}
    except (OSError, UnicodeDecodeError):
        return False
    return names >= _MARKS and "latency_us" not in names


def _raw(path: Path) -> pd.DataFrame:
    """The table as text."""
    import pandas as pd

    try:
        if path.suffix != ".parquet":
            return pd.read_csv(path, dtype=str, keep_default_na=False)
        table = pd.read_parquet(path, engine="pyarrow").astype("object")
        return table.where(table.notna(), "").astype(str)
    except ImportError:
        need = "is a parquet table, which needs pyarrow: pip install 'perfplan[operators]'"
        raise MissingField(f"{path} {need}") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise CatalogError(f"{path} cannot be read as an operator table: {reason.lower()}") from None


def _read(path: Path, columns: dict[str, Any], operators: Mapping[str, Callable[[Record], dict[str, str]]],
          what: str) -> pd.DataFrame:
    """Rows of the operators named, in the columns of perfplan; raises CatalogError if there is none."""
    import pandas as pd

    raw = _raw(path)
    if missing := sorted(_MARKS - set(raw)):
        raise MissingField(f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
    records: list[dict[str, str]] = [{str(k): v for k, v in one.items()} for one in raw.to_dict("records")]
    rows = [{"latency_us": _us(path, at, one["latency"])} | operators[one["op_name"]](one) | _origin(one)
            for at, one in enumerate(records) if one["op_name"] in operators]
    if not rows:
        seen = ", ".join(sorted(set(raw["op_name"]))[:5]) or "nothing"
        raise CatalogError(f"{path} holds {seen} and no {what}; {', '.join(sorted(operators))} can be read")
    frame = pd.DataFrame(rows).fillna("")
    table = typed(frame, columns, path)
    table["doubt"] = frame["doubt"].to_numpy() if "doubt" in frame else ""
    return table


def _us(path: Path, at: int, text: str) -> str:
    try:
        return repr(float(text) * 1e3) if text.strip().lower() not in ("", "nan") else ""
    except ValueError:
        raise CatalogError(f"{path}, row {at + 1}: latency holds {text!r}, which is no number") from None


def _origin(record: Record) -> dict[str, str]:
    words = (record.get("framework", "").lower(), record.get("version", ""), record.get("kernel_source", ""))
    software = " ".join(word for word in words if word)
    return {"software": software, "engine": words[0], "quality": "A", "suspect": "0", "source": "operator table"}


def _format(name: str) -> str:
    return _FORMATS.get(name, name)


def _gemm(record: Record) -> dict[str, str]:
    return _filled(_GEMM, record) | {"dtype": _format(record.get("gemm_dtype", ""))}


def _filled(shape: Mapping[str, str], record: Record) -> dict[str, str]:
    """Columns from a mapping column -> text, "{name}" being the cell of that name."""
    return {name: record.get(text[1:-1], "") if text.startswith("{") else text for name, text in shape.items()}


def _attention(record: Record) -> dict[str, str]:
    """A context row has `isl` new tokens after `step` old ones, a generation row one after isl + step - 1."""
    new, old = _number(record.get("isl", "")), _number(record.get("step", "") or "0")
    decode = record["op_name"] == "generation_attention"
    length = "" if new is None or old is None else str(new + old)
    shape = _filled(_HEADS, record) | {"dtype": _format(record.get("attn_dtype", ""))}
    shape |= {"kernel": "attention_decode" if decode else "attention_fwd", "causal": str(int(not decode)),
              "seq_len_q": "1" if decode else record.get("isl", ""), "seq_len_kv": length,
              "kv_dtype": _format(shape["kv_dtype"])}  # fmt: skip
    if shape["kv_heads"] == "0":
        shape["kv_heads"] = shape["heads"]
    window, beams = _number(record.get("window_size", "") or "0"), _number(record.get("beam_width", "") or "1")
    if beams not in (None, 1):
        return shape | {"doubt": f"it was measured with {beams:g} beams"}
    if window and length and window < float(length):
        return shape | {"doubt": f"it attends to a window of {window:g} tokens"}
    if old and not decode:
        return shape | {"doubt": f"it continues after {old:g} tokens"}
    return shape


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def operator_kernels(path: Path) -> pd.DataFrame:
    """GEMM and attention rows in the columns of `read_kernels`; `doubt` says why a row is not to be fitted."""
    operators = {"gemm": _gemm, "context_attention": _attention, "generation_attention": _attention}
    return _read(path, KERNEL_COLUMNS, operators, "GEMM or attention")


def operator_experts(path: Path) -> pd.DataFrame:
    """Expert layers in the columns of `read_experts`."""

    def moe(record: Record) -> dict[str, str]:
        return {name: record.get(theirs, "") for name, theirs in _EXPERTS.items()} | {
            "dtype": _format(record.get("moe_dtype", ""))}

    return _read(path, EXPERT_COLUMNS, {"moe": moe}, "expert layers")


def operator_collectives(path: Path) -> pd.DataFrame:
    """Collectives inside one fast domain in the columns of `read_collectives`, sizes in bytes."""

    def collective(record: Record) -> dict[str, str]:
        custom = "nccl_dtype" not in record
        width = _ELEMENT.get(record.get("allreduce_dtype" if custom else "nccl_dtype", ""))
        elements = _number(record.get("message_size", ""))
        ranks = record.get("num_gpus", "")
        return {"op": _NAMES.get(record["op_name"], record["op_name"]), "n_ranks": ranks, "ranks_per_node": ranks,
                "algo": "custom" if custom else "unknown",
                "bytes": repr(elements * width) if width and elements is not None else ""}  # fmt: skip

    names = ("all_reduce", "all_gather", "reduce_scatter", "alltoall")
    return _read(path, COLLECTIVE_COLUMNS, dict.fromkeys(names, collective), "collectives")
