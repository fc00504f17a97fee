"""Constants of whole steps: into jobs and out of rows, who is held out with whom, entries for a catalog."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import yaml

from perfplan.catalog import Catalog
from perfplan.errors import OutOfRange
from perfplan.report.steps import step_text
from perfplan.training.estimate import estimate
from perfplan.validation import steps as whole
from perfplan.validation.holdouts import model_holdouts, source_holdouts
from perfplan.validation.rows import read_rows
from perfplan.validation.step_calibration import calibrate_steps
from perfplan.validation.training import dev_measurements


@pytest.fixture(scope="module")
def rows():
    return read_rows(dev_measurements())


@pytest.fixture(scope="module")
def steps(rows):
    return whole.steps_of([row for row in rows if row.source != "vtrain"][::4], Catalog())


@pytest.fixture(scope="module")
def few(rows):
    return whole.steps_of([row for row in rows if row.source == "foundry"][::12], Catalog())


def test_the_declaration_is_sane():
    for free in whole.declared():
        assert 0 < free.least < free.start < free.most and free.doubt > 0
    assert len({(free.of, free.name) for free in whole.declared()}) == len(whole.declared())


def test_the_catalog_s_own_constants_change_no_price(steps):
    for step in steps[::25]:
        owners = [(free, whole.owner_of(free, step.job)) for free in whole.declared()]
        own = {(free.of, owner, free.name): value for free, owner in owners
               if owner and (value := whole.current(free.name, free.of, step.job))
               and not free.name.startswith("sustained")}  # fmt: skip
        priced = whole._Priced(own).time(step)
        assert priced == pytest.approx(float(estimate(step.job, step.layout).step_time), rel=1e-9)


def test_constants_behind_made_up_times_come_back(few):
    chips = {"a100-sxm-80gb": 0.7, "a100-sxm-40gb": 0.8}
    truth = {("accelerator", chip, "sustained.any"): value for chip, value in chips.items()}
    made = [replace(step, time=time) for step, time in zip(few, whole.predicted(few, truth), strict=True)]
    found = whole.predicted(made, whole.fitted(made, rounds=10))
    assert np.abs(found / [step.time for step in made] - 1).mean() < 0.02


def test_who_has_no_constants_takes_those_of_relatives(few):
    mine = [step for step in few if step.job.cluster.accelerator.id == "a100-sxm-40gb"]
    fast, slow = (whole.predicted(mine, {("accelerator", "a100-sxm-80gb", "sustained.any"): value,
                                         ("relatives", "ampere", "sustained.any"): value})[0] for value in (1.0, 0.5))
    assert slow > 1.3 * fast  # fmt: skip


def test_every_step_is_held_out_once_and_never_fitted_on(steps):
    holdouts = source_holdouts(steps)
    held = Counter(step.row.id for one in holdouts for step in one.held)
    assert set(held.values()) == {1} and len(held) == len(steps)
    for one in holdouts:
        assert not {step.row.id for step in one.held} & {step.row.id for step in one.rest}
    [foundry] = [one for one in holdouts if one.name == "foundry"]
    assert "foundry" not in {step.row.source for step in foundry.rest}
    assert "maxtext" not in {step.row.source for step in foundry.rest}
    [tpu] = [one for one in holdouts if one.name.startswith("maxtext: ") and "maxtext-32b" in one.name]
    assert {step.row.source for step in tpu.rest} >= {"maxtext"}
    assert "maxtext-32b" not in {step.row.model_id for step in tpu.rest}


def test_models_of_one_source_are_held_out_in_turn(rows):
    some = whole.steps_of([row for row in rows if row.source in ("vtrain", "koro22")][::20], Catalog())
    holdouts = model_holdouts(some, "vtrain")
    assert len(holdouts) == 8
    for one in holdouts:
        names = {(step.job.model.hidden, len(step.job.model.layers)) for step in one.held}
        assert len(names) == 1
        assert not names & {(s.job.model.hidden, len(s.job.model.layers)) for s in one.rest if s.row.source == "vtrain"}


def test_calibration_writes_entries_that_a_catalog_reads(rows, tmp_path):
    mine = [row for row in rows if row.source in ("mlm", "nemo2407") and row.method == "pretrain"][:7]
    slow = [replace(row, value=row.value / 1.2) for row in mine if row.metric in ("tokens_per_s_per_accel",)] or mine
    impossible = replace(slow[0], id="lab-1", value=slow[0].value * 100)
    found = calibrate_steps([*slow, impossible], Catalog(), "h100-sxm", "mine.csv", "2026-01-01")
    assert [bad.row for bad in found.rejected] == ["lab-1"] and "dense peak" in found.rejected[0].reason
    assert found.mape < found.before and found.rows == len(slow)
    assert f"{len(slow)} rows" in step_text(found, None)
    for path, text in found.entries.items():
        target = tmp_path / path
        target.parent.mkdir(exist_ok=True)
        target.write_text(text, encoding="utf-8")
        assert "mine.csv" in text and "2026-01-01" in text
    mended = Catalog([str(tmp_path)])
    [step] = whole.steps_of(slow[:1], mended)
    [before] = whole.steps_of(slow[:1], Catalog())
    assert estimate(step.job, step.layout).step_time > estimate(before.job, before.layout).step_time
    entry = yaml.safe_load(found.entries["accelerators/h100-sxm.yaml"])
    assert entry["peak"] == Catalog().raw("accelerator", "h100-sxm")[0]["peak"]


def test_too_few_rows_are_an_error(rows):
    with pytest.raises(OutOfRange, match="5 are needed"):
        calibrate_steps(rows[:3], Catalog(), "gb300", "mine.csv", "2026-01-01")
