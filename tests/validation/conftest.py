"""A tiny catalog made of specs, so that these tests need no file but the measurements."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import pytest

from perfplan.catalog.specs import (
    Accelerator,
    Attention,
    Cluster,
    Framework,
    Kernel,
    LayerKind,
    Level,
    Library,
    Mlp,
    Model,
    Recipe,
)
from perfplan.errors import UnknownName
from perfplan.validation.rows import Row

CHIP = Accelerator(
    "a100-sxm-80gb",
    "A100",
    "NVIDIA",
    "ampere",
    80 * 2**30,
    2e12,
    {"bf16": 312e12, "fp16": 312e12},
    {"gemm": {"bf16": Kernel(0.8, 0.8, 5e-6)}},
    default_cluster="dgx",
)
FAST = Level("nvlink", 8, "switch", 300e9, 1e-6, 1e-5, ((8, 0.8),))
SLOW = Level("ib", 1 << 20, "switch", 25e9, 5e-6, 1e-5, ((16, 0.8),))
DGX = Cluster("dgx", "DGX", CHIP, (FAST, SLOW), Library("nccl", {}, {}, 0.0), 8, size=1024)
SLICE = replace(
    DGX,
    id="pod",
    accelerator=replace(CHIP, id="tpu-v5p", vendor="Google", default_cluster="pod"),
    levels=(replace(FAST, size=8960, topology="torus", dims=(16, 20, 28)), SLOW),
)
GPT = Model("gpt", "GPT", 1024, 51200, True, (LayerKind(Attention(16, 16, 64, 64), Mlp(4096, False)),), (0,) * 24)
OPS = dict.fromkeys(("forward", "dgrad", "wgrad"), "bf16")
RECIPE = Recipe("bf16", OPS, OPS, "bf16", "bf16", "bf16", 0, 0, 1, (0, 0), 2, 0, 4, 4, 8, 2, {})


@dataclass
class FakeCatalog:
    """Looks up the specs above."""

    def accelerator(self, name, /):
        return {"a100-sxm-80gb": CHIP, "tpu-v5p": SLICE.accelerator}[name]

    def cluster(self, name, /):
        return {"dgx": DGX, "pod": SLICE}[name]

    def model(self, name, /):
        if name != "gpt":
            raise UnknownName(f"there is no model {name!r}")
        return GPT

    def recipe(self, name, /):
        return replace(RECIPE, id=name)

    def framework(self, name, /):
        return Framework(name, 0, 0, 0, 0, 0, 0, {"dp": 0.9}, 1, "flash")

    def library(self, name, /):
        return Library(name, {}, {}, 0.0, borrow={"a100-sxm-80gb": "h800-sxm"} if name == "deepep-v1" else {})

    def ids(self, kind, /):
        return ["bf16", "bf16-pure", "fp16"] if kind == "recipe" else []


@pytest.fixture
def catalog():
    return FakeCatalog()


@pytest.fixture
def row():
    """A complete row; `dataclasses.replace` makes the others."""
    blank = {f.name: ("" if str(f.type) == "str" else None) for f in fields(Row)}
    return Row(
        **blank
        | {
            "id": "lab-1",
            "group": "g",
            "method": "pretrain",
            "model_id": "gpt",
            "hardware_id": "a100-sxm-80gb",
            "n_accel": 16,
            "accel_per_node": 8,
            "fast_domain": 8,
            "internode_gbps_per_accel": 200.0,
            "precision": "bf16",
            "seq_len": 1024,
            "micro_batch": 2,
            "global_batch": 64,
            "tp": 2,
            "sp": 0,
            "pp": 2,
            "vpp": 1,
            "cp": 1,
            "ep": 1,
            "etp": 1,
            "dp": 4,
            "sharding": "zero1",
            "sharding_degree": 4,
            "recompute": "full",
            "attention_kernel": "flash",
            "epoch": "2024",
            "metric": "step_time_s",
            "value": 2.0,
            "confidence": "read",
        }
    )
