"""`perfplan explain` without an estimate: the list of formulas and one formula."""

import csv
import io
import json

import pytest

from perfplan.cli.main import run


def test_the_list_names_every_formula_with_unit_and_source(capsys):
    assert run(["explain", "--list", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) > 50 and all(row["name"] and row["unit"] and row["source"] and row["meaning"] for row in rows)


def test_the_list_of_one_topic(capsys):
    assert run(["explain", "queueing", "--list", "--json"]) == 0
    assert {row["topic"] for row in json.loads(capsys.readouterr().out)} == {"queueing"}


def test_the_list_fits_a_terminal(capsys):
    assert run(["explain", "--list"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


@pytest.mark.parametrize("name", ["ring_all_gather_time", "ring-all-gather-time", "T_AG,ring"])
def test_a_formula_by_name_or_symbol(capsys, name):
    assert run(["explain", name, "--json"]) == 0
    page = json.loads(capsys.readouterr().out)
    assert page["expression"] == "t_fill + t_ring + size*(ranks - 1)/(bandwidth*ranks)" and r"\frac" in page["latex"]
    assert [each["unit"] for each in page["parameters"]][2] == "B"


def test_latex(capsys):
    assert run(["explain", "ring_all_gather_time", "--latex"]) == 0
    assert capsys.readouterr().out.startswith(r"T_{\mathrm{AG,ring}} = ")


@pytest.mark.parametrize(
    "arguments, words", [(["ring_all_gather_tim"], "did you mean ring_all_gather_time"), ([], "--list")]
)
def test_unknown_and_missing_names_are_one_sentence(capsys, arguments, words):
    assert run(["explain", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err
