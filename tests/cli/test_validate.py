"""validate and reproduce on the command line: the shape of their reports."""

import csv
import io
import json

import pytest

from perfplan.cli.main import run
from perfplan.validation.training import dev_measurements

FIGURES = set(
    [
        "name",
        "rows",
        "scored",
        "unsupported",
        "mape",
        "median_ape",
        "p90_ape",
        "bias",
        "null_median_ape",
        "null_mape",
        "band_coverage",
        "band_half_width",
        "groups",
        "kendall_tau",
        "spearman",
        "mean_regret",
        "max_regret",
        "top1_hits",
        "memory_median_ape",
        "fits_rate",
        "oom_rate",
        "oom_rows",
    ]
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A few rows of each of two sources and one that nobody can price."""
    lines = dev_measurements()[0].read_text(encoding="utf-8").splitlines()
    wanted = {"koro22": 5, "mlm": 3, "nemo2407": 20}
    table = list(csv.DictReader(lines))
    rows = [row for name, count in wanted.items() for row in [r for r in table if r["id"].startswith(name)][:count]]
    path = tmp_path_factory.mktemp("measured") / "mine.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path), len(rows)


def printed(capsys, *arguments):
    assert run(list(arguments)) == 0
    return capsys.readouterr().out


def test_validate_prints_one_object_with_every_figure(capsys, measured):
    path, count = measured
    report = json.loads(printed(capsys, "validate", "training", "--measured", path, "--json"))
    assert set(report) == {"overall", "slices", "feasibility"} and count > 10
    for score in (report["overall"], *report["slices"]):
        assert set(score) == FIGURES
        assert score["scored"] + sum(score["unsupported"].values()) == score["rows"]
    assert sum(each["rows"] for each in report["slices"]) == report["overall"]["rows"] == count
    assert all(each["name"].endswith(("/dense", "/moe")) for each in report["slices"])


def test_validate_as_csv_has_a_line_and_its_assumptions_for_each_row(capsys, measured):
    path, count = measured
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "validate", "training", "--measured", path, "--csv"))))
    assert len(rows) == count and any(row["assumptions"] for row in rows)
    assert all(bool(row["unsupported"]) != bool(row["predicted"] or row["oom"] == "True") for row in rows)


def test_validate_as_text_fits_a_terminal(capsys, measured):
    out = printed(capsys, "validate", "training", "--measured", measured[0])
    assert "overall" in out and max(map(len, out.splitlines())) <= 100


def test_reproduce_prints_predicted_published_error_and_pass(capsys):
    rows = json.loads(printed(capsys, "reproduce", "sc21", "--json"))
    assert {"predicted", "published", "error", "tolerance", "kind", "passed"} <= set(rows[0])
    assert all(row["passed"] for row in rows if row["kind"] == "exact")
    text = printed(capsys, "reproduce", "sc21")
    assert "within their tolerance" in text and max(map(len, text.splitlines())) <= 100


def test_reproduce_offers_the_nearest_system(capsys):
    assert run(["reproduce", "megascal"]) == 2
    assert "megascale" in capsys.readouterr().err


def test_changes_are_scored_pair_by_pair(capsys, measured):
    path, _ = measured
    text = printed(capsys, "validate", "training", "--delta", "--measured", path)
    assert "right" in text and "nemo2407" in text and max(map(len, text.splitlines())) <= 100
    table = printed(capsys, "validate", "training", "--delta", "--measured", path, "--csv")
    rows = list(csv.DictReader(io.StringIO(table)))
    assert rows and {row["axis"] for row in rows} <= {"count", "precision", "chip", "model"}
    document = json.loads(printed(capsys, "validate", "training", "--delta", "--measured", path, "--json"))
    assert document["delta"][-1]["source"] == "all"
