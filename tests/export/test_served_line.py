"""Serving launch lines read back: layouts round trip, formats and limits reach the price, contradictions are said."""

import json

import pytest

from perfplan.catalog import Catalog
from perfplan.cli.main import run
from perfplan.errors import SpecError
from perfplan.export.served import served, served_job
from perfplan.export.serving import serving_flags
from perfplan.serving.deploy import serving_job
from perfplan.serving.layout import legal

CATALOG = Catalog()
START = {"vllm": "vllm serve {}", "sglang": "python -m sglang.launch_server --model-path {}"}
LOAD = ["--cluster", "dgx-h100", "--isl", "1000", "--osl", "200"]


def read(engine, line, model=""):
    return served(CATALOG, engine, line, model=model)


@pytest.mark.parametrize("engine", sorted(START))
@pytest.mark.parametrize("model", ["deepseek-v3", "llama-3.1-70b"])
def test_what_is_written_reads_back_as_the_same_deployment(engine, model):
    job = serving_job(model, "hgx-h200", CATALOG, engine=engine, kv="fp8")
    seen = 0
    for layout in legal(job.model, 8):
        written = serving_flags(CATALOG, engine, job, layout, sequences=64, length=4096)
        if layout.dp > 1 or written.unmapped:
            continue
        found = read(engine, f"{START[engine].format(model)} \\\n{written.text}")
        assert (found.layout, found.model, found.kv, found.length) == (layout, model, "fp8", 4096)
        assert (found.max_batch, found.token_budget) == (64, job.engine.token_budget)
        assert not found.line.unknown and not found.line.words
        seen += 1
    assert seen >= 3


def test_every_engine_counts_ranks_in_its_own_way():
    assert str(read("vllm", "vllm serve deepseek-v3 -tp 2 -dp=4 --enable_expert_parallel").layout) == "tp2 ep8 adp4"
    assert str(read("vllm", "vllm serve llama-3.1-8b --data-parallel-size 4").layout) == "tp1 dp4"
    assert str(read("sglang", "sglang serve deepseek-v3 --tp 8 --dp 2").layout) == "tp8 dp2"
    deepep = read("sglang", "sglang serve deepseek-v3 --tp 8 --dp 8 --enable-dp-attention --moe-a2a-backend deepep")
    assert str(deepep.layout) == "tp1 ep8 adp8" and "dispatcher" in deepep.caveats[0]
    trt = read("tensorrt-llm", "trtllm-serve deepseek-v3 --tp_size 8 --ep_size 4 --enable_attention_dp"
               " --max_seq_len 9000")
    assert str(trt.layout) == "tp1 ep4 adp8" and trt.length == 9000


def test_weights_follow_the_flag_or_the_name_of_the_checkpoint_where_that_is_certain():
    assert read("vllm", "vllm serve llama-3.1-8b --quantization awq_marlin").weights == "int4"
    assert read("vllm", "vllm serve nvidia/Llama-3.1-70B-Instruct-FP8").weights == "fp8"
    assert read("vllm", "vllm serve deepseek-v3 --quantization fp8 --dtype bfloat16").weights == ""
    assert read("vllm", "vllm serve llama-3.1-8b --dtype half").weights == "fp16"
    unsure = read("vllm", "vllm serve llama-3.1-8b --quantization bitsandbytes")
    assert unsure.weights == "" and "bitsandbytes" in unsure.caveats[0]


def test_limits_of_the_line_are_those_that_are_priced():
    found = read("sglang", "sglang serve deepseek-v3 --tp 8 --dp 4 --enable-dp-attention --mem-fraction-static 0.8"
                 " --max-running-requests 256 --chunked-prefill-size 8192")
    job, layout = served_job("", "hgx-h200", "", found, CATALOG, length=1200)
    assert (job.engine.id.partition("-")[0], job.engine.memory_fraction) == ("sglang", 0.8)
    assert (job.engine.max_batch, job.engine.token_budget, layout.adp) == (64, 2048, 4)


def test_nothing_is_ignored_in_silence(capsys):
    line = "A=1 vllm serve llama-3.1-8b --enforce-eager --max-num-seq 3 --port 80"
    assert run(["estimate", "serve", *LOAD, "--rate", "1/s", "--from", "vllm", line, "--json"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document["launch_line"]["not_understood"] == ["--max-num-seq 3"]
    assert document["launch_line"]["words"] == ["A=1"]
    for words in ("--enforce-eager", "--max-num-seq 3"):
        assert words in said.err and any(words in caveat for caveat in document["caveats"])
    assert "--max-num-seqs" in said.err


def test_short_flags_behind_the_command_are_flags():
    found = read("vllm", "mpirun -n 2 vllm serve llama-3.1-8b --port 80 -O3")
    assert [flag for flag, _ in found.line.unknown] == ["-O3"] and found.model == "llama-3.1-8b"
    assert found.line.words == ("mpirun", "-n", "2")


def test_the_line_prices_as_its_options_do(capsys):
    more = [*LOAD, "--concurrency", "16", "--csv"]
    line = "vllm serve llama-3.1-70b -tp 4 --kv-cache-dtype fp8"
    assert run(["estimate", "serve", *more, "--from", "vllm", line]) == 0
    read_line = capsys.readouterr().out
    assert run(["estimate", "serve", "llama-3.1-70b", *more, "--layout", "tp4", "--kv", "fp8", "--engine", "vllm"]) == 0
    assert capsys.readouterr().out == read_line


@pytest.mark.parametrize(("engine", "line", "options", "says"), [
    ("vllm", "vllm serve", [], "names no model"),
    ("vllm", "vllm serve $MODEL", [], "shell variable"),
    ("vllm", "vllm serve llama-3.1-8b --model qwen3-8b", [], "keep one"),
    ("vllm", "vllm serve llama-3.1-8b -tp 3", [], "does not divide"),
    ("vllm", "vllm serve llama-3.1-8b -tp 99999", [], "between 1 and"),
    ("vllm", "vllm serve llama-3.1-8b --gpu-memory-utilization 7", [], "no fraction"),
    ("vllm", "vllm serve llama-3.1-8b --max-model-len 900", [], "exceed"),
    ("vllm", "vllm serve llama-3.1-8b --kv-cache-dtype odd", [], "not known"),
    ("vllm", "vllm serve llama-3.1-8b", ["--layout", "tp2"], "contradicts"),
    ("vllm", "vllm serve llama-3.1-8b", ["--engine", "trtllm"], "contradicts"),
    ("vllm", "vllm serve llama-3.1-8b -q awq", ["--weights", "fp8"], "contradicts"),
    ("vllm", "vllm serve llama-3.1-8b --kv-cache-dtype fp8", ["--kv", "bf16"], "contradicts"),
    ("vllm", "vllm serve llama-3.1-8b", ["llama-3.1-70b"], "contradicts"),
    ("sglang", "sglang serve deepseek-v3 --tp 8 --dp 3 --enable-dp-attention", [], "do not divide"),
    ("sglang", "sglang serve deepseek-v3 --tp 8 --ep 3", [], "do not make up"),
    ("sglang", "sglang serve deepseek-v3 --tp 8 --dp 8 --enable-dp-attention --max-running-requests 4", [], "less"),
    ("megatron-lm", "vllm serve llama-3.1-8b", [], "launches no serving"),
])
def test_bad_lines_are_one_sentence(engine, line, options, says, capsys):
    assert run(["estimate", "serve", *options, *LOAD, "--from", engine, line]) == 2
    said = capsys.readouterr()
    assert says in said.err.splitlines()[-1] and "defect" not in said.err and not said.out


def test_model_stands_for_a_folder_of_the_server(capsys):
    line = "vllm serve /data/models/mine -tp 2"
    assert run(["estimate", "serve", "llama-3.1-8b", *LOAD, "--from", "vllm", line]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "serves /data/models/mine, which is taken to be llama-3.1-8b" in out and "llama-3.1-8b in bf16" in out


def test_without_a_line_model_and_layout_are_needed(capsys):
    assert run(["estimate", "serve", "llama-3.1-8b", *LOAD]) == 2
    assert "--layout" in capsys.readouterr().err


CONFIG = """
tensor_parallel_size: 8
moe_expert_parallel_size: 8
enable_attention_dp: true
max_num_tokens: 4096
kv_cache_config: {free_gpu_memory_fraction: 0.85, dtype: fp8, enable_block_reuse: false}
cuda_graph_config:
  batch_sizes: [1, 2, 4]
frobnicate: 3
"""


@pytest.mark.parametrize("flag", ["--config", "--extra_llm_api_options"])
def test_a_configuration_file_is_read_as_its_settings_would_be(tmp_path, flag):
    path = tmp_path / "options.yaml"
    path.write_text(CONFIG)
    filed = read("tensorrt-llm", f"trtllm-serve deepseek-v3 {flag} {path}")
    flagged = read("tensorrt-llm", "trtllm-serve deepseek-v3 --tp_size 8 --ep_size 8 --enable_attention_dp"
                   " --max_num_tokens 4096 --kv_cache_free_gpu_memory_fraction 0.85 --kv_cache_dtype fp8")
    for one in (filed, flagged):
        assert str(one.layout) == "tp1 ep8 adp8" and one.kv == "fp8"
        assert one.limits == {"memory_fraction": 0.85, "token_budget": 4096}
    assert [name for name, _ in filed.line.unmodelled] == ["cuda_graph_config.batch_sizes 1,2,4"]
    assert [name for name, _ in filed.line.unknown] == ["frobnicate 3"]
    path.write_text("tensor_parallel_size: 4")
    with pytest.raises(SpecError, match="keep one of them"):
        read("tensorrt-llm", f"trtllm-serve deepseek-v3 --tp_size 8 {flag} {path}")


def test_vllm_s_file_names_flags_without_hyphens(tmp_path):
    path = tmp_path / "serve.yaml"
    path.write_text("model: llama-3.1-70b\ntensor_parallel_size: 8\nmax-num-seqs: 64\nenable_expert_parallel: false\n")
    found = read("vllm", f"vllm serve --config {path}")
    assert (found.model, str(found.layout), found.max_batch) == ("llama-3.1-70b", "tp8", 64)


@pytest.mark.parametrize("content, words", [
    (None, "is no file here"), ("a: [1", "is no YAML"), ("- 1", "holds no settings"),
    ("tensor_parallel_size: two", "no whole number")])
def test_files_that_cannot_be_read_are_one_sentence(tmp_path, content, words):
    path = tmp_path / "options.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SpecError, match=words):
        read("tensorrt-llm", f"trtllm-serve deepseek-v3 --config {path}")


def test_a_plan_says_what_the_user_s_own_flags_give(capsys):
    line = ["--from", "vllm", "vllm serve llama-3.1-70b -tp 8 --max-num-seqs 64 --max-model-len 4096"]
    wanted = ["plan", "serve", *line, "--cluster", "dgx-h100", "--gpus", "16", "--workload", "azure-conv", "--rate",
              "12/s", "--ttft", "1s", "--tpot", "40ms", "--json"]
    assert run(wanted) == 0
    out, told = capsys.readouterr()
    plan = json.loads(out)
    own, best = plan["baseline"], plan["deployments"][0]
    assert own["instance"] == "tp8" and own["gpus"] == 16
    assert own["goodput"] / own["gpus"] < best["goodput"] / best["gpus"]
    assert "read from the vllm line: tp8" in told
    assert any("refuses requests beyond 4096 tokens" in caveat for caveat in plan["caveats"])
    assert run([{"16": "4", "12/s": "1/s"}.get(word, word) for word in wanted]) == 2
    assert "takes 8 accelerators for one instance" in capsys.readouterr().err


def test_a_figure_of_a_deployment_is_explained_down_to_its_kernels(capsys):
    load = ["--cluster", "dgx-h100", "--isl", "1000", "--osl", "200", "--concurrency", "32"]
    assert run(["explain", "tpot", "--from", "vllm", "vllm serve llama-3.1-8b", *load, "--depth", "2"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("tpot = (T_stall + T_step)/N_acc") and "t_dec" in text and "decode_stall" not in text
    assert run(["explain", "ttft", "llama-3.1-8b", "--layout", "tp2", *load, "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert run(["estimate", "serve", "llama-3.1-8b", "--layout", "tp2", *load, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ttft_s"] == pytest.approx(tree[0]["value"])
    skewed = []
    for extra in ([], ["--routing-skew", "2"]):
        assert run(["explain", "tpot", "qwen3-30b-a3b", "--layout", "tp4 ep4", *load, *extra, "--json"]) == 0
        skewed.append(json.loads(capsys.readouterr().out)[0]["value"])
    assert skewed[0] < skewed[1]
    assert run(["explain", "ttft", "llama-3.1-8b", "--layout", "tp2", *load, "--seq-len", "9"]) == 2
    assert "belongs to training" in capsys.readouterr().err
