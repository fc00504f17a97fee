"""Copies that a dispatch sends, counted on traces; group limits; the quickest step against brute force."""

from itertools import permutations

import numpy as np
import pytest

from perfplan.catalog import Catalog
from perfplan.cli.main import run
from perfplan.errors import OutOfRange, Unsupported
from perfplan.formulas.collectives import reached_groups
from perfplan.placement.dispatch import gathered, pick_sets, reached, reached_sets, together
from perfplan.placement.latency import quickest
from perfplan.placement.routing import from_trace
from perfplan.placement.score import Problem
from perfplan.placement.step import Step, dispatching
from perfplan.placement.synthetic import Synthetic, generate
from perfplan.serving.deploy import serving_job

CATALOG = Catalog()
NORMAL, ALL, ONE = "deepep-v1", "", "deepep-v1:low_latency"


def step_of(dispatcher, gpus=4, phase="prefill", cluster="dgx-h100"):
    job = serving_job("mixtral-8x7b", cluster, CATALOG, engine="sglang")
    return Step(dispatching(job, CATALOG, dispatcher), gpus, phase, 64 if phase == "decode" else 8192, 1024)


def random_trace(tokens, layers, seed, experts=8):
    draws = np.random.default_rng(seed)
    favourites = draws.random((layers, experts)) ** 2
    picks = [[draws.choice(experts, 2, replace=False, p=row / row.sum()) for row in favourites] for _ in range(tokens)]
    return from_trace(np.array(picks), experts, f"trace {seed}")


def test_what_tokens_reach_is_counted_one_by_one():
    routing = random_trace(30, 2, 1)
    placed = np.array([[0, 1, 2, 3] * 2, [0, 0, 1, 1, 2, 2, 3, 3]])
    found = reached(routing.trace, placed, 4)
    for layer in range(2):
        for gpu in range(4):
            hits = sum(gpu in placed[layer, token] for token in routing.trace[:, layer])
            assert found[layer, gpu] == pytest.approx(hits / 30)
    sets, counts = pick_sets(routing.trace[:, 0])
    assert len(sets) <= 28 and counts.sum() == 30
    assert reached_sets(sets, counts, placed, 4)[0] == pytest.approx(found[0])
    pairs = together(routing.trace[:, 0], 8)
    assert (pairs == pairs.T).all() and pairs.sum() == pytest.approx(2) and (np.diag(pairs) == 0).all()


def test_even_picks_reach_what_the_formula_says():
    draws = np.random.default_rng(0)
    routing = from_trace(draws.integers(0, 8, (40_000, 1, 2)), 8, "even, with repetition")
    copies = reached(routing.trace, np.arange(8)[None, :] // 2, 4).sum()
    assert copies == pytest.approx(reached_groups(4, 2), rel=0.01)


@pytest.mark.parametrize("dispatcher", [ALL, NORMAL, ONE])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize("seed", range(2))
def test_the_quickest_step_is_what_brute_force_finds(dispatcher, phase, seed):
    step, routing = step_of(dispatcher, phase=phase), random_trace(40, 2, seed)
    problem = Problem(routing, 4, 4)
    found = quickest(step, problem)
    rows = [np.array(row) for row in {*permutations((0, 0, 1, 1, 2, 2, 3, 3))}]
    rest = step.time(routing, found.placed).rest
    best = rest
    for layer in range(2):
        alone = from_trace(routing.trace[:, layer : layer + 1], 8, "one layer")
        times = [step.time(alone, row[None, :]) for row in rows if row[0] == 0]
        best += min(time.step - time.rest for time in times)
    assert found.certificate.objective == pytest.approx(best) and found.certificate.proven
    assert step.time(routing, found.placed).step == pytest.approx(best)
    assert step.least(routing) <= best * (1 + 1e-12)


def test_two_levels_send_once_to_a_node():
    wide = Step(dispatching(serving_job("deepseek-v3", "dgx-h100", CATALOG, engine="sglang"), CATALOG, NORMAL), 16,
                "prefill", 4096, 0)  # fmt: skip
    free, limited = (
        generate(Synthetic(tokens=2000, groups=8, limit=limit, zipf=0.0, affinity=0.0), 256, 1, 8) for limit in (0, 1)
    )
    placed = np.tile(np.arange(256) // 16, (1, 1))
    tails = np.ones(1)
    assert wide.nodes == 2 and step_of(NORMAL).nodes == 1
    assert wide.copies(limited, placed, tails)[1] < wide.copies(free, placed, tails)[1]
    assert wide.time(limited, placed).exchange < wide.time(free, placed).exchange


def test_picks_come_from_few_groups():
    routing = generate(Synthetic(tokens=500, groups=8, limit=2), 64, 3, 6)
    groups = routing.trace // 8
    assert max(len(set(row)) for layer in groups.transpose(1, 0, 2) for row in layer) == 2
    with pytest.raises(OutOfRange, match="groups"):
        generate(Synthetic(groups=8, limit=1), 64, 3, 9)
    with pytest.raises(OutOfRange, match="groups"):
        generate(Synthetic(groups=7), 64, 3, 2)


def test_bringing_together_what_is_picked_together_saves_copies():
    draws = np.random.default_rng(2)
    partner = draws.permutation(16)
    first = draws.integers(0, 16, 3000)
    second = np.where(draws.random(3000) < 0.8, partner[partner.argsort()[first] ^ 1], draws.integers(0, 16, 3000))
    routing = from_trace(np.stack([first, second], axis=1)[:, None, :], 16, "pairs")
    problem = Problem(routing, 4, 4)
    free, tight = (gathered(problem, price) for price in (0.0, 100.0))
    copies = [reached(routing.trace, placed, 4).sum() for placed in (free, tight, problem.contiguous())]
    assert copies[0] < 0.85 * copies[2] and copies[0] <= copies[1]
    assert problem.score(tight).balance <= problem.score(free).balance + 1e-9
    assert (np.bincount(free[0]) == 4).all()


def test_the_command_takes_a_dispatcher(capsys):
    arguments = ["place", "mixtral-8x7b", "--cluster", "dgx-h100", "--ep", "4", "--synthetic", "tokens=300",
                 "--objective", "latency"]  # fmt: skip
    for name in ("deepep-v1", "deepep-v1-nvlink:low_latency"):
        assert run([*arguments, "--dispatcher", name]) == 0
        assert "proven optimal" in capsys.readouterr().out
    for name, words in (("deepep-v9", "deepep-v1"), ("nccl", "sends no tokens"), ("deepep-v1:fast", "low_latency")):
        assert run([*arguments, "--dispatcher", name]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(Unsupported):
        dispatching(step_of(ALL).job, CATALOG, "rccl")
