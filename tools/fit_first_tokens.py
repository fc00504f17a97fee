"""Fit the constants of TTFT of engines and their releases and print them: `python tools/fit_first_tokens.py [--write]`.

--write puts them into catalogs/engines. The steps are priced with the constants of the catalog. A release needs LEAST
rows for constants of its own.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping

from engine_files import write

from perfplan.catalog import Catalog
from perfplan.validation.first_token_fit import fit_first_tokens
from perfplan.validation.kernels import shipped
from perfplan.validation.serving import LATENCY_FILES, Pricer, listed
from perfplan.validation.serving_rows import read_runs

LEAST = 10


def _shown(what: str, found: Mapping[str, float], rows: int) -> None:
    print(f"{what}, {rows} rows:", ", ".join(f"{name}: {value:.3g}" for name, value in found.items()))


def main() -> None:
    """One line per engine, one per release of it."""
    runs = [r for path in shipped(LATENCY_FILES) for r in read_runs(path) if r.metric == "ttft_ms" and not listed(r)]
    for engine in sorted({run.engine for run in runs}):
        mine, pricer = [run for run in runs if run.engine == engine], Pricer(Catalog())
        rows = {name: count for name, count in Counter(run.release for run in mine).items() if count >= LEAST}
        general = fit_first_tokens(mine, None, pricer)
        releases = {name: fit_first_tokens(mine, name, pricer) for name in sorted(rows)}
        _shown(f"{engine} in general", general, len(mine))
        for name, found in releases.items():
            _shown(f"{engine} {name!r}", found, rows[name])
        if "--write" in sys.argv:
            if not pricer.job(mine[0]).engine.mixed:
                del general["burst"]  # chosen by hand, as `together` is: a release without runs is in step
            write(engine, "python tools/fit_first_tokens.py", general, releases,
                  {name: f"{name}, {rows[name]} rows" for name in releases})


if __name__ == "__main__":
    main()
