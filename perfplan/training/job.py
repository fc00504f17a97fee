"""What is to be trained, on what, with which software: everything but the layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from perfplan.catalog.specs import Accelerator, Cluster, Framework, Kernel, Model, Optimizer, Recipe, Release
from perfplan.errors import MissingField, OutOfRange, Unsupported, offer
from perfplan.formulas.core import where

__all__ = ["GRAPHS", "METHODS", "ORDERS", "Job", "constants", "host_link", "kernel"]

ORDERS = ("tp-cp-dp-pp", "tp-cp-pp-dp")
METHODS = ("pretrain", "sft", "lora")
GRAPHS = ("attn", "mamba", "mlp", "moe_router", "moe_preprocess", "full_iteration")

_FAMILY = {
    "fp8-block": ("fp8",),
    "mxfp8": ("fp8",),
    "nvfp4": ("fp4",),
    "mxfp4": ("fp4",),
    "fp16": ("bf16",),
    "bf16": ("fp16",),
    "fp32": ("tf32",),
}
_SAME_UNITS = {"fp8-block": ("fp8",), "nvfp4": ("fp4",), "mxfp4": ("fp4",)}  # formats that run on another's units
_WIDE = ("fp32", "tf32", "fp16", "bf16")
_RELATED = {
    "grouped_gemm": "gemm",
    "head": "gemm",
    "unaligned_gemm": "gemm",
    "unfused_attention": "gemm",
    "attention_backward": "attention",
    "attention_flash1": "attention",
    "attention_decode": "attention",
    "scan": "attention",
}


@dataclass(frozen=True)
class Job:
    """A training job. global_batch: sequences per optimizer step; seq_len: tokens per sequence; routing_skew: load of
    the most loaded expert rank over the mean [1]; overlap: axis -> fraction that may hide, else the framework's; order:
    how axes lie on the network, innermost first (ep and etp fold into tp, cp and dp); optimizer: Adam with
    the recipe's moments unless given; method: pretrain, sft (all parameters, on sequences packed to seq_len) or lora
    (frozen base, adapters of `lora_rank` beside the attention projections); packed: mean tokens of the documents that
    share a sequence without attending to each other, 0 = one document per sequence; graphs: what CUDA graphs capture,
    in Megatron's words (GRAPHS); padded_experts: tokens beyond an expert's capacity are dropped and the rest padded to
    it, so that no shape depends on the routing; mtp: multi-token-prediction modules that are trained, None = in
    pretraining the model's, if the framework's recipes train them; skews: (ep, load of the most loaded expert rank over
    the mean) where routing is known, instead of one routing_skew."""

    model: Model
    cluster: Cluster
    gpus: int
    global_batch: int
    seq_len: int
    recipe: Recipe
    framework: Framework
    attention: str = ""
    routing_skew: float = 1.0
    overlap: Mapping[str, float] = field(default_factory=dict)
    order: str = ORDERS[0]
    optimizer: Optimizer | None = None
    method: str = METHODS[0]
    lora_rank: int = 16
    packed: int = 0
    graphs: tuple[str, ...] = ()
    padded_experts: bool = False
    mtp: int | None = None
    caveats: tuple[str, ...] = ()
    skews: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        """Reject absurd numbers, unknown words and dtypes that the accelerator lacks."""
        self._check_words()
        for name, low, high in (("gpus", 1, 1 << 20), ("global_batch", 1, 1 << 24), ("seq_len", 1, 1 << 24)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise OutOfRange(f"{name} is {value}, but must be between {low} and {high}")
        if not 1 <= self.routing_skew <= 1000:
            raise OutOfRange(
                f"routing skew is {self.routing_skew:g}, but the most loaded rank over the mean is at least 1"
            )
        if self.cluster.size is not None and self.gpus > self.cluster.size:
            raise OutOfRange(f"gpus is {self.gpus}, but cluster {self.cluster.id} has {self.cluster.size} accelerators")
        if self.packed and not 1 <= self.packed <= self.seq_len:
            raise OutOfRange(f"packed documents have {self.packed} tokens, but a sequence holds 1 to {self.seq_len}")
        if self.packed and not self.fused_attention:
            raise Unsupported("unfused attention computes whole sequences: packed documents change nothing; drop them")
        if not 1 <= self.lora_rank <= self.model.hidden:
            raise OutOfRange(f"lora rank is {self.lora_rank}, but must be between 1 and the width {self.model.hidden}")
        if not 0 <= self.mtp_depth <= 16:
            raise OutOfRange(f"mtp is {self.mtp_depth}, but a model predicts 0 to 16 further tokens")
        if self.mtp and self.frozen:
            raise Unsupported("adapters beside a frozen base train no multi-token prediction; drop --mtp")
        for dtype in {
            *self.recipe.gemm.values(),
            *self.recipe.experts.values(),
            self.recipe.attention,
            self.recipe.head,
        }:
            self.peak(dtype)

    def _check_words(self) -> None:
        words = (("attention", self.attention, ("", "flash", "unfused")), ("method", self.method, METHODS),
                 ("order", self.order, ORDERS), *(("CUDA graph of", part, GRAPHS) for part in self.graphs))
        for what, word, known in words:
            if word not in known:
                choice = ", ".join(filter(None, known))
                raise OutOfRange(f"{what} {word!r} is unknown{offer(word, known)}; choose from {choice}")

    @property
    def moments(self) -> tuple[float, float]:
        """Bytes of optimizer moments per parameter: (matrices of layers, embedding and head)."""
        if self.optimizer is None:
            return self.recipe.moments, self.recipe.moments
        return self.optimizer.moments, self.optimizer.others

    @property
    def mtp_depth(self) -> int:
        """Multi-token-prediction modules that are trained."""
        if self.mtp is not None:
            return self.mtp
        return self.model.mtp_layers if self.framework.mtp and self.method == "pretrain" else 0

    @property
    def frozen(self) -> bool:
        """Whether the base model is frozen and only adapters learn."""
        return self.method == "lora"

    @property
    def release(self) -> Release | None:
        """How the software release that is meant differs on this accelerator; None unless one is meant and known."""
        moe = self.model.routed
        return self.framework.released(self.cluster.accelerator.id, moe)

    @property
    def host_gap(self) -> float:
        """Host time between micro-batch passes: none inside a graph of the whole iteration [s]."""
        return 0.0 if self.whole_graph else self.framework.host_gap

    @property
    def whole_graph(self) -> bool:
        """Whether one CUDA graph holds the whole iteration."""
        return "full_iteration" in self.graphs

    def skew(self, ep: Any) -> Any:
        """Load of the most loaded of `ep` expert ranks over the mean [1]."""
        result: Any = self.routing_skew
        for ranks, load in self.skews:
            result = where(ep == ranks, load, result)
        return result

    @property
    def document(self) -> int:
        """Tokens of one document: what attention reaches over."""
        return self.packed or self.seq_len

    @property
    def fused_attention(self) -> bool:
        """Whether core attention runs as one kernel that never stores the scores."""
        return (self.attention or self.framework.attention) != "unfused"

    @property
    def fused_kernel(self) -> str:
        """Kind of the fused attention kernel: the generation that the framework ships."""
        return "attention_flash1" if self.framework.attention == "flash1" else "attention"

    def overlapped(self, axis: str) -> float:
        """Fraction of the communication of `axis` (tp, cp, dp, fsdp, pp, ep) that may hide behind compute."""
        return self.overlap.get(axis, self.framework.overlap.get(axis, 0.0))

    def peak(self, dtype: str) -> float:
        """Dense peak of the dtype at the clock that a long step sustains [FLOP/s]."""
        table = self.cluster.accelerator.sustained
        return self.data_sheet_peak(dtype) * table.get(dtype, table.get("any", 1.0))

    def data_sheet_peak(self, dtype: str) -> float:
        """Dense peak of the dtype at the clock of the data sheet [FLOP/s]."""
        chip = self.cluster.accelerator
        for name in (dtype, *_SAME_UNITS.get(dtype, ())):
            if name in chip.peak:
                return chip.peak[name]
        have = ", ".join(sorted(chip.peak))
        raise Unsupported(
            f"precision {self.recipe.id} needs {dtype}, which {chip.id} does not have (it has {have});"
            " choose another --precision"
        )


def host_link(job: Job) -> tuple[float, float]:
    """(bandwidth of one accelerator's host link, one direction [B/s]; fraction that copies reach [1])."""
    chip, framework = job.cluster.accelerator, job.framework
    if chip.host_bandwidth is None:
        raise MissingField(f"accelerator {chip.id} states no host_bandwidth, which offload needs; add it to its YAML")
    if framework.host_link is None:
        raise MissingField(f"framework {framework.id} states no host_link, which offload needs; add it to its YAML")
    return chip.host_bandwidth, framework.host_link


def kernel(job: Job, kind: str, dtype: str) -> Kernel:
    """Constants of a kernel kind for a dtype on the accelerator of the job, see `constants`, as training runs it.

    Narrow kernels are measured inside serving engines. Their products begin with a cast, and their attention writes a
    cache: kernels of their own in training, or none. So both start as in 16 bits, and a product with one scale per
    tensor, which block scales only add work to, reaches at least what that with block scales does.
    """
    chip = job.cluster.accelerator
    found = constants(chip, kind, dtype)
    if dtype in _WIDE or kind not in ("gemm", "attention", "attention_backward"):
        return found
    wide = constants(chip, kind, "bf16")
    if kind == "gemm" and dtype == "fp8" and (block := chip.kernels.get(kind, {}).get("fp8-block")):
        found = max(found, block, key=lambda one: one.compute)
    return replace(found, overhead=min(found.overhead, wide.overhead), half=min(found.half, wide.half))


def constants(chip: Accelerator, kind: str, dtype: str) -> Kernel:
    """Constants of a kernel kind for a dtype: its own, else the nearest format's of the same kind."""
    table = chip.kernels.get(kind) or chip.kernels.get(_RELATED.get(kind, kind), {})
    for name in (
        dtype,
        *_FAMILY.get(dtype, ()),
        "fp8" if dtype in ("nvfp4", "mxfp4", "fp4") else dtype,
        "bf16",
        "fp16",
    ):
        if name in table:
            return table[name]
    raise Unsupported(f"accelerator {chip.id} has no constants for {kind} kernels in {dtype}; add them to its YAML")
