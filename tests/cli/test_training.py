"""plan, estimate and why on the command line: what they print, and that the numbers add up."""

import csv
import io
import json

import pytest

from perfplan.cli.main import run
from perfplan.training.layout import Layout

JOB = ["llama-3-8b", "--cluster", "dgx-h100", "--global-batch", "128", "--seq-len", "8192", "--precision", "bf16"]
PLAN = ["plan", "train", *JOB, "--gpus", "64"]
LAYOUT = "tp2 sp1 dp32 zero1"


def printed(capsys, arguments, status=0):
    assert run(arguments) == status
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_a_plan_says_all_that_it_owes(capsys):
    out = printed(capsys, [*PLAN, "--tokens", "1T", "--top", "3"])
    for word in (
        "binds:",
        "proof: exhaustive",
        "rejected: ",
        "ties:",
        "what matters:",
        "run of 1.00T tokens",
        "days",
        "$",
        "MWh",
        "step by part",
        "memory of the fullest rank",
        "headroom",
        "MFU",
    ):
        assert word in out
    assert max(map(len, out.splitlines())) <= 100


def test_a_plan_as_json_adds_up(capsys):
    plan = json.loads(printed(capsys, [*PLAN, "--json", "--tokens", "1T"]))
    assert len(plan["layouts"]) == 10
    steps = [each["step_time_s"] for each in plan["layouts"]]
    assert steps == sorted(steps) and plan["layouts"][0]["tied"]
    for each in plan["layouts"]:
        assert sum(each["breakdown_s"].values()) == pytest.approx(each["step_time_s"])
        assert sum(each["memory_parts_bytes"].values()) == pytest.approx(each["memory_bytes"])
        assert each["band_low_s"] < each["step_time_s"] < each["band_high_s"] and each["fits"]
    [search] = plan["certificate"]["searched"]
    assert search["feasible"] + sum(search["rejected"].values()) == search["layouts"]
    run_of = plan["run"]
    assert run_of["accelerator_hours"] == pytest.approx(run_of["time_s"] / 3600 * 64)


def test_a_plan_as_csv_has_units_in_its_names_and_is_the_same_every_time(capsys):
    first, second = (printed(capsys, [*PLAN, "--csv"]) for _ in range(2))
    assert first == second
    rows = list(csv.DictReader(io.StringIO(first)))
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, 11)]
    times = [name for name in rows[0] if name.endswith("_time_s") and name != "step_time_s"]
    assert sum(float(rows[0][name]) for name in times) == pytest.approx(float(rows[0]["step_time_s"]))


def test_save_and_csv_write_files_and_text_still_comes(capsys, tmp_path):
    assert run([*PLAN, "--csv", f"{tmp_path}/plan.csv", "--save", f"{tmp_path}/plan.json"]) == 0
    out, err = capsys.readouterr()
    assert "binds:" in out and err.count("wrote ") == 2
    saved = json.loads((tmp_path / "plan.json").read_text())
    table = list(csv.DictReader((tmp_path / "plan.csv").open()))
    assert [row["layout"] for row in table] == [each["layout"] for each in saved["layouts"]]


def test_estimate_and_plan_agree(capsys):
    best = json.loads(printed(capsys, [*PLAN, "--json", "--top", "1"]))["layouts"][0]
    arguments = ["estimate", "train", *JOB, "--gpus", "64", "--layout", best["layout"], "--json"]
    assert json.loads(printed(capsys, arguments)) == {name: value for name, value in best.items() if name != "tied"}


def test_fix_and_forbid_are_kept(capsys):
    plan = json.loads(printed(capsys, [*PLAN, "--json", "--fix", "tp4 rc=full", "--forbid", "pp2 zero1"]))
    layouts = [Layout.parse(each["layout"]) for each in plan["layouts"]]
    assert all(
        each.tp == 4 and each.recompute == ("full",) and each.pp != 2 and each.sharding != "zero1" for each in layouts
    )


def test_a_range_of_accelerators_is_searched(capsys):
    plan = json.loads(printed(capsys, ["plan", "train", *JOB, "--gpus", "16..64", "--json", "--objective", "min-gpus"]))
    assert [each["gpus"] for each in plan["certificate"]["searched"]] == [16, 32, 64]
    assert plan["layouts"][0]["gpus"] == 16


def test_a_range_is_proved_with_one_line_per_count(capsys):
    out = printed(capsys, ["plan", "train", *JOB, "--gpus", "16..64", "--objective", "min-gpus", "--top", "1"])
    assert out.count("exhaustive") == 1 and "exhaustive on 16, 32 and 64 accelerators" in out
    table = out.split("GPUs searched")[1].split("\n\n")[0].splitlines()[1:]
    assert [line.split()[0] for line in table] == ["16", "32", "64"]
    for line in table:
        _, layouts, fit, _, unit, memory, rules = line.split()
        layouts, fit, memory, rules = (int(word.replace(",", "")) for word in (layouts, fit, memory, rules))
        assert unit in ("ms", "s", "min")
        assert fit + memory + rules == layouts


def test_the_pareto_front_is_printed_and_none_of_it_beats_another(capsys):
    arguments = ["plan", "train", *JOB, "--gpus", "32..64", "--front"]
    assert "Pareto front of step time, memory and accelerators\nGPUs" in printed(capsys, arguments)
    rows = list(csv.DictReader(io.StringIO(printed(capsys, [*arguments, "--csv"]))))
    points = [tuple(float(row[name]) for name in ("gpus", "step_time_s", "memory_bytes")) for row in rows]
    assert len(set(points)) > 3 and {point[0] for point in points} == {32, 64}
    assert not any(a != b and all(x <= y for x, y in zip(a, b, strict=True)) for a in points for b in points)


def test_leftover_accelerators_are_told(capsys):
    arguments = ["estimate", "train", *JOB, "--gpus", "100", "--layout", LAYOUT]
    assert "left over   36 of 100 accelerators" in printed(capsys, arguments)
    assert "36 of 100 accelerators are left over" in printed(capsys, [*PLAN[:-1], "100"])


def test_why_answers_where_nothing_fits(capsys):
    arguments = ["why", "train", "llama-3.1-405b", *JOB[1:], "--gpus", "16", "--layout", "tp8 sp1 pp2 rc=full"]
    out = printed(capsys, arguments)
    assert "best: none" in out and "in the searched space" in out and "too much" in out
    assert json.loads(printed(capsys, [*arguments, "--json"]))["best"] is None


def test_why_compares_with_the_best(capsys):
    arguments = ["why", "train", *JOB, "--gpus", "64", "--layout", LAYOUT]
    assert "in the searched space" in printed(capsys, arguments)
    answer = json.loads(printed(capsys, [*arguments, "--json"]))
    assert answer["behind"] >= 0 and answer["in_space"]
    gap = answer["layout"]["step_time_s"] - answer["best"]["step_time_s"]
    assert sum(answer["difference_s"].values()) == pytest.approx(gap)


def test_why_names_the_broken_rule(capsys):
    out = printed(capsys, ["why", "train", *JOB, "--gpus", "64", "--layout", "tp3 dp16"])
    assert "cannot run" in out and "tp=3" in out


def test_nothing_feasible_is_status_1_and_names_the_smallest_changes(capsys):
    arguments = [
        "plan",
        "train",
        "llama-3.1-405b",
        "--cluster",
        "dgx-h100",
        "--gpus",
        "8",
        "--global-batch",
        "8",
        "--seq-len",
        "8192",
    ]
    assert run(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "would fit with" in err and "GiB" in err and "accelerators" in err


CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


def test_a_config_json_is_planned_like_the_catalog_model(capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    own = json.loads(printed(capsys, ["plan", "train", f"{tmp_path}/config.json", *PLAN[3:], "--json"]))
    assert own["layouts"] == json.loads(printed(capsys, [*PLAN, "--json"]))["layouts"]


@pytest.mark.parametrize(
    "job",
    [
        "deepseek-v3 --cluster gb200-nvl72 --gpus 1152 --global-batch 2304 --seq-len 4096 --precision fp8",
        "llama-3-70b --cluster mi300x --gpus 256 --global-batch 512 --seq-len 8192 --precision fp8",
        "llama-3-70b --cluster tpu-v5p --gpus 256 --global-batch 512 --seq-len 8192 --precision bf16",
        "llama-3.1-405b --cluster dgx-h100 --gpus 1024 --global-batch 1536 --seq-len 8192 --precision fp8",
    ],
)
def test_plans_on_other_machines(capsys, job):
    plan = json.loads(printed(capsys, ["plan", "train", *job.split(), "--json", "--top", "2"]))
    assert len(plan["layouts"]) == 2 and 0.05 < plan["layouts"][0]["mfu"] < 0.9


def test_estimate_as_csv_adds_up(capsys):
    out = printed(capsys, ["estimate", "train", *JOB, "--layout", LAYOUT, "--csv"])
    [row] = csv.DictReader(io.StringIO(out))
    times = [name for name in row if name.endswith("_time_s") and name != "step_time_s"]
    sizes = [name for name in row if name.endswith("_memory_bytes")]
    assert sum(float(row[name]) for name in times) == pytest.approx(float(row["step_time_s"]))
    assert sum(float(row[name]) for name in sizes) == pytest.approx(float(row["memory_bytes"]))


def test_a_layout_that_does_not_fit_is_priced_and_says_so(capsys):
    assert "does NOT fit" in printed(capsys, ["estimate", "train", *JOB, "--layout", "dp8"])


def test_what_the_model_leaves_out_is_a_caveat(capsys):
    arguments = ["deepseek-v3", "--cluster", "dgx-h100", "--global-batch", "64", "--seq-len", "2048"]
    out = printed(capsys, ["estimate", "train", *arguments, "--layout", "dp64 ep64 zero1", "--mtp", "0"])
    assert "caveat: its multi-token-prediction layers are not trained" in out
    trained = printed(capsys, ["estimate", "train", *arguments, "--layout", "dp64 ep64 zero1"])
    assert "caveat" not in trained and "with 1 multi-token prediction" in " ".join(trained.split())
