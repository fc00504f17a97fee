"""The event simulation: by hand where a hand can follow it, and against the closed forms where they are exact."""

import random

import pytest

from perfplan.errors import OutOfRange
from perfplan.formulas.queueing import general_wait
from perfplan.serving.simulate import Policy, Request, pipeline, poisson, simulate, staged

PLAIN = Policy(max_batch=64, token_budget=1000, room=1e9)


def second(decodes, context, prompt, seen):
    """One second per step whatever it carries."""
    return 1.0


def test_one_request_by_hand():
    run = simulate(PLAIN, second, [Request(5.0, 2500, 4)])
    assert run.ttft == (3.0,) and run.tpot == (1.0,) and run.steps == 6 and run.end == 11.0


def test_unchunked_prompts_take_one_step_and_decodes_stand_still_in_unmixed_engines():
    policy = Policy(8, 1000, 1e9, chunked=False, mixed=False)
    run = simulate(policy, second, [Request(0.0, 2500, 3), Request(0.5, 10, 1)])
    assert run.ttft == (1.0, 1.5)  # the second prompt is computed before the first request decodes
    assert run.tpot[0] == 1.5


def test_room_for_one_request_serves_one_after_another():
    policy = Policy(8, 1000, room=120, preempt=False)
    run = simulate(policy, second, [Request(0.0, 100, 5)] * 3)
    assert run.ttft == (1.0, 6.0, 11.0) and run.batch <= 1


def test_a_full_cache_preempts_the_youngest_and_finishes_all():
    policy = Policy(8, 1000, room=100)
    run = simulate(policy, second, [Request(0.0, 30, 30)] * 3)
    assert run.preemptions > 0 and len(run.tpot) == 3
    assert min(run.tpot) == run.tpot[0] == 1.0 and max(run.tpot) > 1.0


def test_what_never_fits_is_refused():
    with pytest.raises(OutOfRange, match=r"200\+5 tokens does not fit"):
        simulate(Policy(8, 1000, room=100), second, [Request(0.0, 200, 5)])
    with pytest.raises(OutOfRange, match="none of fcfs"):
        Policy(8, 1000, 100, order="last")
    with pytest.raises(OutOfRange, match="brings no request"):
        poisson([(1, 1)], 0)


def test_batches_are_padded_up_to_captured_sizes():
    policy = Policy(64, 1000, 1e9, padding=(1, 2, 4, 8))
    assert [policy.padded(n) for n in (0, 1, 3, 8, 9)] == [0, 1, 4, 8, 9]


def test_shortest_prompts_first():
    policy = Policy(1, 1000, 1e9, order="shortest")
    run = simulate(policy, second, [Request(0.0, 900, 1), Request(0.1, 800, 1), Request(0.2, 10, 1)])
    assert run.ttft[2] < run.ttft[1]


@pytest.mark.parametrize("variation, expected", [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0), (4.0, 4.0)])
def test_arrivals_have_the_variation_asked_for(variation, expected):
    found = poisson([(1, 1)] * 40_000, 2.0, variation, seed=3)
    gaps = [b.arrival - a.arrival for a, b in zip(found, found[1:], strict=False)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.5, rel=0.03)
    assert sum((g - mean) ** 2 for g in gaps) / len(gaps) / mean**2 == pytest.approx(expected, rel=0.12, abs=1e-9)


def test_prompts_alone_wait_as_an_m_g_1_queue():
    chance = random.Random(5)
    lengths = [(chance.choice((100, 700)), 1) for _ in range(20_000)]
    mean, square = 0.4, (0.1**2 + 0.7**2) / 2
    policy = Policy(1, 10_000, 1e9)
    run = simulate(policy, lambda d, c, prompt, seen: prompt / 1000, poisson(lengths, 1.75, seed=2))
    assert run.mean("ttft") - mean == pytest.approx(general_wait(0.7, mean, square / mean**2 - 1), rel=0.08)


def test_a_batch_in_steady_state_follows_from_little():
    """n = rate x output x step, where the step takes a + b n: the root of the closed form."""
    a, b, rate, osl = 0.02, 0.0005, 6.0, 200
    run = simulate(PLAIN, lambda n, c, p, past: a + b * n, poisson([(10, osl)] * 3000, rate, seed=1))
    batch = rate * osl * a / (1 - rate * osl * b)
    assert run.batch == pytest.approx(batch, rel=0.06)
    assert run.mean("tpot", skip=0.1) == pytest.approx(a + b * batch, rel=0.06)


def test_a_pipeline_by_hand():
    """Two stages of one second: the third prompt begins when the first has left; a long one holds up the next."""
    even = pipeline(Policy(8, 100, 1e9), second, [Request(0.0, 100, 1)] * 3, 2)
    assert even == (2.0, 3.0, 4.0)
    uneven = [Request(0.0, 100, 1), Request(0.5, 10, 1)]
    slow = pipeline(Policy(8, 100, 1e9), lambda n, c, tokens, seen: tokens / 10, uneven, 2)
    assert slow == (20.0, 20.5)


def test_a_pipeline_that_mixes_by_hand():
    """Two groups of one request each take turns at stages of one second: a token every two seconds."""
    run = staged(Policy(8, 100, 1e9), second, [Request(0.0, 100, 4)] * 2, 2)
    assert run.ttft == (2.0, 3.0) and run.tpot == (2.0, 2.0) and run.end == 9.0
    times = lambda n, c, tokens, seen: 0.01 + 1e-3 * n + tokens * 1e-4  # noqa: E731
    coming = poisson([(200, 30)] * 200, 5.0, seed=1)
    assert staged(PLAIN, times, coming, 1).tpot == pytest.approx(simulate(PLAIN, times, coming).tpot)


def test_one_stage_is_the_engine_that_only_computes_prompts():
    times = lambda n, c, tokens, seen: 0.01 + tokens * 1e-4 + seen * 1e-5  # noqa: E731
    coming = poisson([(random.Random(i).randint(10, 3000), 1) for i in range(300)], 4.0, seed=3)
    assert pipeline(PLAIN, times, coming, 1) == pytest.approx(simulate(PLAIN, times, coming).ttft)


def test_the_same_input_gives_the_same_run():
    requests = poisson([(100, 20)] * 200, 3.0, seed=4)
    times = lambda n, c, p, past: 0.01 + 0.001 * n + p * 1e-4  # noqa: E731
    assert simulate(PLAIN, times, requests) == simulate(PLAIN, times, requests)


def test_the_cache_is_empty_when_all_is_done(monkeypatch):
    from perfplan.serving import simulate as module

    engines = []
    original = module._Engine
    monkeypatch.setattr(module, "_Engine", lambda *given: engines.append(original(*given)) or engines[-1])
    run = simulate(Policy(8, 50, room=200), second, poisson([(60, 40)] * 30, 0.2, seed=1))
    assert run.preemptions > 3 and engines[0].held == 0
