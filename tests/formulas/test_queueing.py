"""Queueing laws against a plain simulation of the same queue, and against each other where they must agree."""

import random

import pytest

from perfplan.formulas import queueing as q


def simulated_wait(rate, draw, servers=1, requests=200_000, seed=1):
    """Mean wait of a first-come-first-served queue with Poisson arrivals, by stepping through its customers."""
    chance = random.Random(seed)
    free, now, waited = [0.0] * servers, 0.0, 0.0
    for _ in range(requests):
        now += chance.expovariate(rate)
        first = min(range(servers), key=free.__getitem__)
        begin = max(now, free[first])
        free[first] = begin + draw(chance)
        waited += begin - now
    return waited / requests


@pytest.mark.parametrize(
    "variation, draw",
    [(0.0, lambda c: 1.0), (1.0, lambda c: c.expovariate(1)), (1 / 3, lambda c: c.uniform(0, 2))],
)
def test_one_server_waits_as_pollaczek_and_khinchine_say(variation, draw):
    assert q.general_wait(0.6, 1.0, variation) == pytest.approx(simulated_wait(0.6, draw), rel=0.04)


@pytest.mark.parametrize("servers", [2, 4])
def test_several_servers_wait_about_as_allen_and_cunneen_say(servers):
    wait = simulated_wait(0.75 * servers, lambda c: c.expovariate(1), servers)
    # Sakasegawa's exponent is 5 % above the exact Erlang wait at 4 servers
    assert q.multi_server_wait(0.75, 1.0, servers, 1, 1) == pytest.approx(wait, rel=0.1)


def test_a_closed_loop_meets_its_bounds_at_the_knee():
    think, demand, largest = 9.0, 1.0, 0.5
    knee = q.closed_loop_users_at_knee(think, demand, largest)
    assert q.closed_loop_rate_bound(knee, think, demand, largest) == 1 / largest
    assert q.closed_loop_response_bound(knee, think, demand, largest) == pytest.approx(demand)
