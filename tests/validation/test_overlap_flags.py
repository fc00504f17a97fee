"""Rows with overlap flags: their own flags against the software's default."""

from perfplan.catalog import Catalog
from perfplan.validation.overlap_flags import flag_scores
from perfplan.validation.rows import read_rows
from perfplan.validation.training import dev_measurements


def test_flags_of_measured_runs_score_no_worse_than_the_default():
    found = flag_scores(read_rows(dev_measurements()), Catalog())
    whole = found[-1]
    assert whole.source == "all rows" and whole.rows == sum(one.rows for one in found[:-1]) >= 60
    assert whole.flagged <= whole.default and whole.flagged_median <= whole.default_median


def test_rows_without_flags_are_no_rows_of_the_table():
    rows = [row for row in read_rows(dev_measurements()) if not row.overlap]
    assert rows and flag_scores(rows[:50], Catalog()) == []
