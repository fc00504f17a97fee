"""Queues: waits of M/G/1 and G/G/k, their tails, and closed loops of users or agents who think.

`utilisation` is the share of the time that the servers work; below 1 the queue is stable, and every wait grows without
bound as it nears 1: there a capacity 22 % too high can make the wait three orders of magnitude too short.
"""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import exp, formula, maximum, minimum

__all__ = [
    "arrival_dispersion",
    "carrying_share",
    "closed_loop_percentile",
    "closed_loop_rate_bound",
    "closed_loop_response_bound",
    "closed_loop_users_at_knee",
    "full_pipeline_share",
    "gathered_wait",
    "general_wait",
    "in_flight",
    "multi_server_wait",
    "own_step_wait",
    "quadratic_service_time",
    "quadratic_service_variance",
    "seen_step",
    "server_utilisation",
    "shared_step_factor",
    "squared_variation",
    "step_company",
    "step_sum_variance",
    "stretched_step_variance",
    "wait_probability",
    "wait_tail",
]

_PK = "Pollaczek-Khinchine; serving_power_edge.md section 1"
_KLEINROCK = "asymptotic bounds of closed networks (Lazowska et al. 1984, chapter 5); serving_power_edge.md section 12"


@formula("rho", "1", source="definition: arriving work over what the servers can do")
def server_utilisation(rate: Any, service: Any, servers: Any) -> Any:
    """Share of the time that servers work.

    rate : arrivals [1/s]
    service : mean service time [s]
    servers : servers in parallel [1]

    >>> round(server_utilisation(3.5, 0.4, 2), 2)
    0.7
    """
    return rate * service / servers


@formula("C2", "1", source="definition: variance over the square of the mean")
def squared_variation(mean: Any, variance: Any) -> Any:
    """Squared coefficient of variation.

    mean : mean [s]
    variance : variance [s*s]

    >>> squared_variation(2.0, 4.0)
    1.0
    """
    return variance / mean**2


@formula("W", "s", source=_PK)
def general_wait(utilisation: Any, service: Any, variation: Any) -> Any:
    """Mean wait before service of one server with Poisson arrivals and any service time (M/G/1).

    utilisation : share of the time that the server works [1]
    service : mean service time [s]
    variation : squared coefficient of variation of the service time, 0 = always the same [1]

    Prefill of OPT-66B, TP4, on the Azure code trace at 70 % (half of it if service were deterministic):

    >>> round(general_wait(0.7, 0.407, 1.02), 2), round(general_wait(0.7, 0.407, 0), 2)
    (0.96, 0.47)
    """
    return utilisation * service * (1 + variation) / (2 * (1 - utilisation))


@formula("P_wait", "1", source="Sakasegawa 1977; Bolch et al., Allen-Cunneen approximation of G/G/k")
def wait_probability(utilisation: Any, servers: Any) -> Any:
    """Probability that an arrival finds all servers busy; exact for one server.

    utilisation : share of the time that the servers work [1]
    servers : servers in parallel [1]

    >>> wait_probability(0.7, 1), round(wait_probability(0.7, 8), 3)
    (0.7, 0.315)
    """
    return utilisation ** ((2 * (servers + 1)) ** 0.5 - 1)


@formula("W_k", "s", source="Allen-Cunneen; serving_power_edge.md section 1")
def multi_server_wait(utilisation: Any, service: Any, servers: Any, arrivals: Any, variation: Any) -> Any:
    """Mean wait before service of several servers with any arrivals and any service time (G/G/k).

    utilisation : share of the time that the servers work [1]
    service : mean service time [s]
    servers : servers in parallel [1]
    arrivals : squared coefficient of variation of the times between arrivals, 1 = Poisson [1]
    variation : squared coefficient of variation of the service time [1]

    One server with Poisson arrivals waits as M/G/1 does:

    >>> round(multi_server_wait(0.7, 0.407, 1, 1, 1.02), 4), round(general_wait(0.7, 0.407, 1.02), 4)
    (0.9592, 0.9592)
    """
    busy = wait_probability(utilisation, servers)
    return (arrivals + variation) / 2 * busy * service / (servers * (1 - utilisation))


@formula("P_t", "1", source="exponential tail; serving_power_edge.md section 1")
def wait_tail(time: Any, probability: Any, wait: Any) -> Any:
    """Probability that a wait is longer than `time`.

    time : time asked about [s]
    probability : probability of any wait [1]
    wait : mean wait [s]

    >>> round(wait_tail(3.0, 0.7, 0.96), 4)
    0.0785
    """
    return probability * exp(-time * probability / wait)


@formula("E_S", "s", source="serving_power_edge.md section 5: E[a + b I + c I^2]")
def quadratic_service_time(mean: Any, second: Any, constant: Any, linear: Any, quadratic: Any) -> Any:
    """Mean prefill time of one prompt at a time whose time is constant + linear I + quadratic I^2 at I tokens.

    mean : mean tokens of a prompt [1]
    second : mean of their square [1]
    constant : time of any prompt [s]
    linear : time per token [s]
    quadratic : time per squared token [s]

    OPT-66B, TP4, on the Azure code trace:

    >>> round(quadratic_service_time(2047.8, 8.09e6, 29.44e-3, 0.15135e-3, 8.32e-9), 3)
    0.407
    """
    return constant + linear * mean + quadratic * second


@formula("Var_S", "s*s", source="variance of b I + c I^2 from the moments of I")
def quadratic_service_variance(mean: Any, second: Any, third: Any, fourth: Any, linear: Any, quadratic: Any) -> Any:
    """Variance of a prefill time that is constant + linear I + quadratic I^2 at I tokens.

    mean : mean tokens of a prompt [1]
    second : mean of their square [1]
    third : mean of their cube [1]
    fourth : mean of their fourth power [1]
    linear : time per token [s]
    quadratic : time per squared token [s]

    Lengths 1 and 3, equally likely, at 1 s per squared token take 1 s and 9 s:

    >>> quadratic_service_variance(2, 5, 14, 41, 0.0, 1.0)
    16.0
    """
    return (
        linear**2 * (second - mean**2)
        + 2 * linear * quadratic * (third - mean * second)
        + quadratic**2 * (fourth - second**2)
    )


@formula("N_fly", "1", source="Little 1961")
def in_flight(rate: Any, time: Any) -> Any:
    """Mean number of requests in the system, whatever the order of service.

    rate : requests finished [1/s]
    time : mean time that a request stays [s]

    Kimi-K2.5 on 8 B200 (aiconfigurator#1396): 192.44 tokens/s/GPU at 44.59 tokens/s per user leave 35 in flight, not
    384:

    >>> round(in_flight(192.44 * 8 / 1024, 1024 / 44.59))
    35
    """
    return rate * time


@formula("X_max", "1/s", source=_KLEINROCK)
def closed_loop_rate_bound(users: Any, think: Any, demand: Any, largest: Any) -> Any:
    """Most requests per second of users who think, ask, wait and think again.

    users : users or agents [1]
    think : think or tool time between an answer and the next request [s]
    demand : service time of a request over all resources [s]
    largest : service time of a request at the busiest resource [s]

    >>> closed_loop_rate_bound(10, 9.0, 1.0, 0.5), closed_loop_rate_bound(100, 9.0, 1.0, 0.5)
    (1.0, 2.0)
    """
    return minimum(users / (think + demand), 1 / largest)


@formula("A*", "1", source=_KLEINROCK)
def closed_loop_users_at_knee(think: Any, demand: Any, largest: Any) -> Any:
    """Users beyond whom the busiest resource is the bound and everyone waits.

    think : think or tool time between an answer and the next request [s]
    demand : service time of a request over all resources [s]
    largest : service time of a request at the busiest resource [s]

    >>> closed_loop_users_at_knee(9.0, 1.0, 0.5)
    20.0
    """
    return (think + demand) / largest


@formula("R_min", "s", source=_KLEINROCK)
def closed_loop_response_bound(users: Any, think: Any, demand: Any, largest: Any) -> Any:
    """Least mean response time of a closed loop.

    users : users or agents [1]
    think : think or tool time between an answer and the next request [s]
    demand : service time of a request over all resources [s]
    largest : service time of a request at the busiest resource [s]

    >>> closed_loop_response_bound(10, 9.0, 1.0, 0.5), closed_loop_response_bound(100, 9.0, 1.0, 0.5)
    (1.0, 41.0)
    """
    return maximum(demand, users * largest - think)


@formula("q_p", "s", source="derived: the first request of each user waits for a uniform share of the others' prompts")
def closed_loop_percentile(percentile: Any, step: Any, share: Any, wait: Any) -> Any:
    """Wait that `percentile` of the requests of a closed loop do not exceed, beyond what all of them see.

    Requests come at a uniform point of a step; those of a burst, with which a test of finitely many requests begins,
    wait for a uniform part of it besides, which is taken to be longer than a step.

    percentile : share of the requests [1]
    step : longest rest of a step [s]
    share : of the requests, in the burst [1]
    wait : longest in the burst [s]

    Ten requests per user: half of all wait at most 5/9 of a step, one in a hundred for more than 9/10 of the burst:

    >>> round(closed_loop_percentile(0.5, 0.09, 0.1, 2.0), 3), round(closed_loop_percentile(0.99, 0.09, 0.1, 2.0), 3)
    (0.05, 1.849)
    """
    calm = 1 - share
    late = maximum(percentile - calm, 0) / maximum(share, 1e-9)
    return step * minimum(percentile / maximum(calm, 1e-9), 1) * (1 - late / 2) + wait * late


@formula("Var_TPOT", "s*s", source="derived: compound Poisson arrivals over a stay; delay cycle; processor sharing")
def stretched_step_variance(requests: Any, prompt: Any, square: Any, slope: Any, stretch: Any, crowding: Any) -> Any:
    """Variance over the requests of the mean time per token when requests that are alike arrive at random.

    The prompts that come during a stay are a Poisson number with the mean of the requests in flight (Little); each
    adds its time, and makes the stay longer, in which more come: the delay cycle of M/G/1 squares `stretch`. The batch
    varies as the population of a processor-sharing queue, `crowding` times its mean; its average over a stay keeps two
    thirds of that, and shares half of its arrivals with the prompts met.

    requests : mean requests in flight [1]
    prompt : mean time of a prompt over the decode steps of a request [s]
    square : mean of its square; for requests with other decode steps, times the mean steps over theirs [s*s]
    slope : what one more decode adds to a step [s]
    stretch : mean step, prompts of others included, over the step without prompts [1]
    crowding : step at that batch over the step of an empty batch [1]

    >>> round(stretched_step_variance(100, 1e-4, 1e-8, 0, 2, 1) ** 0.5, 6)
    0.002
    """
    return requests * stretch**2 * (square + crowding * slope * (prompt + 2 * slope / 3))


_STEPS = "derived: prompts that come during a step are computed in the next, a branching process"


@formula("f_step", "1", source=_STEPS)
def shared_step_factor(utilisation: Any, chance: Any) -> Any:
    """How many times as long a prompt waits where all that wait are computed in one step, which ends for all at once,
    as one after another.

    utilisation : share of the time that prompts take [1]
    chance : of finding all ranks at work, over their utilisation: 1 for one rank [1]

    >>> shared_step_factor(1, 1), shared_step_factor(0, 1)
    (1.5, 1.0)
    """
    return 1 + chance * utilisation / (1 + utilisation)


@formula("n_step", "1", source=_STEPS + "; length-biased sampling")
def step_company(utilisation: Any, chance: Any, variation: Any) -> Any:
    """Mean prompts of others in the step of a prompt, of a rank that computes nothing else.

    utilisation : share of the time that prompts take [1]
    chance : of finding all ranks at work, over their utilisation: 1 for one rank [1]
    variation : squared coefficient of variation of the prompts' times [1]

    >>> step_company(0.5, 1, 0), step_company(0, 1, 1)
    (0.3333333333333333, 0.0)
    """
    return chance * utilisation**2 * (1 + variation) / (1 - utilisation**2)


@formula("rho_step", "1", source=_STEPS + "; Poisson arrivals")
def carrying_share(utilisation: Any, rate: Any, step: Any) -> Any:
    """Share of the time that passes in steps with prompts.

    utilisation : share of the time that prompts take [1]
    rate : prompts [1/s]
    step : decodes of a step [s]

    >>> carrying_share(0.5, 10, 0), carrying_share(0, 0, 1)
    (0.5, 0.0)
    """
    return 1 - (1 - utilisation) * exp(-rate * step / (1 - utilisation))


@formula("W_g", "s", source=_STEPS + "; gated vacations, Takagi 1991")
def gathered_wait(load: Any, utilisation: Any, rate: Any, square: Any) -> Any:
    """Mean wait of a prompt for others, where a step takes all that have come and ends for all of them at once.

    One at a time a prompt would wait rate square / 2 (1 - load) (M/G/1).

    load : share of the time that the rank works, the decodes of full steps included [1]
    utilisation : share of the time that prompts take [1]
    rate : prompts [1/s]
    square : mean square of the time of a prompt [s*s]

    >>> round(gathered_wait(0.5, 0.5, 5, 0.01), 4)  # prompts of 0.1 s, which alone would wait 0.05 s
    0.0667
    """
    return rate * square / (2 * (1 - load)) * shared_step_factor(utilisation, 1)


@formula("W_o", "s", source=_STEPS)
def own_step_wait(utilisation: Any, step: Any) -> Any:
    """Mean time that the prompts of others, which came while decodes ran, add to the rest of the step that a request
    comes in and to its own.

    utilisation : share of the time that prompts take [1]
    step : decodes of a step [s]

    >>> own_step_wait(0.5, 0.02)
    0.03
    """
    return 1.5 * utilisation * step / (1 - utilisation)


@formula("S_seen", "s", source=_STEPS + "; length-biased sampling")
def seen_step(utilisation: Any, step: Any, rate: Any, square: Any) -> Any:
    """Mean length of the step that a request comes in: long steps are met more often, E[S^2] / E[S].

    utilisation : share of the time that prompts take [1]
    step : decodes of a step [s]
    rate : prompts [1/s]
    square : mean square of the time of a prompt [s*s]

    >>> round(seen_step(0.5, 0.02, 5, 0.01), 4)
    0.1067
    """
    return step / (1 - utilisation) + rate * square / (1 - utilisation**2)


@formula("Var_S", "s*s", source=_STEPS)
def step_sum_variance(utilisation: Any, step: Any, rate: Any, square: Any, steps: Any, turns: Any) -> Any:
    """Variance of the mean of `steps` successive steps after one that brought no prompts.

    The prompts that come during one step's decodes, and all that come during those in turn, add up to a variance of
    rate square step / (1 - utilisation)^3; the last `turns` steps carry theirs beyond the end.

    utilisation : share of the time that prompts take [1]
    step : decodes of a step [s]
    rate : prompts [1/s]
    square : mean square of the time of a prompt [s*s]
    steps : steps of the request [1]
    turns : steps that a prompt and its followers take, (1 - utilisation^steps) / (1 - utilisation) [1]

    >>> step_sum_variance(0.5, 0.02, 5, 0.01, 1, 1), round(step_sum_variance(0.5, 0.02, 5, 0.01, 100, 2), 8)
    (0.0, 7.84e-05)
    """
    return rate * square * step / (1 - utilisation) ** 3 * (steps - turns) / steps**2


@formula("I_n", "1", source=_STEPS + "; total progeny of a branching process")
def arrival_dispersion(utilisation: Any, variance: Any, crowding: Any) -> Any:
    """Variance over mean of the requests in flight: those that come during a prompt come in the same step.

    utilisation : share of the time that prompts take [1]
    variance : of the prompts that come during a prompt, beyond their own chance, rate^2 Var(prompt) [1]
    crowding : step at that batch over the step of an empty batch, by the slope at that batch [1]

    >>> arrival_dispersion(0, 0, 1), arrival_dispersion(0.5, 0, 1)
    (1.0, 4.0)
    """
    return (1 + variance) * crowding / (1 - utilisation) ** 2


@formula("f_pp", "1", source="fitted to the event simulation of pipelines of 2 to 16 stages (serving/simulate.py)")
def full_pipeline_share(load: Any, stages: Any, variation: Any) -> Any:
    """How far prompts of a pipeline travel with full steps instead of alone.

    As many steps are under way as there are stages; a short step cannot overtake a long one, and what comes meanwhile
    makes the next one long: from a load of about a half on, all steps are full of the token budget, and each prompt
    takes as long as one, through all stages.

    load : share of the time that a stage works [1]
    stages : of the pipeline, above 1 [1]
    variation : squared coefficient of variation of the prompts' times [1]

    >>> [round(full_pipeline_share(load, 5, 0.9), 2) for load in (0.1, 0.3, 0.7)]
    [0.01, 0.25, 1]
    """
    return minimum((load / (0.35 + 0.8 / stages)) ** (6 - 3.8 * minimum(variation, 1)), 1)
