"""`plan serve` on the command line: tables that fit, data that parse, failures of one sentence."""

import json

import pytest

from perfplan.cli.main import run

PLAN = ["plan", "serve", "llama-3.1-8b", "--cluster", "dgx-h100", "--gpus", "4", "--rate", "3/s", "--ttft", "1s"]
TRAFFIC = ["--workload", "azure-conv"]


def test_the_plan_for_people_fits_the_page(capsys):
    assert run([*PLAN, *TRAFFIC, "--simulate", "1", "--top", "3"]) == 0
    out, err = capsys.readouterr()
    assert all(len(line) <= 100 for line in out.splitlines()) and err == ""
    for words in ("proof: exhaustive over", "why not", "what other lengths would change", "simulated: 1500", "caveat",
                  "met the limit on TTFT", "held by 1", "gap to physics of a decode step"):
        assert words in " ".join(out.split())


def test_data_out(capsys, tmp_path):
    assert run([*PLAN, "--isl", "1k", "--osl", "100", "--json", "--save", str(tmp_path / "plan.json")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((tmp_path / "plan.json").read_text())
    assert document["isl_mean"] == 1024 and document["deployments"][0]["gpus"] >= 1
    assert run([*PLAN, *TRAFFIC, "--csv", "--front"]) == 0
    assert capsys.readouterr().out.startswith("kind,")


def test_a_trace_as_workload(capsys, tmp_path):
    (tmp_path / "t.csv").write_text("isl,osl\n100,20\n300,50\n")
    assert run([*PLAN, "--workload", str(tmp_path / "t.csv")]) == 0
    assert "Poisson" in capsys.readouterr().out
    (tmp_path / "t.csv").write_text("isl,osl\n100,x\n")
    assert run([*PLAN, "--workload", str(tmp_path / "t.csv")]) == 2
    assert "line 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "more, status, words",
    [
        (["--tpot", "1 us", *TRAFFIC], 1, "floor"),
        (["--rate", "9000/s", *TRAFFIC], 1, "beyond any deployment"),
        ([], 2, "give a workload"),
        (["--kind", "both", *TRAFFIC], 2, "aggregated"),
        (["--set", "recipe.weight=1", *TRAFFIC], 2, "recipe.weight"),
        (["--rate", "fast", *TRAFFIC], 2, "rate"),
    ],
)
def test_failures(capsys, more, status, words):
    assert run([*PLAN, *more]) == status
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err
