"""Jobs and pipelines that the tests of this folder share."""

from functools import cache

from perfplan.api import training_job
from perfplan.catalog import Catalog
from perfplan.overlap.stages import Pipeline
from perfplan.training.layout import Layout


@cache
def shipped():
    return Catalog()


@cache
def pipeline(model, layout, batch=128, seq=4096, precision="bf16", cluster="dgx-h100"):
    at = Layout.parse(layout)
    job = training_job(model, cluster=cluster, gpus=at.world, global_batch=batch, seq_len=seq, precision=precision,
                       catalog=shipped())
    return Pipeline.of(job, at)
