"""Put fitted constants into catalogs/engines, comments and order kept: used by fit_engines.py and fit_first_tokens.py.

The engine in general takes its values; a release those of its own that differ, if its `source` names tool and release.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from perfplan.catalog.files import packaged_root

UNITS = {"step": "us", "prompt": "ms", "sequence": "us", "launch": "us", "routed": "us", "stream": "ms", "first": "ms"}
SCALES = {"us": 1e6, "ms": 1e3}


def written(name: str, value: float) -> str:
    """A constant as its file states it: three digits, with its unit."""
    unit = UNITS.get(name, "")
    return f"{value * SCALES.get(unit, 1):.3g} {unit}".rstrip()


def write(engine: str, tool: str, general: Mapping[str, float], releases: Mapping[str, Mapping[str, float]],
          found: Mapping[str, str]) -> None:
    """Rewrite the file of one engine, see `rewritten`."""
    path = packaged_root() / "engines" / f"{engine}.yaml"
    path.write_text(rewritten(path.read_text(encoding="utf-8"), tool, general, releases, found), encoding="utf-8")


def rewritten(text: str, tool: str, general: Mapping[str, float], releases: Mapping[str, Mapping[str, float]],
              found: Mapping[str, str]) -> str:
    """The file with new constants. general, releases: of the engine and by release as rows name it; found: what
    replaces the figures of the fit, which follow the name of the tool, in the source of each release."""
    head, *blocks = re.split(r'(?m)^(?=  "[^"]*":$)', text)
    plain = {name: written(name, value) for name, value in general.items()}
    for name, value in plain.items():
        head = re.sub(rf"(?m)^{name}: .*$", f"{name}: {value}", head)
    for at, block in enumerate(blocks):
        key = block.split('"')[1]
        mine = [name for name in releases if name.startswith(key) and f"{tool}, {name}" in block]
        if mine:
            blocks[at] = _release(block, tool, plain, releases[mine[0]], found[mine[0]])
    return head + "".join(blocks)


def _release(block: str, tool: str, plain: Mapping[str, str], values: Mapping[str, float], found: str) -> str:
    for name, value in values.items():
        block = re.sub(rf"(?m)^    {name}: .*\n", "", block)
        if written(name, value) != plain.get(name):
            block = re.sub(r"(?m)^    source:", f"    {name}: {written(name, value)}\n    source:", block, count=1)
    return re.sub(rf"{re.escape(tool)}, [^;']*", f"{tool}, {found}", block, count=1)
