"""Fit the constants of TPOT of engines and their releases and print them: `python tools/fit_engines.py [--write]`.

--write puts them into catalogs/engines. One line per release, with its runs and their error in sample, one per engine,
one for what all share. About half a minute of one core; those of TTFT follow with tools/fit_first_tokens.py.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import numpy as np
from engine_files import write

from perfplan.catalog import Catalog
from perfplan.catalog.specs import Engine
from perfplan.validation.kernels import shipped
from perfplan.validation.serving import LATENCY_FILES, Pricer
from perfplan.validation.serving_fit import Columns, Key, columns_of, fit_engines, with_constants
from perfplan.validation.serving_rows import read_runs


def main() -> None:
    """The constants, by name."""
    columns = columns_of([r for path in shipped(LATENCY_FILES) for r in read_runs(path)], Pricer(Catalog()))
    fitted = fit_engines(columns)
    said = {key: _said(columns, key, values) for key, values in fitted.items()}
    for key, values in fitted.items():
        constants = ", ".join(f"{name}: {value:.3g}" for name, value in values.items())
        print(" ".join(key) or "all", f"{constants}, {said[key]}".removesuffix(", "))
    for name in {key[0] for key in fitted if len(key) == 1} if "--write" in sys.argv else ():
        _write(name, fitted, said, columns[0].job.engine)


def _write(engine: str, fitted: Mapping[Key, dict[str, float]], said: Mapping[Key, str], example: Engine) -> None:
    def constants(key: Key) -> dict[str, float]:
        own = with_constants(example, fitted[key])
        return {name: getattr(own, name) for name in (*fitted[key], "eager", "prompt")}

    releases = {key[1]: constants(key) for key in fitted if key[:1] == (engine,) and len(key) > 1}
    general = {name: value for name, value in constants((engine,)).items() if name != "together"}  # chosen by hand
    write(engine, "python tools/fit_engines.py", general, releases,
          {name: f"{name}, {said[engine, name]} in sample" for name in releases})


def _said(columns: Sequence[Columns], key: tuple[str, ...], values: Mapping[str, float]) -> str:
    errors = [abs(one.predicted(values) / one.measured - 1) for one in columns if one.key == key]
    if not errors:
        return ""
    return f"{sum(map(len, errors))} runs, median abs. error {100 * float(np.median(np.concatenate(errors))):.2g} %"


if __name__ == "__main__":
    main()
