"""EPLB slot for slot, better plans proven or bounded, and the command."""

import json
from itertools import product

import numpy as np
import pytest

from perfplan.catalog.files import packaged_root
from perfplan.cli.main import run
from perfplan.errors import Indivisible, OutOfRange, SpecError
from perfplan.placement.read import read_routing
from perfplan.placement.replicate import check_slots, eplb, equal_split, fractional_split, max_loads, plans
from perfplan.placement.replicated import amounts

EXAMPLE = packaged_root() / "measurements" / "placement" / "moe_eplb_example.csv"


@pytest.fixture(scope="module")
def example():
    return read_routing(EXAMPLE).loads


def test_eplb_gives_its_published_output(example):
    table = eplb(example, 16, 8, nodes=2, groups=4)
    expected = [set() for _ in range(2 * 8)]
    for line in EXAMPLE.read_text().splitlines()[1:]:
        layer, expert, _, gpus, _ = line.split(",")
        for gpu in gpus.split():
            expected[int(layer) * 8 + int(gpu)].add(int(expert))
    assert [set(pair) for pair in table.reshape(-1, 2).tolist()] == expected


def test_plans_of_the_example(example):
    found = {plan.name: plan for plan in plans(example, 16, 8, nodes=2, groups=4)}
    most = {name: plan.gpu_loads(example, 8).max(axis=1).tolist() for name, plan in found.items()}
    assert most["EPLB by node"] == [156, 179.5] and most["EPLB global"] == [138.5, 172]
    assert most["equal split"] == [136, 172] and found["equal split"].proven.all()
    assert most["fractional split"][0] <= 129.25 + 1e-6 and most["fractional split"][1] <= 146 + 1e-6
    for plan in found.values():
        assert np.allclose([np.bincount(row, share, 12) for row, share in zip(plan.slots, plan.shares, strict=True)], 1)


@pytest.mark.parametrize("seed", range(4))
def test_equal_split_is_what_brute_force_finds(seed):
    loads = np.random.default_rng(seed).integers(1, 40, 4).astype(float)
    table, shares, proven = equal_split(loads, 6, 3)
    every = [np.array(row) for row in product(range(4), repeat=6) if len(set(row)) == 4]
    even = [1.0 / np.bincount(row, minlength=4)[row] for row in every]
    best = min(max_loads(loads, row, share, 3) for row, share in zip(every, even, strict=True))
    assert proven and max_loads(loads, table, shares, 3) == pytest.approx(best)
    split, parts = fractional_split(loads, 6, 3)
    assert loads.sum() / 3 - 1e-9 <= max_loads(loads, split, parts, 3) <= best + 1e-9


def test_without_redundant_slots_there_is_nothing_to_split_and_the_proven_plan_is_shown(capsys):
    loads = np.random.default_rng(3).integers(1, 100, (2, 8)).astype(float)
    *_, even, split = plans(loads, 8, 4)
    assert even.proven.all() and split.proven.all() and (even.slots == split.slots).all()
    arguments = ["--cluster", "dgx-h100", "--ep", "4", "--redundant", "0", "--synthetic", "seed=1,tokens=500"]
    assert run(["replicate", "mixtral-8x7b", *arguments]) == 0
    assert "equal split: " in (out := capsys.readouterr().out) and "proven optimal" in out


def test_renaming_experts_changes_no_load():
    loads, order = np.random.default_rng(9).pareto(2, 32) + 0.1, np.random.default_rng(1).permutation(32)
    plain, renamed = ([max_loads(row, *equal_split(row, 40, 8)[:2], 8)] for row in (loads, loads[order]))
    assert plain == pytest.approx(renamed)


@pytest.mark.parametrize("redundant, error, words", [(-1, OutOfRange, "fewer than"), (3, Indivisible, "0, 8")])
def test_slots_that_do_not_fit(redundant, error, words):
    with pytest.raises(error, match=words):
        check_slots(256, 8, redundant)


def test_amounts_of_slots_that_a_text_asks_for():
    assert amounts("32", 256, 32) == (32,) and amounts("64,0,32,0", 256, 32) == (0, 32, 64)
    assert amounts("auto", 6, 4) == (2, 6, 10, 14, 18)  # the first fills the GPUs, the last is below 3 copies of all
    for text, error in (("many", SpecError), ("0,3", Indivisible), ("-32", OutOfRange)):
        with pytest.raises(error):
            amounts(text, 256, 32)


def test_a_sweep_names_its_knee(capsys, tmp_path):
    arguments = ["replicate", "mixtral-8x7b", "--cluster", "dgx-h100", "--ep", "4", "--synthetic", "tokens=500"]
    written = tmp_path / "slots.json"
    assert run([*arguments, "--redundant", "0,4,8", "--json", "--write", str(written)]) == 0
    document = json.loads(capsys.readouterr().out)
    rows, knee = document["amounts"], document["knee"]
    assert [row["redundant"] for row in rows] == [0, 4, 8] and rows[0]["memory"] == 0
    assert rows[2]["memory"] == pytest.approx(2 * rows[1]["memory"])
    assert rows[0]["balance"] > rows[1]["balance"] > 1
    later = {row["redundant"]: row["next"] for row in rows}
    assert min(time for amount, time in later.items() if amount >= knee) >= 0.99 * later[knee]
    assert all(min(later.values()) < 0.99 * time for amount, time in later.items() if amount < knee)
    assert np.shape(json.loads(written.read_text())["physical_to_logical_map"]) == (32, 8 + knee)
    assert run([*arguments, "--evaluate", str(written), "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("slots.json,")
    assert run([*arguments, "--evaluate", str(written), "--redundant", "12"]) == 2
    assert "leave it out" in capsys.readouterr().err
    assert run(arguments) == 2 and "give --redundant" in capsys.readouterr().err
    assert run([*arguments, "--redundant", "0,4", "--policy", "EPLB global"]) == 2
    assert "one --redundant" in capsys.readouterr().err


def test_the_command(capsys, tmp_path):
    written = tmp_path / "slots.json"
    arguments = ["replicate", "mixtral-8x7b", "--cluster", "dgx-h100", "--ep", "4", "--synthetic", "tokens=500"]
    assert run([*arguments, "--redundant", "4", "--json", "--write", str(written)]) == 0
    document = json.loads(capsys.readouterr().out)
    table = json.loads(written.read_text())["physical_to_logical_map"]
    assert np.shape(table) == (32, 12) and table == document["physical_to_logical_map"]
    steps = {row["policy"]: row["step"] for row in document["policies"]}
    assert steps["fractional split"] <= steps["equal split"] < steps["no replicas, in order"]
    for changes, words in ((["3"], "evenly"), (["-4"], "fewer"), (["4", "--policy", "best"], "equal split")):
        assert run([*arguments, "--redundant", *changes]) == 2
        assert words in capsys.readouterr().err
