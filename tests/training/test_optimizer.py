"""Optimizers other than the recipe's Adam."""

import pytest

from perfplan.api import estimate_train, training_job
from perfplan.errors import UnknownName
from perfplan.formulas.optimizer import newton_schulz_flops

JOB = {"cluster": "dgx-h100", "global_batch": 64, "seq_len": 4096, "layout": "tp2 sp1 dp4 zero1"}


def cost(**changes):
    """Llama-3-8B with an optimizer."""
    return estimate_train("llama-3-8b", **(JOB | changes))


def test_adam_is_what_the_recipes_store():
    named, plain = cost(optimizer="adam"), cost()
    assert (named.memory, named.breakdown) == (plain.memory, plain.breakdown)


def test_fewer_bytes_of_moments_save_memory_and_traffic():
    adam, eight = cost(), cost(optimizer="adam-8bit")
    per_rank = adam.memory["optimizer"] / 12  # parameters of the rank, sharded
    assert eight.memory["optimizer"] == pytest.approx(per_rank * (4 + 2.0039))
    assert eight.breakdown["optimizer"] < adam.breakdown["optimizer"]


def test_muon_keeps_adam_for_embedding_and_head():
    adam, muon = cost(), cost(optimizer="muon")
    outside = 2 * 128256 * 4096 / 2 / 4  # embedding and head of a rank: tp2, sharded over dp4
    everything = adam.memory["optimizer"] / 12
    assert muon.memory["optimizer"] == pytest.approx(everything * 8 + outside * 4)


def test_muon_pays_for_its_iterations():
    adam, muon, lion = cost(), cost(optimizer="muon"), cost(optimizer="lion")
    owned = adam.memory["optimizer"] / 12
    least = newton_schulz_flops(owned, 4096, 5) / 989e12
    assert muon.breakdown["optimizer"] - lion.breakdown["optimizer"] > least


def test_an_unknown_optimizer_is_offered_a_known_one():
    with pytest.raises(UnknownName, match="adam-8bit"):
        training_job("llama-3-8b", cluster="dgx-h100", gpus=8, global_batch=8, seq_len=4096, optimizer="adam-8-bit")
