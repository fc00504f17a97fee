"""Catalog entries that carry calibrated constants, as YAML ready for `--catalog`."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import yaml

from perfplan.calibration.found import Calibration

__all__ = ["accelerator_yaml", "cluster_yaml"]


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.4g} us"


def _nanoseconds(seconds: float) -> str:
    return f"{seconds * 1e9:.4g} ns"


_TIMES = {"overhead": _microseconds, "ramp": _microseconds, "step": _nanoseconds, "each": _nanoseconds}


def _dump(data: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=120, default_flow_style=False))


def accelerator_yaml(name: str, entry: Mapping[str, Any], found: Calibration, files: str, date: str) -> str:
    """The accelerator's entry (its mapping as read) with the constants found written in; the rest stays as it was.

    files, date: what the `source` of each constant says of its origin.
    """
    data: dict[str, Any] = {"id": name} | {key: value for key, value in deepcopy(dict(entry)).items() if key != "id"}
    kernels = data["kernels"] = dict(data.get("kernels") or {})
    for one in found.fitted:
        if one.written:
            constants = {key: _TIMES[key](value) if key in _TIMES else value
                         for key, value in sorted(one.constants.items())}
            kernels[one.kind] = dict(kernels.get(one.kind) or {}) | {
                one.dtype: constants | {"source": one.says(files, date)}
            }
    if found.sustained:
        known = data.get("sustained") or {}
        data["sustained"] = (dict(known) if isinstance(known, Mapping) else {"any": known}) | dict(found.sustained)
        data["sources"] = dict(data.get("sources") or {}) | {
            "sustained": f"perfplan calibrate, {files}, {date}: burst over lasting time of one product"
        }
    return _dump(data)


def cluster_yaml(name: str, entry: Mapping[str, Any], found: Calibration, files: str, date: str) -> str:
    """The cluster's entry with the constants of its innermost level replaced by those found."""
    data: dict[str, Any] = {"id": name} | {key: value for key, value in deepcopy(dict(entry)).items() if key != "id"}
    level: dict[str, Any] = dict(data["levels"][0])
    for key, value in found.levels.items():
        if key == "operations":
            level[key] = dict(level.get(key) or {}) | value
        else:
            level[key] = _microseconds(value) if key in ("launch", "latency") else value
    origin = "; ".join(f"{one.kind}: {one.says(files, date)}" for one in found.fitted)
    kept = [one for one in level.get("operations") or {} if one not in {f.kind for f in found.fitted}]
    level["source"] = origin + (f"; {', '.join(kept)}: as before, {level.get('source', '')}" if kept else "")
    return _dump(data | {"levels": [level, *data["levels"][1:]]})
