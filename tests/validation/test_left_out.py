"""Errors left out: sizes and ranks that the fit has not seen, on synthetic sweeps and on the shipped ones."""

import csv

import numpy as np
import pytest

from perfplan.calibration.links import Domain, columns_of
from perfplan.catalog import Catalog
from perfplan.cli.main import run
from perfplan.validation.left_out import left_out_collectives

SIZES = 2.0 ** np.arange(10, 30, 2)
TRUTH = {"launch": 4e-6, "latency": 1e-6, "fill": 0.4, "all_gather_2": 0.6, "all_gather_4": 0.6, "all_gather_8": 0.6}


@pytest.fixture
def sweep(tmp_path):
    level = Catalog().cluster("dgx-h100").levels[0]
    counts = np.repeat([2.0, 4.0, 8.0], len(SIZES))
    columns = columns_of(["all_gather"] * len(counts), counts, np.tile(SIZES, 3))
    times = Domain(level.bandwidth).times(columns, TRUTH)
    rows = [{"op": "all_gather", "hardware_id": "h100-sxm", "n_ranks": n, "bytes": size, "latency_us": time * 1e6}
            for n, size, time in zip(columns["ranks"], columns["bytes"], times, strict=True)]
    rows += [rows[0] | {"latency_us": 1.0, "software": "x custom"}, rows[0] | {"latency_us": 1.0, "quality": "C"}]
    with (tmp_path / "c.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, [*rows[0], "software", "quality"])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "c.csv"


def test_a_law_that_holds_leaves_no_error(sweep):
    found = left_out_collectives([sweep])
    assert [(one.name, one.left_out, one.rows) for one in found] == [
        (name, part, 30) for part in ("every third size", "one number of ranks")
        for name in ("all_gather", "h100-sxm/all_gather")]
    assert max(one.mape for one in found) < 0.01
    assert min(one.null for one in found) > 0.3


def test_shipped_sweeps_are_predicted_better_than_by_the_data_sheet():
    found = {(one.name, one.left_out): one for one in left_out_collectives()}
    reduce = found["all_reduce", "every third size"]
    assert reduce.rows == 160 and reduce.median <= reduce.mape < 0.09 < reduce.null
    assert all(one.mape < one.null for (_, part), one in found.items() if part == "every third size")


def test_the_command_prints_them(sweep, capsys):
    assert run(["validate", "collectives", "--left-out", "--measured", str(sweep)]) == 0
    out = capsys.readouterr().out
    assert "h100-sxm/all_gather" in out and "every third size" in out and max(map(len, out.splitlines())) <= 100
