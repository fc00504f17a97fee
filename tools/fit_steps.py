"""Fit the constants of whole steps and write them into the catalogs: `python tools/fit_steps.py`.

Which constants are free says catalogs/measurements/step_constants.yaml. Only numbers change: the `source` beside each
says already that it is this fit's. Of vTrain every ninth row takes part. About three minutes of one core.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perfplan.catalog import Catalog
from perfplan.catalog.files import packaged_root
from perfplan.validation.holdouts import thinned
from perfplan.validation.rows import read_rows
from perfplan.validation.steps import Step, declared, fitted, owner_of, predicted, steps_of, with_constants
from perfplan.validation.training import dev_measurements


def replaced(text: str, path: Sequence[str], value: str) -> str:
    """The YAML text with the scalar or flow mapping at `path` (block keys) set to `value`; unchanged without it."""
    lines, at, depth = text.split("\n"), 0, 0
    while at < len(lines):
        line = lines[at]
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent < 2 * depth:
            return text
        if indent == 2 * depth and line.strip().startswith(f"{path[depth]}:"):
            if depth == len(path) - 1:
                lines[at] = f"{' ' * indent}{path[depth]}: {value}"
                return "\n".join(lines)
            depth += 1
        at += 1
    return text


def written(name: str, value: float) -> str:
    """A constant as the catalogs write it."""
    if name.endswith(("overhead", "launch", "gap", "skew", "sync")):
        return f"{value * 1e3:.4g} ms" if value >= 1e-3 else f"{value * 1e6:.4g} us"
    return f"{value:.4g}"


def chip_text(text: str, step: Step, mine: Mapping[str, float]) -> str:
    """The file of an accelerator with its constants."""
    chip = with_constants(step.job.cluster.accelerator, mine)
    clocks = ", ".join(f"{dtype}: {clock:.4g}" for dtype, clock in chip.sustained.items())
    text = replaced(text, ["sustained"], f"{{{clocks}}}")
    for name, value in mine.items():
        head, *rest = name.split(".")
        for dtype in chip.kernels.get(rest[0], {}) if head == "kernels" else ():
            if "@" not in dtype and (rest[1] == "*" or dtype in rest[1].split("+")):
                text = replaced(text, ["kernels", rest[0], dtype, rest[2]], written(name, value))
                text = replaced(text, ["kernels", rest[0], "any", rest[2]], written(name, value))
    return text


def framework_text(text: str, step: Step, mine: Mapping[str, float]) -> str:
    """The file of a framework with its constants."""
    overlap = dict(step.job.framework.overlap)
    for name, value in mine.items():
        head, _, axis = name.partition(".")
        if axis:
            overlap[axis] = value
        else:
            text = replaced(text, [head], written(name, value))
    return replaced(text, ["overlap"], f"{{{', '.join(f'{axis}: {share:.3g}' for axis, share in overlap.items())}}}")


def report(steps: Sequence[Step], errors: NDArray[np.float64]) -> None:
    """Print the errors per slice."""
    for name in sorted({step.slice for step in steps}):
        mine = errors[[step.slice == name for step in steps]]
        print(f"{name}: n {len(mine)}, MAPE {mine.mean():.1%}, median {np.median(mine):.1%}", file=sys.stderr)


def main() -> None:
    """Fit, write, and say how well the constants fit."""
    steps = steps_of(read_rows(dev_measurements()), Catalog())
    constants = fitted(thinned(steps))
    for of, edited in (("accelerator", chip_text), ("framework", framework_text)):
        chosen = {(s.job.framework if of == "framework" else s.job.cluster.accelerator).id: s for s in steps}
        for name, step in chosen.items():
            mine = {free.name: constants[free.of, owner, free.name] for free in declared()
                    if (free.of == "framework") == (of == "framework")
                    and (owner := owner_of(free, step.job)) is not None}  # fmt: skip
            path: Path = packaged_root() / f"{of}s" / f"{name}.yaml"
            path.write_text(edited(path.read_text(encoding="utf-8"), step, mine), encoding="utf-8")
    report(steps, np.abs(predicted(steps, constants) / np.array([step.time for step in steps]) - 1))


if __name__ == "__main__":
    main()
