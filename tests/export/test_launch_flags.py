"""Flags written for a layout are read back as that layout; what a line says and is not priced is told."""

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from perfplan.api import estimate_train, launch_flags, plan_train, read_launch, training_job
from perfplan.catalog import Catalog
from perfplan.cli.main import run
from perfplan.errors import PerfplanError, SpecError, UnknownName, Unsupported
from perfplan.export.flags import launch_flags as flags_of
from perfplan.export.launchers import launcher
from perfplan.training.layout import Layout
from perfplan.training.stages import stages

CATALOG = Catalog()
GPT = (
    "--num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 --group-query-attention"
    " --num-query-groups 8 --swiglu --vocab-size 128256 --untie-embeddings-and-output-weights --normalization RMSNorm"
    " --position-embedding-type rope --disable-bias-linear --seq-length 8192 --micro-batch-size 1 --bf16"
    " --global-batch-size 128 --hidden-dropout 0"
)
MODELS = ("llama-3-8b", "gpt3-1.3b", "qwen3-30b-a3b", "deepseek-v3", "mixtral-8x7b")
PRECISIONS = ("bf16", "fp16", "fp8", "mxfp8", "fp8-block", "nvfp4", "fp8-bf16-weights", "fp8-current")


def job(model, precision="bf16", **more):
    return training_job(model, cluster="dgx-b200", gpus=64, global_batch=256, seq_len=4096, precision=precision,
                        catalog=CATALOG, **more)


def read(framework, text, **more):
    return read_launch(framework, text, catalog=CATALOG, **more)


DEGREE = st.sampled_from((1, 2, 4, 8))
LAYOUTS = st.builds(
    lambda widths, rc, **axes: Layout(
        **axes, shard_weights=widths[0], shard_gradients=widths[1], shard_optimizer=widths[2], recompute=rc),
    st.sampled_from([(1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 0, 0)]),
    st.sampled_from([(), ("core_attn",), ("full",), ("full:2",), ("core_attn", "layernorm"), ("mlp",)]),
    tp=DEGREE, sp=st.integers(0, 1), cp=st.sampled_from((1, 2)), pp=st.sampled_from((1, 2, 4)),
    vpp=st.sampled_from((1, 2, 3)), ep=DEGREE, etp=st.sampled_from((1, 2)), dp=st.sampled_from((1, 2, 3, 8, 16)),
    mbs=st.sampled_from((1, 2, 4)), cp_kind=st.sampled_from(("ring", "allgather", "a2a")),
    offload=st.sampled_from(((), (("optim", 0),))))


def possible(mine, layout):
    """Whether the framework could be told at all: what needs tp, cp, pp or experts has them."""
    return not (
        (layout.sp and layout.tp == 1) or (layout.cp == 1 and layout.cp_kind != "ring")
        or (layout.vpp > 1 and layout.pp == 1) or layout.dp * layout.cp == 1 and layout.shard_optimizer != 1
        or stages(mine.model.layers, len(mine.model.kinds), layout.pp, layout.vpp) is None)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(MODELS), LAYOUTS)
def test_a_layout_goes_through_its_flags(model, layout):
    mine = job(model)
    assume(possible(mine, layout))
    if not any(hasattr(kind.ffn, "experts") for kind in mine.model.kinds):
        layout = Layout.parse(str(layout).replace(f"ep{layout.ep} etp{layout.etp}", "ep1 etp1"))
    flags = flags_of(CATALOG, "megatron-lm", mine, layout)
    line = read("megatron-lm", flags.text, gpus=layout.world)
    assert line.layout == layout
    assert not flags.unmapped and not line.line.unknown and not line.line.unmodelled
    assert (line.global_batch, line.seq_len) == (mine.global_batch, mine.seq_len)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_goes_through_its_flags(model):
    mine = job(model)
    line = read("megatron-lm", flags_of(CATALOG, "megatron-lm", mine, Layout()).text, gpus=1)
    assert line.model.layers == mine.model.layers or len(set(mine.model.layers)) > 1
    assert [line.model.kinds[i] for i in line.model.layers] == [mine.model.kinds[i] for i in mine.model.layers]
    assert line.model.hidden == mine.model.hidden and line.model.tied == mine.model.tied
    assert 0 <= line.model.vocab - mine.model.vocab < 128


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_precision_goes_through_its_flags(precision):
    mine = job("llama-3-8b", precision)
    flags = flags_of(CATALOG, "megatron-lm", mine, Layout.parse("dp8 zero1"))
    line = read("megatron-lm", flags.text, gpus=8)
    numbers = ("gemm", "weight", "gradient", "moments", "master", "bf16_layers", "cast_reads")
    assert [getattr(line.recipe, name) for name in numbers] == [getattr(mine.recipe, name) for name in numbers]
    assert line.recipe.wire["dp_reduce"] == mine.recipe.wire["dp_reduce"]


def test_hybrid_sharding_and_uneven_stages_go_through_their_flags():
    mine = job("deepseek-v3")
    for tokens in ("dp64 hsdp8", "dp32 w1-g1-o8", "pp4 dp8 zero1", "pp4 vpp4 dp2"):
        layout = Layout.parse(tokens)
        flags = flags_of(CATALOG, "megatron-lm", mine, layout)
        assert read("megatron-lm", flags.text, gpus=layout.world).layout == layout
    assert "--num-distributed-optimizer-instances 8" in flags_of(
        CATALOG, "megatron-lm", mine, Layout.parse("dp64 hsdp8")).text


def test_an_estimate_of_the_line_is_that_of_the_layout():
    plain = estimate_train("llama-3-8b", cluster="dgx-h100", layout="tp2 sp1 dp32 zero1", global_batch=128,
                           seq_len=8192, catalog=CATALOG)
    flags = launch_flags(plain, catalog=CATALOG)
    line = read("megatron-lm", flags.text, gpus=64)
    again = estimate_train(cluster="dgx-h100", launch=line, catalog=CATALOG)
    assert again.step_time == plain.step_time and again.memory == plain.memory


def test_overlap_that_a_line_does_not_switch_on_is_not_there():
    on = "--tensor-model-parallel-size 2 --sequence-parallel --use-distributed-optimizer"
    bare = estimate_train(cluster="dgx-h100", launch=read("megatron-lm", f"{GPT} {on}", gpus=64))
    more = f"{on} --overlap-grad-reduce --overlap-param-gather --tp-comm-overlap"
    hidden = estimate_train(cluster="dgx-h100", launch=read("megatron-lm", f"{GPT} {more}", gpus=64))
    assert hidden.breakdown["tp"] < 0.2 * bare.breakdown["tp"] and hidden.breakdown["dp"] < bare.breakdown["dp"]


def test_overlap_of_experts_is_read_and_written():
    moe = f"{GPT} --num-experts 8 --expert-model-parallel-size 4"
    assert read("megatron-lm", moe, gpus=8).overlap["ep"] == 0
    assert "ep" not in read("megatron-lm", f"{moe} --overlap-moe-expert-parallel-comm", gpus=8).overlap
    mine = job("qwen3-30b-a3b", overlap={"ep": 0.5})
    text = flags_of(CATALOG, "megatron-lm", mine, Layout.parse("ep4 dp8 zero1")).text
    assert "--overlap-moe-expert-parallel-comm" in text
    assert "overlap-moe" not in flags_of(CATALOG, "megatron-lm", mine, Layout.parse("dp8 zero1")).text


def test_experts_take_the_tensor_parallel_size_unless_told():
    line = f"{GPT} --num-experts 8 --tensor-model-parallel-size 2 --sequence-parallel"
    assert read("megatron-lm", line, gpus=8).layout.etp == 2
    assert read("megatron-lm", f"{line} --expert-tensor-parallel-size 1", gpus=8).layout.etp == 1


def test_vocabulary_is_padded_to_a_multiple_of_the_tensor_parallel_size():
    line = GPT.replace("128256", "50257")
    assert read("megatron-lm", line, gpus=8).model.vocab == 50304
    assert read("megatron-lm", f"{line} --tensor-model-parallel-size 8", gpus=8).model.vocab == 51200


def test_nothing_of_a_line_is_dropped():
    line = f"torchrun --nproc-per-node 8 --nnodes 2 pretrain_gpt.py {GPT} --lr 1e-4 --nmu-layers 3 --tp-comm-overlap-ag"
    line = read("megatron-lm", line)
    assert line.gpus == 16 and line.line.words == ("torchrun", "pretrain_gpt.py") and line.line.ignored == ("--lr",)
    assert [flag for flag, _ in line.line.unknown] == ["--nmu-layers 3"]
    assert "--num-layers" in line.line.unknown[0][1]
    assert any("nmu-layers" in caveat for caveat in line.caveats)
    assert any("tp-comm-overlap-ag" in caveat for caveat in line.caveats)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("--fp16", "--bf16 and --fp16"),
        ("--num-layers 40", "--num-layers 32 and --num-layers 40"),
        ("--tensor-model-parallel-size eight", "no whole number"),
        ("--tensor-model-parallel-size $TP", "shell variable"),
        ("--tensor-model-parallel-size", "no value"),
        ("--tensor-model-parallel-size 3", "does not divide"),
        ("--recompute-granularity full", "--recompute-method"),
        ("--recompute-method block", "--recompute-granularity"),
        ("--recompute-granularity all", "full, selective"),
        ("--tp-comm-overlap", "--sequence-parallel"),
        ("--overlap-param-gather", "--use-distributed-optimizer"),
        ("--use-torch-fsdp2 --use-distributed-optimizer", "FSDP2"),
        ("--num-layers-per-virtual-pipeline-stage 5 --pipeline-model-parallel-size 4", "do not divide"),
        ("--expert-model-parallel-size 4", "--num-experts"),
        ("--cp-comm-type a2a+p2p", "not modelled"),
        ("--pipeline-model-parallel-layout Et|x|L --pipeline-model-parallel-size 4", "pipeline layout"),
        ("--pipeline-model-parallel-layout Et|tL --pipeline-model-parallel-size 2", "holds 2 layers"),
        ("--moe-layer-freq ([0]*3) --num-experts 8", "3 entries"),
        ("--spec megatron.something", "name the MODEL"),
        ("--save 'x", "close the quotes"),
        ("--multi-latent-attention", "--kv-lora-rank"),
    ],
)
def test_what_contradicts_itself_is_one_sentence(more, says):
    with pytest.raises(SpecError) as error:
        read("megatron-lm", f"{GPT} {more}", gpus=64)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_what_contradicts_the_catalog_or_the_call_is_an_error():
    with pytest.raises(SpecError, match="--group-query-attention, but llama-2-7b does not"):
        read("megatron-lm", "--micro-batch-size 1 --group-query-attention --num-query-groups 8",
                    model="llama-2-7b", gpus=8)
    with pytest.raises(SpecError, match="--num-query-groups 4, but llama-3-8b has 8"):
        read("megatron-lm", GPT.replace("groups 8", "groups 4"), model="llama-3-8b", gpus=8)
    with pytest.raises(SpecError, match="starts 16 ranks, but --gpus says 8"):
        read("megatron-lm", f"--nproc-per-node 8 --nnodes 2 {GPT}", gpus=8)
    line = read("megatron-lm", GPT, gpus=64)
    for more in ({"seq_len": 4096}, {"precision": "fp8"}, {"layout": "tp8 dp8"}, {"gpus": 8}):
        with pytest.raises(SpecError, match="the launch line says"):
            estimate_train(cluster="dgx-h100", launch=line, **more)
    with pytest.raises(UnknownName, match="megatron-lm"):
        read("megatron-ml", GPT, gpus=64)
    with pytest.raises(Unsupported, match="not read, only written"):
        read("deepspeed", GPT, gpus=64)


def test_other_frameworks_say_what_they_have_no_flag_for():
    mine = job("llama-3-8b")
    layout = Layout.parse("tp2 sp1 dp32 zero3 hpz8 qwz qgz")
    flags = flags_of(CATALOG, "deepspeed", mine, layout)
    config = json.loads(flags.text)
    assert config["zero_optimization"]["stage"] == 3 and config["zero_optimization"]["zero_hpz_partition_size"] == 8
    assert config["train_batch_size"] == 256 and config["gradient_accumulation_steps"] == 8
    assert "tp 2" in flags.unmapped
    titan = flags_of(CATALOG, "torchtitan", mine, Layout.parse("tp2 sp1 dp32 zero1"))
    assert "tensor_parallel_degree=2," in titan.text and any("zero1" in each for each in titan.unmapped)
    assert "data_parallel_shard_degree=8," in flags_of(CATALOG, "torchtitan", mine, Layout.parse("dp64 hsdp8")).text
    bridge = flags_of(CATALOG, "megatron-bridge", mine, Layout.parse("tp2 sp1 pp4 vpp2 dp8 zero1"))
    assert "model.virtual_pipeline_model_parallel_size=2" in bridge.text and not bridge.unmapped


@pytest.mark.parametrize("name", CATALOG.ids("launcher"))
def test_every_table_is_whole(name):
    table = launcher(CATALOG, name, CATALOG.launcher(name).get("phase", "training"))
    names = [spelling for row in table.flags for spelling in (row.name, *row.also)]
    assert len(set(names)) == len(names) and table.release
    heard = [table.ignored, frozenset(table.unmodelled), table.architecture, frozenset(names)]
    assert sum(map(len, heard)) == len(frozenset().union(*heard)), "a flag stands in two places"


def test_the_best_layout_of_a_plan_has_its_flags():
    plan = plan_train("llama-3.2-1b", cluster="dgx-h100", gpus=8, global_batch=32, seq_len=2048, catalog=CATALOG)
    flags = launch_flags(plan, catalog=CATALOG)
    assert read("megatron-lm", flags.text, gpus=8).layout == plan.best.layout


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(
    [*launcher(CATALOG, "megatron-lm").spellings, "8", "0", "-1", "selective", "p2p", "$X", "--odd", "=", "--", "'"]),
    max_size=12))
def test_any_words_are_a_line_or_one_sentence(words):
    try:
        read("megatron-lm", " ".join(words), gpus=8)
    except PerfplanError as error:
        assert str(error) and "\n" not in str(error)


def test_the_command_line_reads_and_writes_flags(capsys):
    line = f"{GPT} --tensor-model-parallel-size 2 --sequence-parallel --mystery 3"
    assert run(["estimate", "train", "--cluster", "dgx-h100", "--gpus", "64", "--from", "megatron-lm", line,
                "--launch", "megatron-lm", "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["launch"]["flags"].startswith("--tensor-model-parallel-size 2")
    assert document["launch_line"]["not_understood"] == ["--mystery 3"]
    assert "NOT understood, ignored: --mystery 3" in err
    assert run(["why", "train", "--cluster", "dgx-h100", "--gpus", "64", "--from", "megatron-lm", line]) == 0
    assert "best:" in capsys.readouterr().out
    assert run(["explain", "step_time", "--cluster", "dgx-h100", "--gpus", "64", "--from", "megatron-lm", line,
                "--depth", "1"]) == 0
    assert "T_step" in capsys.readouterr().out
    assert run(["estimate", "train", "llama-2-7b", "--cluster", "dgx-h100", "--gpus", "64", "--from", "megatron-lm",
                line]) == 2
    assert "llama-2-7b has" in capsys.readouterr().err
    assert run(["estimate", "train", "llama-2-7b", "--cluster", "dgx-h100", "--global-batch", "8", "--seq-len", "2048"
                ]) == 2
    assert "no layout is given" in capsys.readouterr().err


def test_a_plan_prints_flags_that_its_json_has_too(capsys):
    arguments = ["plan", "train", "llama-3.2-1b", "--cluster", "dgx-h100", "--gpus", "8", "--global-batch", "32",
                 "--seq-len", "2048", "--fix", "tp2 sp1", "--launch"]
    assert run([*arguments, "nemo"]) == 0
    assert "model.tensor_model_parallel_size=2" in capsys.readouterr().out
    assert run([*arguments, "megatron-lm", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert read("megatron-lm", document["launch"]["flags"], gpus=8).layout.tp == 2
    assert run([*arguments, "megatrn-lm"]) == 2
    assert "megatron-lm" in capsys.readouterr().err


def test_a_short_line_takes_its_architecture_from_the_model():
    line = read("megatron-lm", "--micro-batch-size 1 --bf16 --expert-model-parallel-size 8 --moe-router-topk 8"
                " --overlap-moe-expert-parallel-comm --num-query-groups 4", model="qwen3-30b-a3b", gpus=8)
    assert line.layout.ep == 8 and line.model.id == "qwen3-30b-a3b" and not line.line.unknown


WORDS = ("0", "1", "3", "8", "-1", "64", "1000000000", "selective", "full", "block", "mlp", "moe_act", "fp8", "0.5",
         "alltoall", "a2a", "muon", "[1]*32", "Et*32L", "nan", "")


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(launcher(CATALOG, "megatron-lm").spellings)), st.sampled_from(WORDS)),
                min_size=1, max_size=3))
def test_any_change_of_a_good_line_is_priced_or_one_sentence(changes):
    wanted = {name for name, _ in changes}
    kept = [words for words in (f"--{part}".split() for part in GPT.split("--")[1:]) if words[0] not in wanted]
    line = " ".join([*(" ".join(words) for words in kept), *(f"{name} {word}" for name, word in changes)])
    try:
        e = estimate_train(cluster="dgx-h100", launch=read("megatron-lm", line, gpus=64), catalog=CATALOG)
        assert e.step_time > 0
    except PerfplanError as error:
        assert str(error) and "\n" not in str(error)
