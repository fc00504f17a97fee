"""Fit the constants of TTFT of engines and their releases and print them: `python tools/fit_first_tokens.py`.

They are copied into catalogs/engines by hand, like the other constants; the steps are priced with those of the catalog.
A release needs LEAST rows for constants of its own.
"""

from __future__ import annotations

from collections import Counter

from perfplan.catalog import Catalog
from perfplan.validation.first_token_fit import fit_first_tokens
from perfplan.validation.kernels import shipped
from perfplan.validation.serving import LATENCY_FILES, Pricer, listed
from perfplan.validation.serving_rows import Run, read_runs

LEAST = 10


def _shown(runs: list[Run], engine: str, release: str | None, rows: int) -> str:
    found = fit_first_tokens(runs, release, Pricer(Catalog()))
    what = ", ".join(f"{name}: {value:.3g}" for name, value in found.items())
    return f"{engine} {'in general' if release is None else release!r}, {rows} rows: {what}"


def main() -> None:
    """One line per engine, one per release of it."""
    runs = [r for path in shipped(LATENCY_FILES) for r in read_runs(path) if r.metric == "ttft_ms" and not listed(r)]
    for engine in sorted({run.engine for run in runs}):
        mine = [run for run in runs if run.engine == engine]
        print(_shown(mine, engine, None, len(mine)))
        for release, rows in sorted(Counter(run.release for run in mine).items()):
            if rows >= LEAST:
                print(_shown(mine, engine, release, rows))


if __name__ == "__main__":
    main()
