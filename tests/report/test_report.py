"""Tables, CSV, JSON and how they reach a file."""

import io
import json
import math
import os

import numpy as np
import pytest

from perfplan.errors import ExportError
from perfplan.report import Column, Progress, paragraph, records, table, to_csv, to_json, write, write_all

COLUMNS = [Column("layout"), Column("step_time", "step", "s"), Column("memory", unit="B"), Column("mfu", "MFU", "%")]
ROWS = [
    {"layout": "tp8 pp8", "step_time": 12.3456, "memory": 70.5 * 2**30, "mfu": 0.4567},
    {"layout": "tp4 pp16", "step_time": None, "memory": 4096.0, "mfu": float("nan")},
]


def test_table_prints_three_digits_with_units_and_dashes_for_the_unknown():
    lines = table(ROWS, COLUMNS).splitlines()
    assert lines[0].split() == ["layout", "step", "memory", "MFU"]
    assert lines[1].split("  ")[0] == "tp8 pp8"
    assert "12.3 s" in lines[1] and "70.5 GiB" in lines[1] and lines[1].endswith("45.7%")
    assert lines[2].split() == ["tp4", "pp16", "-", "4.00", "KiB", "-"]


@pytest.mark.parametrize("words", [1, 10, 200])
def test_table_is_at_most_100_wide_and_loses_nothing(words):
    long = " ".join(f"token{i}" for i in range(words))
    lines = table([ROWS[0] | {"layout": long, "why": long}], [*COLUMNS, Column("why")]).splitlines()
    assert max(map(len, lines)) <= 100
    assert all(" ".join(lines).split().count(f"token{i}") == 2 for i in range(words))


def test_headings_of_numbers_break_at_hyphens_before_a_table_is_too_wide_and_numbers_never_do():
    columns = [Column("layout"), *(Column(f"n{i}", "cross-node", "s") for i in range(9))]
    lines = table([{"layout": "tp8"} | {f"n{i}": -0.0123 for i in range(9)}], columns).splitlines()
    assert max(map(len, lines)) <= 100
    assert " ".join(lines).count("-12.3 ms") == 9 and " ".join(lines).count("cross-") == 9


def test_paragraph_is_at_most_100_wide():
    assert max(map(len, paragraph("word " * 100, "  ").splitlines())) <= 100


def test_csv_names_carry_units_and_values_are_exact():
    assert to_csv(ROWS, COLUMNS).splitlines() == [
        "layout,step_time_s,memory_bytes,mfu",
        "tp8 pp8,12.3456,75698798592.0,0.4567",
        "tp4 pp16,,4096.0,",
    ]


def test_json_has_no_nan_and_reads_back():
    value = {"rows": records(ROWS, COLUMNS), "x": np.float64(0.1), "n": np.arange(2), "inf": math.inf}
    assert json.loads(to_json(value)) == {
        "rows": [
            {"layout": "tp8 pp8", "step_time_s": 12.3456, "memory_bytes": 75698798592.0, "mfu": 0.4567},
            {"layout": "tp4 pp16", "step_time_s": None, "memory_bytes": 4096.0, "mfu": None},
        ],
        "x": 0.1,
        "n": [0, 1],
        "inf": None,
    }


def test_write_replaces_a_file_whole(tmp_path):
    target = tmp_path / "plan.csv"
    target.write_text("old")
    write(str(target), "new\n")
    assert target.read_text() == "new\n" and os.listdir(tmp_path) == ["plan.csv"]


def test_a_dash_is_standard_output(capsys):
    write("-", "data\n")
    assert capsys.readouterr().out == "data\n"


@pytest.mark.parametrize("bad", ["missing/plan.csv", "folder"])
def test_an_unwritable_path_is_one_sentence_and_leaves_nothing(tmp_path, capsys, bad):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ExportError, match="cannot write .*; choose another path"):
        write_all({str(tmp_path / "good.csv"): "a", "-": "b", str(tmp_path / bad): "c"})
    assert os.listdir(tmp_path) == ["folder"] and capsys.readouterr().out == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_waits_for_two_seconds_and_clears_its_line(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("perfplan.report.progress.time.monotonic", lambda: now[0])
    stream, pipe = Terminal(), io.StringIO()
    with Progress("rows", stream) as progress, Progress("rows", pipe) as silent:
        for now[0] in (1.9, 2.1, 2.2, 2.4):
            progress(now[0] * 1000, 5000)
            silent.tick()
    assert stream.getvalue() == "\r\033[K2,100 of 5,000 rows\r\033[K2,400 of 5,000 rows\r\033[K" and not pipe.getvalue()


def test_a_pipe_is_written_into_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write(str(pipe), "data\n")
        assert os.read(reader, 100) == b"data\n" and pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]
    finally:
        os.close(reader)


def test_a_link_is_followed_and_permissions_are_kept(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write(str(link), "new")
    assert link.is_symlink() and real.read_text() == "new" and real.stat().st_mode & 0o777 == 0o640
