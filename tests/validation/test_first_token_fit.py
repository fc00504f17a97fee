"""The fit of TTFT constants finds those that made the figures, beside outliers, and shrinks what few rows say."""

from dataclasses import replace

import pytest

from perfplan.catalog import Catalog
from perfplan.validation.first_token_fit import CONSTANTS, fit_first_tokens
from perfplan.validation.serving import Pricer
from perfplan.validation.serving_rows import Run

TRUE = {"first": 0.03, "ahead": 2.0, "stream": 8e-4, "burst": 0.12}


@pytest.fixture(scope="module")
def catalog():
    return Catalog()


def made(catalog, true, count, spoilt=0):
    """Runs whose TTFT the model itself gives with the constants `true`; the first `spoilt` waited in a queue."""
    pricer = Pricer(catalog, lambda engine: replace(engine, **true))
    loads = [(isl, users, tp) for isl in (1024, 2048, 4096) for users in (8, 16, 32, 64) for tp in (1, 2, 4)][:count]
    plain = Run("r", "g", "llama-3.1-8b", "h100-sxm", "vllm", "0.12.0", "bf16", "bf16", "", 1, 1, 1, None, 1, 1, None,
                1024, 256, 8, "concurrency", None, "ttft_ms", 1.0, "A", False, "")
    runs = [replace(plain, isl=isl, batch=users, tp=tp, accelerators=tp) for isl, users, tp in loads]
    return [replace(run, value=pricer.predict(run) * (20 if i < spoilt else 1)) for i, run in enumerate(runs)]


def test_the_figures_are_found_again_beside_outliers(catalog):
    runs = made(catalog, TRUE, 36, spoilt=4)
    found = fit_first_tokens(runs, "0.12.0", Pricer(catalog))
    pricer = Pricer(catalog, lambda engine: replace(engine, **found))
    errors = [abs(pricer.predict(run) / run.value - 1) for run in runs[4:]]
    assert sum(errors) / len(errors) < 0.03
    assert CONSTANTS["ahead"][0] < found["ahead"] < TRUE["ahead"]


def test_few_rows_stay_near_what_engines_share(catalog):
    far, near = ({n: fit_first_tokens(made(catalog, TRUE | {"ahead": 6.0}, count), "0.12.0", Pricer(catalog))[n]
                  for n in CONSTANTS} for count in (36, 2))
    assert CONSTANTS["ahead"][0] < near["ahead"] < far["ahead"] < 6.3


def test_without_runs_the_constants_are_those_shared(catalog):
    assert fit_first_tokens([], "9.9", Pricer(catalog)) == pytest.approx({n: one[0] for n, one in CONSTANTS.items()})
