"""Small jobs that the tests of this folder share, and random layouts for them."""

import random
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


SHARDS = ("shard_weights", "shard_gradients", "shard_optimizer")
KEYS = ("tp", "sp", "cp", "cp_kind", "pp", "vpp", "ep", "etp", "mbs", "recompute")

JOBS = {
    "dense": job,
    "experts": lambda: job("qwen3-30b-a3b", "dgx-h100", 16, 32, 4096),
    "latent": lambda: job("deepseek-v2-lite", "gb200-nvl72", 16, 32, 4096, "fp8"),
    "hybrid": lambda: job("nemotron-h-8b", "dgx-h100", 16, 32, 4096),
    "tied": lambda: job("gpt2-1.5b", "dgx-a100", 16, 32, 1024),
    "torus": lambda: job("llama-3-8b", "tpu-v5p-pod", 16, 32, 4096),
}


def _drawn(axes, draw):
    """A layout of the space; axes that would break a rule against another are seldom left to chance."""
    fields = {axis: draw.choice(getattr(axes, axis)) for axis in KEYS}
    fields["cp"] = draw.choice((1, fields["cp"]))
    fields["vpp"] = 1 if fields["pp"] == 1 else draw.choice((1, 2, fields["vpp"]))
    fields["etp"] = draw.choice((1, 1, fields["etp"]))
    fields["sp"] = int(fields["tp"] > 1 and draw.random() < 0.7)
    if fields["cp"] == 1:
        fields["cp_kind"] = "ring"
    shards = draw.choice(axes.sharding if fields["pp"] == 1 else axes.sharding[:2])
    rest = 16 // (fields["tp"] * fields["cp"] * fields["pp"])
    return Layout(**fields, **dict(zip(SHARDS, shards, strict=True)), dp=max(rest, 1))


@cache
def lawful_layouts(name):
    """Layouts of a job's space that break no rule: those among 3000 drawn with a fixed seed."""
    mine, draw = JOBS[name](), random.Random(1)
    axes = declare(mine)
    drawn = {str(layout): layout for layout in (_drawn(axes, draw) for _ in range(3000))}
    found = tuple(layout for layout in drawn.values() if not broken_rules(mine, layout))
    assert len(found) >= 50, f"only {len(found)} layouts of {name}"
    return found


def lawful(names=tuple(JOBS)):
    """A job and a random layout of its space that breaks no rule."""
    return st.sampled_from(names).flatmap(
        lambda name: st.tuples(st.just(JOBS[name]()), st.sampled_from(lawful_layouts(name)))
    )
