"""docs/accuracy.md is what tools/accuracy.py writes, and its marks name figures that exist."""

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import accuracy  # noqa: E402

from perfplan.validation.score import Facts, Outcome  # noqa: E402

FACTS = Facts("2024", "gpt", "bf16", 8, 1024, 64, 1e15, 300e12)
ROW = Outcome("lab-1", "lab", "lab/dense", "g", (1,), "step_time_s", 2.0, 2.2, 1.1, fits=True, facts=FACTS)


@cache
def scores():
    return accuracy.measure()


def test_the_page_is_current():
    assert accuracy.PAGE.read_text(encoding="utf-8") == accuracy.page(scores())


def test_what_was_left_out_is_stored_for_the_rows_that_are_scored():
    scored = {o.id for o in scores().training.outcomes if o.ratio is not None}
    for study, wanted in (("source", scored), ("model", {name for name in scored if name.startswith("vtrain-")})):
        stored = set(accuracy.left_out.read(study))
        assert len(stored & wanted) >= 0.9 * len(wanted), f"run tools/left_out.py again: study {study}"


def test_every_mark_has_a_figure_of_its_own():
    names = [entry["figure"] for entry in yaml.safe_load(accuracy.DATA.read_text(encoding="utf-8"))["marks"]]
    assert len(set(names)) == len(names)
    assert set(names) <= set(accuracy.figures(scores()))  # figures without a mark stand in tables of their own


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ({"mark": 0.05}, 0.05, "met"),
        ({"mark": 0.05}, 0.051, "missed"),
        ({"mark": 0.95, "least": True}, 0.94, "missed"),
        ({"mark": [0.72, 0.9]}, 0.8, "met"),
        ({"mark": [0.72, 0.9]}, 0.95, "missed"),
        ({"mark": 0.05}, None, "not measured"),
    ],
)
def test_a_mark_is_met_or_missed(entry, value, said):
    row = {"what": "w", "figure": "f"} | entry
    assert f"| {said} |" in accuracy.marks([row], {"f": accuracy.Figure(value, 3)})


def test_feasibility_counts_both_ways_of_being_wrong():
    oom = replace(ROW, oom=True, ratio=None, metric="oom")
    rows = [ROW, replace(ROW, fits=False), oom, replace(oom, fits=False)]
    said = accuracy.fits(rows)
    assert "1 of 2 rows that ran, 50.0%" in said and '"fits" (mark 1%): 1 of 2' in said
    assert "untested" in accuracy.fits([ROW])


def test_a_mark_without_rows_says_untested():
    row = {"what": "w", "figure": "f", "mark": 0.01, "absent": "untested"}
    assert "| untested |" in accuracy.marks([row], {"f": accuracy.Figure(None, 0)})
