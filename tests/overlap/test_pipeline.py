"""Pipeline schedules: closed forms against event simulation, memory, and what a schedule cannot do."""

import random

import pytest

from perfplan.errors import OutOfRange, UnknownName
from perfplan.formulas import pipeline as forms
from perfplan.overlap.graph import Graph, Op
from perfplan.overlap.orders import SCHEDULES, fits_groups, order
from perfplan.overlap.pipeline import Passes, run
from perfplan.overlap.simulate import simulate

INSTANCES = 200


def equal(stages, forward, inputs, weights, **more):
    return Passes([forward] * stages, [inputs] * stages, [weights] * stages, [1.0] * stages, **more)


def instances(seed):
    rng = random.Random(seed)
    for _ in range(INSTANCES):
        yield rng, rng.randint(1, 8), [rng.uniform(0.2, 2.0) for _ in range(3)]


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
def test_gpipe_and_1f1b_for_any_number_of_micro_batches(name):
    for rng, p, (f, b, w) in instances(1):
        m = rng.randint(1, 20)
        ran = run(order(name, p, m), equal(p, f, b, w))
        assert ran.bubble == pytest.approx(forms.one_f_one_b_bubble(p, f, b + w), abs=1e-9)
        whole = forms.steady_time(m, f + b + w) + forms.bubble_time(p * (f + b + w), f + b + w, 1)
        assert ran.time == pytest.approx(whole)
        held = m if name == "gpipe" else None
        for r in range(p):
            assert ran.in_flight[r] == (held or forms.in_flight_chunks(p, 1, r, m))


def test_1f1b_with_a_heavy_last_stage():
    for rng, p, _ in instances(2):
        m = rng.randint(1, 20)
        f, b = ([rng.uniform(0.5, 1.0) for _ in range(p)] for _ in range(2))
        f[-1], b[-1] = max(f), max(b)
        total = [x + y for x, y in zip(f, b, strict=True)]
        ran = run(order("1f1b", p, m), Passes(f, b, [0.0] * p))
        form = forms.steady_time(m, max(total)) + forms.bubble_time(sum(total), max(total), 1)
        assert ran.time <= form * (1 + 1e-9)
        if f[-1] == max(f) and b[-1] == max(b):
            assert ran.time == pytest.approx(form)


@pytest.mark.parametrize("name", ["interleaved", "breadth-first"])
def test_interleaved_orders(name):
    for rng, p, (f, b, w) in instances(3):
        v = rng.randint(1, 4)
        m = p * rng.randint(1, 3) if name == "interleaved" else rng.randint(p, 3 * p)
        ran = run(order(name, p, m, v), equal(p * v, f / v, b / v, w / v))
        assert ran.bubble == pytest.approx(forms.bubble_time(p * (f + b + w), f + b + w, v), abs=1e-9)
        if name == "interleaved" and v > 1:
            assert ran.in_flight == tuple(forms.in_flight_chunks(p, v, r, m) for r in range(p))


def test_interleaving_in_groups_of_any_allowed_size():
    for rng, p, (f, b, w) in instances(10):
        v, m = rng.randint(2, 4), rng.randint(p, 4 * p)
        group = rng.choice([g for g in range(p, m + 1) if fits_groups(p, m, g)])
        ran = run(order(f"interleaved:{group}", p, m, v), equal(p * v, f / v, b / v, w / v))
        assert ran.bubble == pytest.approx(forms.bubble_time(p * (f + b + w), f + b + w, v), abs=1e-9)
        assert max(ran.in_flight) == min(m * v, 2 * (p - 1) + (v - 1) * group + 1)
    wide, plain = (run(order(name, 8, 32, 3), equal(24, 1, 1, 1, hop=0.05)).time for name in
                   ("interleaved:16", "interleaved"))
    assert wide == pytest.approx(9 * 32 + 21 + 2 * 7 * 0.05) and wide < plain  # only the way down and back waits


def test_zero_bubble_h1_inside_its_domain():
    for rng, p, (f, b, _) in instances(4):
        w, m = rng.uniform(0.1, min(f, b)), rng.randint(p, 4 * p)
        ran = run(order("zb-h1", p, m), equal(p, f, b, w))
        assert ran.bubble == pytest.approx(forms.zero_bubble_h1_bubble(p, f, b + w, w), abs=1e-9)
        assert max(ran.in_flight) <= p  # no more than 1F1B's first rank


@pytest.mark.parametrize("name", ["dualpipe", "dualpipev"])
def test_the_table_of_dualpipe(name):
    for rng, half, (unit, _, _) in instances(5):
        p, fused = 2 * ((half + 1) // 2), rng.choice([0.7, 0.85, 1.0])
        m, stages = 2 * rng.randint(p, 3 * p), p if name == "dualpipe" else 2 * p
        ran = run(order(name, p, m), equal(2 * p, unit, unit, unit, fused=fused))
        bubble = forms.dual_pipe_bubble(stages, 3 * unit * fused, 2 * unit, unit)
        assert ran.most_idle == pytest.approx(bubble, abs=1e-9)
        assert set(ran.in_flight) == {forms.dual_pipe_in_flight(stages)}
    assert order("dualpipe", 4, 8).copies == 2


def test_sends_that_hide_behind_nothing():
    for rng, p, (f, b, w) in instances(6):
        m, hop = p * rng.randint(1, 4), rng.uniform(0, 0.02)
        ran = run(order("1f1b", p, m), equal(p, f, b, w, hop=hop))
        late = ran.time - forms.steady_time(m, f + b + w) - forms.one_f_one_b_bubble(p, f, b + w)
        assert late == pytest.approx(forms.pipeline_latency(p, m, hop), abs=1e-9)


def test_numbers_of_the_reference():
    assert run(order("1f1b", 8, 16), equal(8, 1, 2, 0)).time == 69
    assert run(order("1f1b", 8, 3), equal(8, 1, 2, 0)).time == 30
    assert run(order("interleaved", 8, 16, 3), equal(24, 1 / 3, 2 / 3, 0)).time == pytest.approx(55)
    assert run(order("interleaved", 4, 4, 4), equal(16, 1 / 4, 2 / 4, 0)).time == pytest.approx(14.25)
    heavy = [1.0] * 7 + [1.3]
    assert run(order("1f1b", 8, 32), Passes(heavy, [2 * x for x in heavy], [0] * 8)).time == pytest.approx(145.8)
    heavy.reverse()
    assert run(order("1f1b", 8, 32), Passes(heavy, [2 * x for x in heavy], [0] * 8)).time == pytest.approx(139.5)


@pytest.mark.parametrize("name", ["zb-h2", "zb-v"])
def test_no_rank_idles_in_its_own_span_under_zb_h2_and_zb_v(name):
    chunks = SCHEDULES[name].chunks
    for rng, p, (unit, _, _) in instances(7):
        m = rng.randint(2 * p - 1, 4 * p)
        ran = run(order(name, p, m, chunks, (unit, unit, unit)), equal(chunks * p, unit, unit, unit))
        assert ran.idle_inside == pytest.approx(0, abs=1e-9)
        assert ran.bubble == pytest.approx(forms.zero_bubble_fill(p, unit), abs=1e-9)
        assert max(ran.in_flight) == (2 * p - 1 if name == "zb-h2" else 2 * p)  # two chunks of ZB-V make a stage


def test_v_min_inside_its_domain():
    for rng, less, (unit, _, _) in instances(8):
        p = less + 1
        ran = run(order("v-min", p, rng.randint(p, 4 * p)), equal(2 * p, unit, unit, unit))
        assert ran.bubble == pytest.approx(forms.v_min_bubble(p, unit), abs=1e-9)
        assert max(ran.in_flight) == forms.v_min_in_flight(p)


@pytest.mark.parametrize("p", range(2, 17))
def test_v_half_has_at_most_half_of_the_bubble_with_about_half_of_the_activations(p):
    ran = run(order("v-half", p, 2 * p), equal(2 * p, 0.5, 0.5, 0.5))
    assert ran.bubble <= forms.one_f_one_b_bubble(p, 1, 2) / 2
    assert max(ran.in_flight) <= min(p + 5, (3 * p + 2) // 2)


@pytest.mark.parametrize("name", ["zb-v", "v-half", "v-min"])
def test_v_shaped_schedules_keep_their_memory_whatever_the_passes_take(name):
    most = {"zb-v": lambda p: 2 * p, "v-half": lambda p: p + 5, "v-min": forms.v_min_in_flight}[name]
    for rng, less, times in instances(9):
        p = less + 1
        ran = run(order(name, p, rng.randint(1, 2 * p), 2, tuple(times)), equal(2 * p, *times))
        assert max(ran.in_flight) <= most(p)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_schedule_runs_every_pass_once(name):
    o = order(name, 4, 8, SCHEDULES[name].chunks or 2)
    passes = [part for tasks in o.orders for task in tasks for part in task]
    assert len(passes) == len(set(passes))
    both = {"D": "BW"}
    gradients = {(kind, part.micro, part.stage) for part in passes for kind in both.get(part.kind, part.kind)}
    chains = 2 if name == "dualpipe" else 1
    assert len(gradients) == 3 * 8 * len(o.place) // chains


def test_the_pipeline_is_the_graph_with_a_lane_per_rank():
    p, m, f, b = 3, 5, 1.0, 2.0
    o = order("1f1b", p, m)
    ops = [Op(f"F{i}.{r}", f, {"sm": 1.0}, (f"F{i}.{r - 1}",) if r else (), rank=r) for i in range(m) for r in range(p)]
    ops += [
        Op(f"D{i}.{r}", b, {"sm": 1.0}, (f"F{i}.{r}", *([f"D{i}.{r + 1}"] if r < p - 1 else [])), rank=r)
        for i in range(m) for r in range(p)
    ]
    lanes = {str(r): [f"{part.kind}{part.micro}.{part.stage}" for task in o.orders[r] for part in task]
             for r in range(p)}
    assert simulate(Graph.of(ops), lanes).time == pytest.approx(run(o, equal(p, f, b, 0)).time)


def test_what_a_schedule_cannot_do_is_told():
    with pytest.raises(UnknownName, match="no pipeline schedule '1f1bb'; did you mean 1f1b"):
        order("1f1bb", 4, 8)
    with pytest.raises(OutOfRange, match=r"interleaved needs .* whole groups of 4 or more \(interleaved:6 has them\)"):
        order("interleaved", 4, 6, 2)
    with pytest.raises(OutOfRange, match="only interleaved takes a number"):
        order("1f1b:4", 4, 8)
    with pytest.raises(OutOfRange, match="dualpipe needs even ranks"):
        order("dualpipe", 3, 12)
    with pytest.raises(OutOfRange, match="each must be at least 1"):
        order("1f1b", 0, 12)
