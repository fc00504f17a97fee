"""Small jobs that the tests of this folder share, and random layouts for them."""

from functools import cache

from hypothesis import strategies as st

from perfplan.api import training_job
from perfplan.catalog import Catalog
from perfplan.training.estimate import broken_rules
from perfplan.training.layout import Layout
from perfplan.training.space import declare

GIB = 2**30
COMMUNICATION = ("tp", "cp", "ep", "sharding", "pp", "dp")


@cache
def shipped():
    return Catalog()


@cache
def job(model="llama-3-8b", cluster="dgx-h100", gpus=16, batch=32, seq=4096, precision="bf16", **more):
    return training_job(
        model,
        cluster=cluster,
        gpus=gpus,
        global_batch=batch,
        seq_len=seq,
        precision=precision,
        catalog=shipped(),
        **more,
    )


def tight_job(memory, model="llama-3.2-1b", cluster="dgx-h100", gpus=4, batch=8, seq=2048):
    """A job on accelerators of another memory."""
    return training_job(
        model,
        cluster=cluster,
        gpus=gpus,
        global_batch=batch,
        seq_len=seq,
        catalog=Catalog(settings=(f"accelerator.memory={memory}",)),
    )


JOBS = {
    "dense": lambda: job(),
    "experts": lambda: job("qwen3-30b-a3b", "dgx-h100", 16, 32, 4096),
    "latent": lambda: job("deepseek-v2-lite", "gb200-nvl72", 16, 32, 4096, "fp8"),
    "hybrid": lambda: job("nemotron-h-8b", "dgx-h100", 16, 32, 4096),
    "tied": lambda: job("gpt2-1.5b", "dgx-a100", 16, 32, 1024),
    "torus": lambda: job("llama-3-8b", "tpu-v5p-pod", 16, 32, 4096),
}


@st.composite
def lawful(draw, names=tuple(JOBS)):
    """A job and a random layout of its space that breaks no rule."""
    mine = JOBS[draw(st.sampled_from(names))]()
    axes = declare(mine)
    degrees = {
        name: draw(st.sampled_from(getattr(axes, name)))
        for name in ("tp", "sp", "cp", "cp_kind", "pp", "vpp", "ep", "etp", "mbs", "recompute")
    }
    widths = draw(st.sampled_from(axes.sharding))
    layout = repaired(mine, degrees, widths, draw(st.sampled_from((1, 2, 4, 8, 16))))
    return mine, layout


def repaired(mine, degrees, widths, dp):
    """The layout, with axes put back to 1 one after another until it breaks no rule."""
    shards = dict(zip(("shard_weights", "shard_gradients", "shard_optimizer"), widths, strict=True))
    fields = degrees | shards | {"dp": dp}
    if fields["cp"] == 1:
        fields["cp_kind"] = "ring"
    fields["sp"] = int(
        fields["tp"] > 1
        and (fields["sp"] or fields["ep"] > 1 or "qwen3" in mine.model.id or "deepseek" in mine.model.id)
    )
    for name in ("vpp", "etp", "dp", "mbs", "cp_kind", "ep", "shard_gradients", "cp", "sp", "tp", "pp", "dp"):
        if not broken_rules(mine, Layout(**fields)):
            break
        fields[name] = {"sp": 0, "cp_kind": "ring"}.get(name, 1)
        if name == "shard_gradients":
            fields["shard_weights"] = 1
        if fields["cp"] == 1:
            fields["cp_kind"] = "ring"
        if fields["tp"] == 1:
            fields["sp"] = 0
    layout = Layout(**fields)
    assert not broken_rules(mine, layout)
    return layout
