"""Bad input of every kind: one clear sentence on stderr, status 2, nothing on stdout, no partial files."""

import json
import os

import pytest

from perfplan.cli.main import run

JOB = {"": "llama-3-8b", "--cluster": "dgx-h100", "--gpus": "64", "--global-batch": "128", "--seq-len": "8192"}


def plan(**changes):
    given = JOB | {f"--{name.replace('_', '-')}" if name != "model" else "": text for name, text in changes.items()}
    return ["plan", "train", *(word for name, text in given.items() for word in (name, text) if word)]


def sentence(capsys, arguments):
    status = run(arguments)
    out, err = capsys.readouterr()
    assert status == 2 and out == "" and err.count("\n") == 1 and err.startswith("perfplan: "), (status, out, err)
    assert "defect" not in err and len(err) < 1000
    return err


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"model": "lama-3-8b"}, "llama-3-8b"),
        ({"cluster": "dgx-h10"}, "dgx-h100"),
        ({"precision": "fp9"}, "fp8"),
        ({"framework": "megatronn"}, "megatron"),
        ({"technique": "megascal"}, "megascale"),
        ({"set": "accelerator.memry=96GiB"}, "memory"),
        ({"set": "acelerator.memory=96GiB"}, "accelerator"),
        ({"set": "memory"}, "accelerator.memory=96GiB"),
        ({"set": "accelerator.memory=96"}, "unit"),
        ({"set": "recipe.nothing=1"}, "nothing"),
        ({"catalog": "/nowhere"}, "/nowhere"),
        ({"objective": "speed"}, "min-gpus"),
        ({"attention": "fast"}, "flash"),
        ({"overlap": "tp"}, "tp=1"),
        ({"overlap": "tp=2"}, "0 to 1"),
        ({"fix": "tp8 zp2"}, "zp2"),
        ({"fix": "tp8 tp4"}, "twice"),
        ({"forbid": "tp0"}, "tp"),
        ({"tokens": "15 TB"}, "15 TB"),
        ({"tokens": "-1"}, "-1"),
        ({"tokens": "0"}, "15T"),
        ({"deadline": "30d"}, "--tokens"),
        ({"deadline": "30", "tokens": "1T"}, "--deadline '30' has no unit"),
        ({"power_cap": "500"}, "--power-cap '500'"),
        ({"top": "0"}, "not '0'"),
        ({"gpus": "0"}, "0"),
        ({"gpus": "many"}, "256..2048"),
        ({"gpus": "64..8"}, "8..64"),
        ({"gpus": "9999999"}, "gpus"),
        ({"global_batch": "0"}, "batch"),
        ({"global_batch": "1e9"}, "--global-batch"),
        ({"seq_len": "99999999999"}, "seq_len"),
        ({"seq_len": "8x"}, "--seq-len '8x'"),
        ({"routing_skew": "0.5"}, "skew"),
        ({"routing_skew": "nan"}, "skew"),
        ({"cluster": "tpu-v5p-pod", "precision": "fp8"}, "fp8"),
        ({"model": "/nowhere/config.json"}, "/nowhere/config.json"),
    ],
)
def test_a_bad_argument_is_one_sentence(capsys, changes, words):
    assert words in sentence(capsys, plan(**changes))


@pytest.mark.parametrize(
    "layout, words",
    [
        ("tp3 dp16", "tp=3"),
        ("tp8 dp1000", "dp"),
        ("tp8 sp2", "sp"),
        ("tp-8", "tp-8"),
        ("ep8 dp64", "ep"),
        ("pp64 dp1", "pp"),
        ("tp8 rc=everything", "everything"),
        ("dp7", "7"),
    ],
)
def test_an_impossible_layout_is_one_sentence(capsys, layout, words):
    arguments = ["estimate", *plan()[1:], "--layout", layout]
    assert words in sentence(capsys, arguments)


CHIP = """name: Test chip
vendor: nobody
family: hopper
memory: {memory}
memory_bandwidth: 3 TB/s
peak: {{bf16: 500 TFLOP/s}}
sources: {{memory: test, memory_bandwidth: test, peak: test}}
"""
BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n"


@pytest.mark.parametrize(
    "text, words",
    [
        (CHIP.format(memory="80"), "unit"),
        (CHIP.format(memory="80 GB/s"), "80 GB/s"),
        (CHIP.format(memory="-80 GB"), "-80"),
        (CHIP.format(memory="80 GiB") + "colour: red\n", "colour"),
        (CHIP.format(memory="80 GiB") + "memory: 90 GiB\n", "twice"),
        ("name: [unclosed\n", "YAML"),
        ("- a list\n", "mapping"),
        ("", "nothing"),
        (BOMB, "anchors"),
        ("!!python/object/apply:os.system ['true']\n", "YAML"),
        ("name: only a name\n", "missing"),
    ],
)
def test_a_bad_catalog_file_is_one_sentence_that_names_it(capsys, tmp_path, text, words):
    (tmp_path / "accelerators").mkdir()
    (tmp_path / "accelerators" / "chip.yaml").write_text(text)
    err = sentence(capsys, ["catalog", "show", "chip", "--kind", "accelerator", "--catalog", str(tmp_path)])
    assert words in err and "chip.yaml" in err


def test_two_files_with_one_id_are_one_sentence(capsys, tmp_path):
    (tmp_path / "accelerators").mkdir()
    for name in ("one", "two"):
        (tmp_path / "accelerators" / f"{name}.yaml").write_text("id: chip\n" + CHIP.format(memory="80 GiB"))
    err = sentence(capsys, ["catalog", "show", "chip", "--kind", "accelerator", "--catalog", str(tmp_path)])
    assert "one.yaml" in err and "two.yaml" in err


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"model_type": "bert"}',
        '{"hidden_size": "big"}',
        "[" * 100000,
        json.dumps({"model_type": "llama", "hidden_size": -1}),
    ],
)
def test_a_config_that_is_no_model_is_one_sentence(capsys, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert "config.json" in sentence(capsys, plan(model=f"{tmp_path}/config.json"))


def test_measurements_without_their_columns_are_one_sentence(capsys, tmp_path):
    (tmp_path / "mine.csv").write_text("id,value\n1,2\n")
    assert "column" in sentence(capsys, ["validate", "training", "--measured", f"{tmp_path}/mine.csv"])


@pytest.mark.parametrize("option", ["--csv", "--save"])
@pytest.mark.parametrize("path", ["missing/plan", "."])
def test_an_unwritable_output_is_one_sentence_without_partial_files(capsys, tmp_path, option, path):
    good = "--save" if option == "--csv" else "--csv"
    err = sentence(capsys, [*plan(), option, f"{tmp_path}/{path}", good, f"{tmp_path}/good"])
    assert "cannot write" in err and os.listdir(tmp_path) == []


def test_json_and_csv_cannot_both_have_standard_output(capsys):
    assert "--csv" in sentence(capsys, [*plan(), "--json", "--csv"])


LENGTHS = ["llama-3-8b", "--cluster", "dgx-h100", "--isl", "100", "--osl", "10"]
SERVED = [*LENGTHS, "--layout", "tp1"]
PLANNED = [*LENGTHS, "--gpus", "8", "--rate", "1/s"]


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["place", "mixtral-8x7b", "--cluster", "dgx-h100", "--ep", "4", "--synthetic", "seed=1", "--tokens", "0"],
         "give 1 to"),
        (["place", "mixtral-8x7b", "--cluster", "dgx-h100", "--ep", "4", "--synthetic", "seed=1", "--context", "9"],
         "--phase decode"),
        (["replicate", "mixtral-8x7b", "--cluster", "dgx-h100", "--ep", "4", "--redundant", "4", "--synthetic",
          "seed=1", "--tokens", "0"], "give 1 to"),
        (["fit", "nowhere.json", "--cluster", "dgx-h100", "--gpus", "8", "--context", "8k"], "check the path"),
        (["fit", "llama-3-8b", "--cluster", "dgx-h100", "--gpus", "8", "--context", "8k", "--expected", "9k"],
         "outside 1 to 8192"),
        (["estimate", "train", "llama-3-8b", "--cluster", "dgx-h100", "--layout", "dp8"], "give --global-batch"),
        (["explain", "step_time"], "name its MODEL"),
        (["explain", "--list", "queue"], "queueing"),
        (["explain", "tpo", *SERVED], "did you mean tpot?"),
        (["estimate", "serve", *SERVED, "--routing-skew", "2"], "no routed experts"),
        (["estimate", "serve", *SERVED, "--imbalance", "2"], "one attention rank"),
        (["estimate", "serve", *SERVED, "--drafts", "2"], "give --acceptance"),
        (["plan", "serve", *PLANNED, "--ttft", "1"], "--ttft '1' has no unit"),
        (["plan", "serve", *PLANNED, "--think", "1s"], "--concurrency"),
        (["plan", "serve", *PLANNED, "--seed", "1"], "--simulate"),
        (["plan", "serve", *PLANNED, "--kind", "agg"], "choose from aggregated, disaggregated"),
        (["provision", "llama-3-8b", "--clusters", "dgx-h100", "--isl", "1m", "--osl", "9", "--rate", "1/s"],
         "longer context"),
        (["schedule", "gap", "llama-3-8b", "--cluster", "dgx-h100", "--layout", "tp8", "--phase", "decode", "--batch",
          "8", "--context", "1m"], "1 to 8192"),
    ],
)
def test_serving_and_placement_refuse_what_they_cannot_use(capsys, arguments, words):
    assert words in sentence(capsys, arguments)
