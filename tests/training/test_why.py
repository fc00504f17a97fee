"""Why a layout is not the plan: outside the space, broken, too large, behind or tied."""

import pytest

from perfplan.api import plan_train, why_train

JOB = {"cluster": "dgx-h100", "gpus": 16, "global_batch": 64, "seq_len": 4096}


def asked(layout, model="llama-3-8b", **more):
    return why_train(model, layout=layout, **(JOB | more))


def test_the_best_layout_is_not_behind():
    best = plan_train("llama-3-8b", top=1, **JOB).best
    answer = asked(str(best.layout))
    assert answer.behind == 0 and answer.tied and not answer.outside and not answer.broken
    assert set(answer.parts.values()) == {0.0}


def test_a_layout_that_is_behind_is_so_in_parts_that_add_up():
    answer = asked("tp8 sp1 dp2 mbs1 zero1 rc=full")
    assert not answer.outside and not answer.broken and answer.layout is not None
    assert answer.behind > 0.05
    gap = answer.layout.step_time - answer.best.step_time
    assert sum(answer.parts.values()) == pytest.approx(gap)
    assert answer.behind == pytest.approx(gap / answer.best.step_time)
    assert answer.parts["recompute"] > 0 and answer.parts["tp"] > 0


def test_a_broken_layout_is_told_every_rule_it_breaks():
    answer = asked("tp3 vpp2 dp4")
    assert answer.layout is None and answer.behind is None and not answer.tied
    said = " ".join(answer.broken)
    assert "attention heads" in said and "vpp > 1 needs pp > 1" in said
    assert "tp=3" in answer.outside


def test_a_lawful_layout_outside_the_space_is_priced_all_the_same():
    answer = asked("dp16 mbs4 w1-g1-o4 rc=mlp")
    assert set(answer.outside) == {"w1-g1-o4", "rc=mlp"}
    assert answer.layout is not None and answer.behind is not None


def test_what_was_fixed_is_outside_too():
    answer = asked("tp2 sp1 dp8 zero1", fix="tp4")
    assert any("tp" in said and "2" in said for said in answer.outside)
    assert answer.best.layout.tp == 4


def test_a_layout_that_does_not_fit_says_so():
    answer = asked("dp16 zero0")
    assert answer.layout is not None and not answer.layout.fits and answer.layout.headroom < 0


def test_a_tie_is_a_matter_of_the_paired_band():
    plan = plan_train("llama-3-8b", top=30, **JOB)
    for e, tied in zip(plan.estimates[::7], plan.tied[::7], strict=True):
        assert asked(str(e.layout)).tied == tied


@pytest.mark.parametrize(
    ("layout", "outside", "broken"), [("tp8 sp1 pp2 rc=full", False, False), ("tp8 rc=mlp pp2 cp=a2a", True, True)]
)
def test_where_nothing_fits_the_layout_is_answered_all_the_same(layout, outside, broken):
    answer = asked(layout, model="llama-3.1-405b")
    assert answer.best is None and answer.behind is None and "would fit with" in answer.nothing
    assert bool(answer.outside) == outside and bool(answer.broken) == broken
    assert broken or (answer.layout is not None and answer.layout.headroom < 0)
