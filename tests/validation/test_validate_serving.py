"""Runs of serving engines read, filled in by the stated rules, priced and scored; bad files told in one sentence."""

import csv
import random
from dataclasses import replace

import pytest

from perfplan.catalog import Catalog
from perfplan.errors import CatalogError, MissingField, Unsupported
from perfplan.serving.memory import weights
from perfplan.validation.serving import (
    LATENCY_FILES,
    SERVING_FILES,
    Pricer,
    outcomes,
    replicated,
    shipped,
    validate_latency,
)
from perfplan.validation.serving_rows import METRICS, formats_of, layout_of, lengths_of, read_runs

CATALOG = Catalog()
HEAD = ("id,group,model_id,hardware_id,engine,engine_version,weight_dtype,isl,osl,batch,tp,attention_dp,moe_tp,moe_ep,"
        "n_accel,ttft_ms,tpot_ms,measured_on,source,suspect,note\n")
IDS = {
    "model": "codellama-34b deepseek-v3 falcon-180b glm-5 gpt-j-6b gpt-oss-120b gpt-oss-20b internlm-20b kimi-k2.5"
             " llama-13b llama-2-13b llama-2-70b llama-2-7b llama-3-70b llama-3-8b llama-3.1-405b llama-3.1-70b"
             " llama-3.1-8b llama-3.3-70b llama-33b llama-4-maverick llama-4-scout llama-7b minimax-m2.5 mistral-7b"
             " mixtral-8x22b mixtral-8x7b openllama-3b qwen1.5-72b qwen3-235b-a22b qwen3-30b-a3b qwen3-32b"
             " qwen3.5-397b-a17b"
             " tinyllama-1.1b yi-34b",
    "engine": "atom deepseek_inhouse exllamav2 llama_cpp lmdeploy pytorch qserve quarot sglang trtllm vllm",
}


def write(tmp_path, *rows):
    path = tmp_path / "rows.csv"
    path.write_text(HEAD + "".join(row + "\n" for row in rows))
    return path


def row(model="llama-3.1-8b", chip="h100-sxm", engine="trtllm", dtype="bf16", tp=8, count=8, suspect=0, note=""):
    return f"a,g,{model},{chip},{engine},,{dtype},1024,128,8,{tp},,1,1,{count},100,10,,src,{suspect},{note}"


def test_the_shipped_files_are_read():
    runs = [run for path in shipped(SERVING_FILES + LATENCY_FILES) for run in read_runs(path)]
    assert len(runs) == 1238 + 2 * 683
    assert {run.slice.split("/")[0] for run in runs} == {"ttft", "tpot", "rate", "decode", "prefill"}


@pytest.mark.parametrize("model", IDS["model"].split())
def test_every_model_has_a_price(model, tmp_path):
    chips = ("h200-sxm", "b200-sxm")
    path = write(tmp_path, *(row(model, chip, engine, "", 8) for chip in chips for engine in ("vllm", "sglang")))
    found = outcomes(read_runs(path), Pricer(CATALOG))
    unfit = [o.unsupported for o in found if o.unsupported and "does not hold one request" not in o.unsupported]
    if model == "gpt-j-6b":  # context of 2048 tokens, 16 heads: it runs
        assert not unfit
    assert not [reason for reason in unfit if "does not divide" not in reason], unfit


@pytest.mark.parametrize("engine", IDS["engine"].split())
def test_every_engine_has_a_price(engine, tmp_path):
    found = outcomes(read_runs(write(tmp_path, row(engine=engine))), Pricer(CATALOG))
    assert not [o.unsupported for o in found if o.unsupported]


def test_every_accelerator_of_the_catalog_has_a_price(tmp_path):
    rows = [row("tinyllama-1.1b", chip, "llama_cpp", "", 1, 1) for chip in CATALOG.ids("accelerator")]
    found = outcomes(read_runs(write(tmp_path, *rows)), Pricer(CATALOG))
    unpriced = {o.hardware: o.unsupported for o in found if o.unsupported}
    for chip in CATALOG.ids("accelerator"):
        known = CATALOG.accelerator(chip)
        if {"bf16", "fp16", "fp32"} & set(known.peak):
            assert chip not in unpriced, unpriced[chip]
    assert len([chip for chip in unpriced if CATALOG.accelerator(chip).family != "xeon"]) < 4  # a CPU has no cluster


@pytest.mark.parametrize(("field", "spelt", "known"), [
    ("hardware_id", "NVIDIA H100 80GB HBM3", "h100-sxm"), ("hardware_id", "H200 SXM 141GB", "h200-sxm"),
    ("hardware_id", "A100 80GB PCIe", "a100-pcie-80gb"), ("hardware_id", "AMD Instinct MI300X", "mi300x"),
    ("hardware_id", "8 x H100 SXM5 80 GB", "h100-sxm"), ("hardware_id", "Gaudi 3", "gaudi3"),
    ("hardware_id", "NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
    ("model_id", "Llama-3.1-8B-Instruct", "llama-3.1-8b"), ("model_id", "meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
    ("engine", "TensorRT-LLM", "trtllm"), ("engine_version", "v1.0.0rc3", "1.0.0rc3"),
    ("engine_version", "release:1.0.0rc3", "1.0.0rc3"), ("weight_dtype", "FP8_E4M3", "fp8"),
    ("weight_dtype", "bfloat16", "bf16"), ("weight_dtype", "auto", ""), ("weight_dtype", "W4A16", "int4"),
    ("tp", "TP2", "2"),
])
def test_other_spellings_are_read_as_the_catalogs_names(field, spelt, known, tmp_path):
    place = HEAD.strip().split(",").index(field)
    cells = row("llama-3.1-8b", "h100-sxm", "trtllm", "fp8", 1, "").split(",")
    rows = [",".join([*cells[:place], value, *cells[place + 1:]]) for value in (spelt, known)]
    read, wanted = ([o.predicted for o in outcomes(runs, Pricer(CATALOG))] for runs in (
        read_runs(write(tmp_path, one)) for one in rows))
    assert read == wanted and all(read)


def test_formats_of_cache_and_inputs_are_read_in_other_spellings(tmp_path):
    head = HEAD.replace("weight_dtype", "weight_dtype,kv_dtype,act_dtype")
    path = tmp_path / "formats.csv"
    path.write_text(head + row(dtype="INT4,FP8_E4M3,INT8") + "\n" + row(dtype="fp16,auto,float16") + "\n")
    narrow, plain = read_runs(path)[::2]
    assert (narrow.kv, formats_of(narrow, CATALOG.model("llama-3.1-8b"))) == ("fp8", "int4-int8")
    assert (plain.kv, plain.inputs) == ("", "fp16")


def test_gpt_oss_in_llama_cpp_keeps_its_other_matrices_in_8_bits(tmp_path):
    file = 12.11e9  # published size of gpt-oss-20b in MXFP4 for llama.cpp [B]
    run = read_runs(write(tmp_path, row("gpt-oss-20b", "gb10", "llama_cpp", "mxfp4", 1, 1)))[0]
    job = Pricer(CATALOG).job(run)
    assert weights(job, layout_of(run, job.model)) == pytest.approx(file, rel=0.02)


def test_narrow_experts_are_read_not_padded(tmp_path):
    rows = [row("gpt-oss-120b", "h100-sxm", "vllm", "mxfp4", 1, 1)]
    run = replace(read_runs(write(tmp_path, *rows))[1], batch=64)
    pricer = Pricer(CATALOG)
    job = pricer.job(run)
    parts = pricer.steady(run)[0].decode
    read = weights(job, layout_of(run, job.model)) / job.cluster.accelerator.memory_bandwidth
    assert 0.5 * read < parts["experts"] < 1.6 * read, "two rows of each of 128 experts cost what reading does"


def test_two_engines_are_called_atom(tmp_path):
    of = {chip: read_runs(write(tmp_path, row(chip=chip, engine="atom")))[0] for chip in ("mi355x", "l40s")}
    assert [Pricer(CATALOG).job(run).engine.id for run in of.values()] == ["vllm", "qserve"]


def test_what_a_row_is_read_as_is_told(tmp_path):
    path = tmp_path / "told.csv"
    path.write_text(HEAD + row("Qwen3-32B", "NVIDIA H100 80GB HBM3", "atom", "fp8", 4, 4) + "\n"
                    + row(engine="vllm").replace("vllm,,", "vllm,9.9,") + "\n")
    strange, later = outcomes(read_runs(path), Pricer(CATALOG))[::2]
    assert strange.assumptions == ("NVIDIA H100 80GB HBM3 read as h100-sxm", "Qwen3-32B read as qwen3-32b",
                                   "atom read as qserve")
    assert later.assumptions == (
        "release 9.9 of vLLM has no constants of its own; those of the engine are used",)


def test_names_that_nobody_knows_are_listed(tmp_path):
    rows = row(chip="H100 of a new kind"), row(chip=""), row(model=""), row("no-model-7b"), row(dtype="fp5")
    found = outcomes(read_runs(write(tmp_path, *rows)), Pricer(CATALOG))
    assert [o.unsupported.partition(";")[0] for o in found[::2]] == [
        "there is no accelerator 'H100 of a new kind'", "hardware not stated", "model not stated",
        "there is no model 'no-model-7b'", "weights in 'fp5' are not modelled"]


def test_rows_without_a_format_take_the_checkpoints(tmp_path):
    path = write(tmp_path, row("deepseek-v3", dtype=""), row("qwen3-32b", dtype="", note="checkpoint: Qwen/Qwen3-32B"),
                 row("qwen3-235b-a22b", dtype="fp8", note="checkpoint: Qwen/Qwen3-235B-A22B-FP8"))
    runs = read_runs(path)
    found = [formats_of(run, CATALOG.model(run.model)) for run in runs]
    assert found == ["fp8-block"] * 2 + ["bf16"] * 2 + ["fp8-block"] * 2
    assert [run.slice for run in runs][::2] == ["ttft/g/native", "ttft/g/native", "ttft/g"]


def test_publishers_scale_fp8_in_blocks(tmp_path):
    run = read_runs(write(tmp_path, row(engine="sglang", dtype="fp8")))[0]
    model = CATALOG.model
    assert formats_of(run, model("glm-5")) == formats_of(run, model("qwen3.5-397b-a17b")) == "fp8-block"
    assert formats_of(run, model("llama-3.1-8b")) == formats_of(replace(run, engine="trtllm"), model("glm-5")) == "fp8"
    assert formats_of(replace(run, note="checkpoint: Qwen/Qwen3-32B"), model("qwen3-32b")) == "fp8", "made on loading"


def test_the_count_says_that_attention_is_data_parallel(tmp_path):
    runs = read_runs(write(tmp_path, "a,g,qwen3-235b-a22b,h200-sxm,vllm,,fp8,1024,128,8,2,,1,8,8,100,10,,src,0,"))
    assert str(layout_of(runs[0], CATALOG.model("qwen3-235b-a22b"))) == "tp2 ep8 adp4"


def test_widths_that_a_row_leaves_open_come_from_its_accelerators(tmp_path):
    run = replace(read_runs(write(tmp_path, row()))[0], tp=None)
    dense, experts = CATALOG.model("llama-3.1-8b"), CATALOG.model("qwen3-235b-a22b")
    assert str(layout_of(run, dense)) == "tp8"
    assert str(layout_of(replace(run, engine="llama_cpp"), dense)) == "tp1 pp8", "split by layers"
    assert str(layout_of(replace(run, tp=2), dense)) == "tp2 dp4", "replicas"
    assert str(layout_of(replace(run, tp=8, ep=8, spread=True), experts)) == "tp1 ep8 adp8"
    with pytest.raises(Unsupported, match="neither tp"):
        layout_of(replace(run, accelerators=None), dense)


def test_lengths_and_bits_that_only_the_note_tells(tmp_path):
    run = replace(read_runs(write(tmp_path, row()))[0], isl=None, osl=None)
    usual = CATALOG.workload("sharegpt")
    found = lengths_of(replace(run, note="3000 ShareGPT-style requests"), CATALOG)
    assert found == (round(usual.isl.mean), round(usual.osl.mean))
    assert lengths_of(replace(run, metric="decode_tokens_per_s"), CATALOG) == (0, 128)
    with pytest.raises(Unsupported, match="not stated"):
        lengths_of(run, CATALOG)
    bits = replace(run, weights="", note="weights: EXL2 4.25 bits per weight; group size -")
    assert formats_of(bits, CATALOG.model("llama-7b")) == "4.25bpw"
    assert formats_of(replace(bits, note="weights: GPTQ; group size 128"), CATALOG.model("llama-7b")) == "gptq"


def test_pools_and_copies_of_experts(tmp_path):
    first = read_runs(write(tmp_path, row("deepseek-v3", "h800-sxm", "sglang")))[0]
    base = replace(first, isl=2000, osl=500, spread=True)
    pricer = Pricer(CATALOG)
    assert replicated(CATALOG.model("deepseek-v3"), 72).kinds[-1].ffn.experts == 288
    assert replicated(CATALOG.model("deepseek-v3"), 64) == CATALOG.model("deepseek-v3")
    prompts = replace(base, metric="input_tokens_per_s_per_node", tp=32, accelerators=32, ep=32, batch=None)
    decodes = replace(base, metric="output_tokens_per_s_per_node", tp=72, accelerators=72, ep=72, batch=9216)
    mixed = replace(decodes, metric="output_tokens_per_s_total", batch_kind="concurrency")
    assert pricer.predict(prompts) > 500 / 2000 * pricer.predict(decodes) > 0
    assert pricer.predict(decodes) > pricer.predict(mixed) / 9, "a pool that decodes alone outdoes one that does both"


CHOICES = {
    "model_id": ["llama-3.1-8b", "Qwen/Qwen3-0.6B", "deepseek-v3", "gpt-oss-120b", "mixtral-8x7b", "qwen3-next-80b-a3b",
                 "nemotron-h-8b", "llama-2-7b"],
    "hardware_id": ["h100", "h200-sxm", "b200-sxm", "a100-pcie", "l40s", "mi300x", "mi355x", "gb10", "rtx-4090", "v100",
                    "tpu-v6e", "m2-ultra"],
    "engine": IDS["engine"].split(), "engine_version": ["", "0.18.0", "1.2.0rc1", "0.11.2", "b4000"],
    "weight_dtype": ["", "bf16", "fp16", "fp8", "nvfp4", "int4", "q4_k_m"], "kv_dtype": ["", "fp8", "int8"],
    "act_dtype": ["", "int8", "bf16"], "tp": ["", "1", "2", "8"], "n_accel": ["8", "8", "16"], "pp": ["", "1", "2"],
    "ep": ["", "8"], "dp": ["", "1"], "attention_dp": ["", "0", "1"], "isl": ["1", "128", "8192"],
    "osl": ["1", "128", "4096"], "batch": ["1", "16", "500"],
    "batch_kind": ["static", "concurrency", "max", "qps", "unknown"], "qps": ["", "2", "inf"], "metric": list(METRICS),
}


def test_rows_never_seen_are_scored_or_listed(tmp_path):
    draws = random.Random(3)
    rows = [{name: draws.choice(values) for name, values in CHOICES.items()} for _ in range(300)]
    path = tmp_path / "unseen.csv"
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, ["id", "group", *CHOICES, "value"])
        writer.writeheader()
        writer.writerows(one | {"id": i, "group": "g", "value": 1} for i, one in enumerate(rows))
    found = outcomes(read_runs(path), Pricer(CATALOG))
    assert len(found) == len(rows)
    assert all(one.unsupported or one.predicted > 0 for one in found)
    true = ("does not hold one request", "cannot run", "time between tokens", "without a number", "no finite figure")
    assert not [one for one in found if one.unsupported and not any(reason in one.unsupported for reason in true)]
    assert sum(not one.unsupported for one in found) > 150


def test_suspect_rows_are_listed_not_scored(tmp_path):
    result = validate_latency([write(tmp_path, row(), row(suspect=1))], catalog=CATALOG)
    assert result.overall.rows == 4
    assert result.overall.unsupported == {"suspect row, listed and not scored": 2}
    assert {score.name for score in result.slices} == {"ttft/g", "tpot/g"}


def test_bad_files(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id,group\n1,2\n")
    with pytest.raises(MissingField, match="lacks the columns"):
        read_runs(path)
    with pytest.raises(CatalogError, match="cannot be read"):
        read_runs(tmp_path / "none.csv")
    with pytest.raises(CatalogError, match="no number"):
        read_runs(write(tmp_path, row().replace("1024", "many")))
