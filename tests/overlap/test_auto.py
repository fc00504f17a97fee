"""`--schedule auto`: never worse, within memory, and it says what it changed."""

from dataclasses import replace

from overlap.jobs import shipped
from perfplan.api import plan_train
from perfplan.overlap.auto import reschedule


def plan(model="llama-3.1-70b", gpus=64, batch=64, **more):
    return plan_train(model, cluster="dgx-h100", gpus=gpus, global_batch=batch, seq_len=4096, top=4, catalog=shipped(),
                      **more)


def test_no_layout_gets_worse_and_changes_fit():
    made = plan(fix="pp4 vpp1")
    auto = reschedule(made.estimates)
    capacity = made.job.cluster.accelerator.memory
    assert len(auto.rows) == len(made.estimates) and auto.best.step <= float(made.best.step_time)
    assert all(row.step <= row.before and row.memory <= capacity for row in auto.rows)
    assert any(row.changed for row in auto.rows)
    assert all("instead of" in row.sentence() or "stages" in row.sentence() for row in auto.rows if row.changed)
    assert [row.step for row in auto.rows] == sorted(row.step for row in auto.rows)


def test_layouts_without_stages_and_beyond_the_time_stay_as_they_are():
    made = plan("llama-3-8b", 16, 32, fix="pp1")
    assert not any(row.changed for row in reschedule(made.estimates).rows)
    late = reschedule(plan(fix="pp4").estimates, budget=0)
    assert late.skipped == 4 and not any(row.changed for row in late.rows)


def test_the_work_is_bounded_by_passes_and_shared_between_layouts_that_differ_in_chunks_alone():
    made = plan(fix="pp4")
    some = reschedule(made.estimates, budget=4_000)
    assert some.skipped > 0 and any(row.tried for row in some.rows)
    assert reschedule(made.estimates) == reschedule(made.estimates)
    chunks = [estimate.layout for estimate in made.estimates]
    tried = {row.estimate.layout: row.tried for row in reschedule(made.estimates).rows}
    first = {replace(layout, vpp=1): layout for layout in reversed(chunks)}
    assert {layout for layout, number in tried.items() if number} == set(first.values())
