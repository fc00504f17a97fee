"""Feasibility: a made-up row that ran out of memory tests what no shipped row does."""

from dataclasses import replace

import pytest

from perfplan.catalog import Catalog
from perfplan.report.validation import validation_document, validation_text
from perfplan.training.estimate import estimate
from perfplan.validation.feasibility import feasibility
from perfplan.validation.rows import read_rows
from perfplan.validation.training import dev_measurements, validate


@pytest.fixture(scope="module")
def rows():
    """A row that ran, and the same jobs as if they had run out of memory: on this chip, and with 64 times the batch."""
    ran = next(row for row in read_rows(dev_measurements()[:1]) if row.id == "koro22-22B-full")
    oom = replace(ran, id="x-1", metric="oom", value=1.0)
    more = replace(oom, id="x-2", micro_batch=64 * (ran.micro_batch or 1), global_batch=64 * (ran.global_batch or 1))
    return ran, oom, more


def test_rows_out_of_memory(rows):
    found = validate(rows, Catalog(), estimate)
    room = feasibility(found.outcomes)
    assert (room.ran, room.refused, room.oom, room.allowed) == (1, 0, 2, 1)
    assert room.false_fits == 0.5 and room.false_refusals == 0
    text = " ".join(validation_text(found).split())
    assert 'false "fits" (mark 1%): 1 of 2 rows that ran out of memory, 50.0%' in text
    assert validation_document(found)["feasibility"] == room


def test_untested_without_such_rows(rows):
    room = feasibility(validate(rows[:1], Catalog(), estimate).outcomes)
    assert room.false_fits is None and "untested" in room.sentences()[1]
    assert "untested" in feasibility([]).sentences()[0]


def test_where_rows_are_refused_is_told(rows):
    ran = validate(rows[:1], Catalog(), estimate).outcomes[0]
    room = feasibility([replace(ran, fits=False), ran])
    assert room.where == {"koro22 a100-sxm-80gb": 1} and room.sentences()[0].endswith("50.0%: koro22 a100-sxm-80gb 1")
