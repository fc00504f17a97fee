"""`perfplan catalog`: list, show, check, schemas."""

import csv
import io
import json

import pytest

from perfplan.cli.main import run


@pytest.mark.parametrize("kind", ["accelerators", "cluster", "model", "recipe", "framework", "library", "technique"])
def test_list(kind, capsys):
    assert run(["catalog", "list", kind, "--csv", "-"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows and all(row["id"] for row in rows)


def test_machine_names_carry_the_unit_of_the_value(capsys):
    assert run(["catalog", "list", "models", "--csv"]) == 0
    head = capsys.readouterr().out.splitlines()[0].split(",")
    assert "published_params" in head and not any("tokens" in name for name in head)


def test_list_for_people(capsys):
    assert run(["catalog", "list", "accelerator"]) == 0
    out = capsys.readouterr().out
    assert "80.0 GiB" in out and "989 TFLOP/s" in out


def test_show_tells_values_units_and_sources(capsys):
    assert run(["catalog", "show", "mi300x", "--kind", "accelerator"]) == 0
    out = capsys.readouterr().out
    assert "5.30 TB/s" in out and "borrowed from h100-sxm" in out and "[1]" in out
    assert run(["catalog", "show", "dgx-h100", "--json", "--set", "accelerator.memory=96GiB"]) == 0
    assert json.loads(capsys.readouterr().out)["accelerator"]["memory"] == 96 * 2**30


def test_show_refuses_a_setting_that_changes_nothing(capsys):
    assert run(["catalog", "show", "dgx-h100", "--set", "recipe.weight=3"]) == 2
    assert "applies to nothing" in capsys.readouterr().err


def test_check_of_a_user_folder(tmp_path, capsys):
    assert run(["catalog", "check"]) == 0
    assert "0 faults" in capsys.readouterr().out
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("gemm: {forward: fp9}\n")
    assert run(["catalog", "check", "--catalog", str(tmp_path)]) == 2
    assert "mine" in capsys.readouterr().out


def test_schemas(tmp_path, capsys):
    assert run(["catalog", "schemas", str(tmp_path / "s")]) == 0
    written = {path.name for path in (tmp_path / "s").glob("*.json")}
    assert written >= {"accelerator.json", "cluster.json", "recipe.json"}
    assert len(capsys.readouterr().out.splitlines()) == len(written)


def test_an_entry_fits_a_terminal(capsys):
    assert run(["catalog", "show", "h100-sxm"]) == 0
    assert max(len(line) for line in capsys.readouterr().out.splitlines() if len(line.split()) > 1) <= 100
