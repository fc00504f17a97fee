"""Layers and settings per rank: exact by dynamic programming, never worse than the even slot rule, within memory."""

from dataclasses import replace
from itertools import combinations

import pytest

from overlap.jobs import pipeline, shipped
from perfplan.api import training_job
from perfplan.errors import Infeasible
from perfplan.overlap.balance import balance
from perfplan.overlap.partition import RankCosts, Setting, even, held, layout_string, settings
from perfplan.overlap.partition_milp import balance_chunks
from perfplan.overlap.scheduled import schedule_pipeline
from perfplan.overlap.stages import Pipeline, compare
from perfplan.training.layout import Layout

KEEP = (Setting("keep"), Setting("recompute", ("full",)))


@pytest.mark.parametrize(
    ("model", "layout", "batch", "seq"),
    [
        ("llama-3.1-405b", "tp8 sp1 pp16 dp8 zero1", 1024, 8192),
        ("llama-3.1-405b", "tp8 sp1 pp8 dp16 zero1", 1024, 4096),
        ("deepseek-v3", "pp16 ep64 dp128 zero1", 8192, 4096),
        ("deepseek-v3", "pp8 ep64 dp256 zero1", 8192, 4096),
    ],
)
def test_big_models_are_balanced_with_proof(model, layout, batch, seq):
    p = pipeline(model, layout, batch, seq, "fp8")
    costs = RankCosts(p, settings(p))
    best, plain = balance(p), even(costs)
    assert best.certificate.gap == 0 and sum(best.sizes) == len(p.job.model.layers)
    assert best.busiest <= plain.busiest * (1 + 1e-12)
    if layout.startswith("pp8"):  # dense layers first and a prediction layer last: the even rule loses
        assert best.busiest < 0.97 * plain.busiest
    for rank, choice in enumerate(best.choices):  # sums over layers are what the step model says
        stated = costs.memory(rank, rank == 0, rank == p.layout.pp - 1, choice.counts)
        assert choice.memory == pytest.approx(stated, rel=1e-6) and stated <= costs.limit


def test_no_cut_is_better_by_brute_force():
    p = pipeline("llama-3.2-1b", "pp3 dp2 zero1", batch=16, seq=2048)
    costs = RankCosts(p, KEEP)
    layers = len(p.job.model.layers)
    times = []
    for a, b in combinations(range(layers + 1), 2):
        rows = [costs.best(r, r == 0, r == 2, n) for r, n in enumerate(held(costs, (a, b - a, layers - b)))]
        times.append(max(row.time for row in rows) if all(rows) else float("inf"))
    assert balance(p, KEEP).busiest == pytest.approx(min(times))


def test_the_milp_over_one_chunk_per_rank_is_the_dynamic_program():
    p = pipeline("llama-3.2-1b", "pp4 dp2 zero1", batch=16, seq=2048)
    found = balance_chunks(RankCosts(p, KEEP), 20)
    assert found.busiest == pytest.approx(balance(p, KEEP).busiest, rel=1e-3)


def test_interleaved_chunks_by_milp():
    p = pipeline("llama-3.1-70b", "tp8 sp1 pp4 vpp4 dp2 zero1")
    best, plain = balance(p, KEEP, 20), even(RankCosts(p, KEEP))
    assert len(best.sizes) == 16 and sum(best.sizes) == 80 and min(best.sizes[1:-1]) >= 1
    assert best.certificate.gap <= 0.01 and best.busiest <= plain.busiest


def test_memory_makes_ranks_recompute_and_none_is_infeasible():
    p = pipeline("llama-3.1-70b", "tp4 sp1 pp8 dp2 zero1", batch=128, seq=8192)
    chip = p.job.cluster.accelerator

    def within(memory):
        smaller = replace(p.job.cluster, accelerator=replace(chip, memory=memory))
        return replace(p, job=replace(p.job, cluster=smaller))

    wide, tight = balance(within(400 * 2**30), KEEP), balance(within(44 * 2**30), KEEP)
    assert all(choice.counts[0][1] == 0 for choice in wide.choices)
    assert any(choice.counts[0][1] > 0 for choice in tight.choices) and tight.busiest > wide.busiest
    with pytest.raises(Infeasible, match="no partition of 80 layers over 8 stages fits 5.00 GiB"):
        balance(within(5 * 2**30), KEEP)


def test_balanced_stages_run_as_they_were_priced():
    p = pipeline("deepseek-v3", "pp8 ep64 dp256 zero1", 8192, 4096, "fp8")
    costs = RankCosts(p, settings(p))
    best = balance(p)
    made = best.applied(costs)
    ran = next(row for row in compare(made, ["1f1b"]) if row.name == "1f1b")
    assert ran.fits and ran.memory == pytest.approx(max(choice.memory for choice in best.choices), rel=1e-6)
    busy = max(ran.ran.busy) / p.micro_batches
    assert busy == pytest.approx(best.busiest, rel=1e-6)


def test_the_layout_in_megatrons_words():
    assert layout_string((1, 2, 2, 1)) == "Et|(t*2|)*2tL"
    assert layout_string((0, 3, 3, 0), 1) == "E|(t*3|)*2mL"


def test_interleaved_experts_after_dense_layers():
    p = pipeline("deepseek-v3", "pp8 vpp4 ep64 dp256 zero1", 8192, 4096, "fp8")
    best, plain = balance(p), even(RankCosts(p, settings(p)))
    assert best.certificate.gap <= 0.01 and best.busiest < 0.97 * plain.busiest
    assert sum(best.sizes) == 61 and max(best.sizes) - min(best.sizes[1:-1]) <= 1


def test_prediction_layers_lighten_the_last_stage():
    named = {"cluster": "dgx-h100", "gpus": 1024, "global_batch": 8192, "seq_len": 4096, "precision": "fp8"}
    at = Layout.parse("pp16 ep64 dp64 zero1")
    plain, ahead = (Pipeline.of(training_job("deepseek-v3", **named, mtp=n, catalog=shipped()), at) for n in (0, 1))
    without, with_ = balance(plain), balance(ahead)
    assert with_.sizes[-1] < without.sizes[-1] and with_.certificate.gap == 0
    assert with_.busiest <= even(RankCosts(ahead, settings(ahead))).busiest
    assert layout_string(with_.sizes, 1).endswith("mL")
    costs, last = RankCosts(ahead, settings(ahead)), with_.choices[-1]
    assert last.memory == pytest.approx(costs.memory(15, False, True, last.counts), rel=1e-6)
    ran = next(row for row in compare(with_.applied(costs), ["1f1b"]) if row.name == "1f1b")
    assert ran.memory == pytest.approx(max(choice.memory for choice in with_.choices), rel=1e-6)
    assert max(ran.ran.busy) / ahead.micro_batches == pytest.approx(with_.busiest, rel=1e-6)


def test_models_of_many_kinds_are_cut_in_seconds():
    p = pipeline("nemotron-h-56b", "tp8 sp1 pp4 dp2 zero1", 64, 8192)
    best = balance(p)
    assert best.certificate.gap == 0 and sum(best.sizes) == 118
    assert best.busiest < even(RankCosts(p, settings(p))).busiest


@pytest.mark.parametrize(
    ("model", "layout", "batch", "seq"),
    [
        ("llama-3.1-405b", "tp8 sp1 pp8 vpp4 dp8 zero1", 512, 8192),  # fits if the first chunks offload
        ("deepseek-v3", "pp8 vpp2 ep32 dp64 zero1", 4096, 4096),  # equal chunks interleave faster
    ],
)
def test_balanced_chunks_fit_and_interleave_no_slower_than_even_ones(model, layout, batch, seq):
    p = pipeline(model, layout, batch, seq)
    found = schedule_pipeline(p.job, p.layout, ["interleaved"], balanced=True, time_limit=10.0)
    row, costs = found.rows[0], RankCosts(p, settings(p))
    assert row.fits and found.partition.certificate.bound <= found.partition.busiest
    even_rows = [compare(found.even.applied(costs, light), ["interleaved"])[0] for light in (False, True)]
    assert row.step <= min(each.step for each in even_rows if each.fits)
