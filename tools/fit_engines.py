"""Fit the constants of TPOT of engines and their releases and print them: `python tools/fit_engines.py`.

They are copied into catalogs/engines by hand. One line per release, with its runs and their error in sample, one per
engine, one for what all share. About half a minute of one core; those of TTFT follow with tools/fit_first_tokens.py.
"""

from __future__ import annotations

import numpy as np

from perfplan.catalog import Catalog
from perfplan.validation.kernels import shipped
from perfplan.validation.serving import LATENCY_FILES, Pricer
from perfplan.validation.serving_fit import columns_of, fit_engines
from perfplan.validation.serving_rows import read_runs


def main() -> None:
    """The constants, by name."""
    columns = columns_of([r for path in shipped(LATENCY_FILES) for r in read_runs(path)], Pricer(Catalog()))
    for key, values in fit_engines(columns).items():
        errors = [abs(one.predicted(values) / one.measured - 1) for one in columns if one.key == key]
        error = 100 * float(np.median(np.concatenate(errors or [np.zeros(1)])))
        said = f", {sum(map(len, errors))} runs, median abs. error {error:.2g} %"
        print(" ".join(key) or "all", ", ".join(f"{name}: {value:.3g}" for name, value in values.items()),
              said * bool(errors))  # fmt: skip


if __name__ == "__main__":
    main()
