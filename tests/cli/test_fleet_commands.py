"""`provision`, `diagnose` and `place` on the command line."""

import json

import pytest

from perfplan.cli.main import run

FLEET = ["provision", "llama-3.1-8b", "--clusters", "dgx-h100,dgx-a100", "--workload", "azure-code", "--rate", "30/s"]
WHY = ["diagnose", "llama-3.1-8b", "--cluster", "h100-pcie", "--isl", "128", "--osl", "128", "--measured", "7100 tok/s"]


@pytest.mark.parametrize("command, words", [(FLEET, "proof: cost"), (WHY, "by Little's law")])
def test_text_fits_the_page_and_data_parse(capsys, tmp_path, command, words):
    table, document = tmp_path / "table.csv", tmp_path / "all.json"
    assert run([*command, "--csv", str(table), "--save", str(document)]) == 0
    out, err = capsys.readouterr()
    assert words in out and all(len(line) <= 100 for line in out.splitlines())
    assert err == f"wrote {table}\nwrote {document}\n"
    assert isinstance(json.loads(document.read_text()), dict) and table.read_text().count("\n") > 1


@pytest.mark.parametrize(
    "command, status, words",
    [
        ([*FLEET, "--power", "1 kW"], 1, "need more than"),
        ([*FLEET, "--power", "232"], 2, "unit"),
        ([*FLEET, "--objective", "x"], 2, "objective"),
        ([*FLEET, "--caps", "2"], 2, "cap"),
        ([*WHY[:-1], "fast"], 2, "fast"),
        ([*WHY, "--layout", "tp3"], 2, "tp=3"),
        ([*WHY, "--set", "recipe.weight=1"], 2, "recipe.weight"),
    ],
)
def test_failures(capsys, command, status, words):
    assert run(command) == status
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err


@pytest.mark.parametrize("command", [FLEET, WHY])
def test_data_alone_go_to_stdout(capsys, command):
    assert run([*command, "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)
    assert run([*command, "--csv"]) == 0
    assert capsys.readouterr().out.count("\n") > 1


def test_a_placement_that_is_written_is_told(capsys, tmp_path):
    path = tmp_path / "placed.csv"
    assert run(["place", "mixtral-8x7b", "--cluster", "dgx-h100", "--ep", "4", "--synthetic", "seed=1", "--method",
                "search", "--rounds", "1", "--write", str(path)]) == 0
    assert capsys.readouterr().err == f"wrote {path}\n" and path.read_text().startswith("layer,expert,gpu\n")
