"""Reading measurement files, good and bad."""

from dataclasses import fields
from pathlib import Path

import pytest

from perfplan.errors import CatalogError
from perfplan.validation.rows import Row, read_rows

SHIPPED = Path(__file__).parents[2] / "catalogs" / "measurements"
NAMES = [field.name for field in fields(Row)]


def write(path: Path, **cells: str) -> Path:
    values = {"id": "x-1", "metric": "step_time_s", "value": "1.5"} | cells
    path.write_text(",".join(NAMES) + "\n" + ",".join(values.get(name, "") for name in NAMES) + "\n")
    return path


def test_shipped_measurements_read_whole():
    rows = read_rows([SHIPPED / "training_measured.csv", SHIPPED / "training_vtrain_single_node.csv"])
    assert len(rows) == 674 + 1440
    assert {row.source for row in rows} >= {"mbridge", "foundry", "koro22", "vtrain"}


def test_empty_is_unknown_not_zero(tmp_path):
    row = read_rows([write(tmp_path / "a.csv", tp="8")])[0]
    assert (row.tp, row.pp, row.recompute) == (8, None, "")


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"tp": "eight"}, "column tp holds 'eight'"),
        ({"tp": "1.5"}, "column tp"),
        ({"value": "-1"}, "not a positive"),
        ({"value": "inf"}, "not a positive"),
    ],
)
def test_bad_cells_are_one_sentence(tmp_path, cells, words):
    with pytest.raises(CatalogError, match=words) as caught:
        read_rows([write(tmp_path / "a.csv", **cells)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "nan"])
def test_a_figure_may_be_missing(tmp_path, text):
    assert not read_rows([write(tmp_path / "a.csv", value=text)])[0].stated


def test_missing_columns_are_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,metric\nx-1,step_time_s\n")
    with pytest.raises(CatalogError, match="lacks the columns group"):
        read_rows([path])


def test_an_id_used_twice(tmp_path):
    first, second = write(tmp_path / "a.csv"), write(tmp_path / "b.csv")
    with pytest.raises(CatalogError, match="used twice"):
        read_rows([first, second])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(CatalogError, match="cannot be read"):
        read_rows([tmp_path / "none.csv"])
