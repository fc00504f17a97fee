"""Techniques as data: what a file may say, and what it does to a job."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from perfplan.catalog import Catalog
from perfplan.catalog.files import read_yaml
from perfplan.errors import CatalogError, PerfplanError, UnknownName
from perfplan.validation.jobs import CaseBuilder
from perfplan.validation.overlap_figures import overlap_prices
from perfplan.validation.placement_figures import placement_prices
from perfplan.validation.reproduce import reproduce
from perfplan.validation.ruled import ruled_prices
from perfplan.validation.serving_figures import serving_prices
from perfplan.validation.techniques import apply, technique_from_yaml

FOLDER = Path(__file__).parents[2] / "catalogs" / "techniques"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
MISSED = {"deepep": ["combine, 128 ranks"]}  # shown as failing rows, with their reason in the file
PLAIN = {"id": "x", "name": "X", "source": "a paper", "summary": "does x"}


def shipped(name):
    return technique_from_yaml(read_yaml(FOLDER / f"{name}.yaml"), name)


@pytest.mark.parametrize("name", NAMES)
def test_exact_and_fitted_formulas_reproduce(name):
    technique = shipped(name)
    rows = [row for row in technique.published if row.quantity != "step_time" and row.kind != "trend"]
    prices = {
        **serving_prices(Catalog()),
        **ruled_prices(Catalog()),
        **overlap_prices(Catalog()),
        **placement_prices(Catalog()),
    }
    checks = reproduce(replace(technique, published=tuple(rows)), lambda inputs: 1.0, prices)
    assert rows
    assert [c.name for c in checks if not c.passed] == MISSED.get(name, [])


@pytest.mark.parametrize("name", NAMES)
def test_every_tolerance_has_its_reason(name):
    assert all(row.reason and row.tolerance for row in shipped(name).published)


def test_twelve_analytic_memory_rows_to_a_thousandth():
    technique = shipped("korthikanti-2022")
    memory = [row for row in technique.published if row.unit == "B"]
    assert len(memory) == 12
    checks = reproduce(replace(technique, published=tuple(memory)), lambda inputs: 1.0)
    assert max(abs(c.error) for c in checks) < 1e-3


def test_a_wrong_prediction_does_not_pass():
    technique = shipped("korthikanti-2022")
    rows = tuple(row for row in technique.published if row.quantity == "step_time")
    checks = reproduce(replace(technique, published=rows), lambda inputs: 1.0)
    assert not any(c.passed for c in checks if "mean error" in c.name or "1T" in c.name)


@pytest.mark.parametrize(("predicted", "error", "passes"), [(0.0, 0.0, True), (0.1, math.inf, False),
                                                           (-0.1, -math.inf, False)])
def test_a_published_zero_is_met_by_zero_alone(predicted, error, passes):
    technique = shipped("korthikanti-2022")
    row = next(row for row in technique.published if row.quantity == "step_time")
    zero = replace(row, value="0 s", tolerance="5 %", mean_tolerance="")
    found = reproduce(replace(technique, published=(zero,)), lambda inputs: predicted)
    assert [(c.error, c.passed) for c in found] == [(error, passes)]


def test_the_mean_of_a_block_is_a_check_of_its_own():
    technique = shipped("korthikanti-2022")
    rows = tuple(row for row in technique.published if row.quantity == "step_time")
    truth = {(row.inputs["model"], row.inputs["layout"]): float(row.value.split()[0]) for row in rows}
    checks = reproduce(replace(technique, published=rows), lambda i: 1.05 * truth[i["model"], i["layout"]])
    assert checks[-1].name == "mean error of 8 rows"
    assert checks[-1].predicted == pytest.approx(0.05)
    assert all(c.passed for c in checks)


def test_inconsistent_cells_say_what_they_contradict():
    cells = shipped("megascale").contradicted
    assert len(cells) >= 3
    assert all(cell["contradicts"] for cell in cells)


def test_a_technique_changes_a_job_and_nothing_else(catalog, row):
    job = CaseBuilder(catalog, 51200).case(row).job
    changed = apply(shipped("megascale"), job)
    assert all(kind.parallel for kind in changed.model.kinds)
    assert changed.overlap["pp"] == 1.0
    assert replace(changed, model=job.model, overlap=job.overlap) == job
    assert not job.model.kinds[0].parallel


def test_the_mapping_of_a_file_will_do(catalog, row):
    job = CaseBuilder(catalog, 51200).case(row).job
    assert apply(PLAIN | {"changes": {"attention": "unfused"}}, job).attention == "unfused"


@pytest.mark.parametrize("path", ["model.kinds.*.paralel", "modle.hidden", "model.hidden.deep", "global_batch"])
def test_a_change_that_reaches_nothing_is_an_error(catalog, row, path):
    job = CaseBuilder(catalog, 51200).case(row).job
    with pytest.raises(UnknownName):
        apply(PLAIN | {"changes": {path: 1}}, job)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"changes": [1]}, "changes is a mapping"),
        ({"published": [{"quantity": "run_time"}]}, "lacks rows, unit"),
    ],
)
def test_bad_files_are_one_sentence(extra, words):
    with pytest.raises(CatalogError, match=words):
        technique_from_yaml(PLAIN | extra, "x.yaml")


def block(**changes):
    row = {"name": "r", "value": "10 s", "tokens": "100 tokens", "tokens_per_second": "10 tokens/s"}
    base = {"quantity": "run_time", "unit": "s", "kind": "exact", "tolerance": "1 %", "reason": "r", "rows": [row]}
    return technique_from_yaml(PLAIN | {"published": [base | changes]}, "x.yaml")


def test_a_formula_is_called_with_units():
    assert reproduce(block(), lambda inputs: 0.0)[0].predicted == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"quantity": "run_tiem"}, "no formula 'run_tiem'"), ({"inputs": {"extra": 1}}, "extra does not match")],
)
def test_unknown_formulas_and_inputs(changes, words):
    with pytest.raises(CatalogError, match=words):
        reproduce(block(**changes), lambda inputs: 0.0)


def test_a_number_without_its_unit_is_refused():
    row = {"name": "r", "value": "10 s", "tokens": "100 tokens", "tokens_per_second": 10}
    with pytest.raises(CatalogError, match="needs a unit"):
        reproduce(block(rows=[row]), lambda inputs: 0.0)


def test_sharding_rules_say_no_where_memory_lacks():
    fits = ruled_prices(Catalog())["ruled_fits"]
    job = {"model": "llama-7b", "ranks": 4, "seq_len": 1024}
    assert fits({**job, "memory": "40 GB"}) == 1 and fits({**job, "memory": "24 GB"}) == 0
    whole = ruled_prices(Catalog())["ruled_state"]({"model": "llama-7b"})
    assert whole == pytest.approx(16 * 6.738e9, rel=1e-3)
    with pytest.raises(PerfplanError, match="one dense kind"):
        fits({**job, "model": "mixtral-8x7b", "memory": "40 GB"})
    with pytest.raises(PerfplanError, match="lack encoder"):
        fits({"hidden": 1024, "ranks": 2, "seq_len": 512, "memory": "10 GB"})
