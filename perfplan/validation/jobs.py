"""From a measured row to a job and its candidate layouts; whatever the row leaves open becomes a named assumption.

Nothing here looks at where a row comes from: software, kernels and precision follow from what the row says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Protocol

from perfplan.catalog.specs import Cluster, Framework, Library, Model, Recipe
from perfplan.errors import MissingField, Unsupported
from perfplan.training.job import GRAPHS, METHODS, Job
from perfplan.training.layout import MODULES, Layout
from perfplan.validation.assumptions import assumed
from perfplan.validation.clusters import fitted_cluster
from perfplan.validation.dimensions import Assumed, row_model
from perfplan.validation.rows import METRICS, Row

if TYPE_CHECKING:
    from perfplan.catalog.specs import Accelerator

__all__ = ["Case", "CaseBuilder", "Source"]

_GIVEN = ("n_accel", "seq_len", "global_batch", "tp", "pp", "cp", "precision", "hardware_id", "sharding")

_REMAT = ("maxtext", "fsdp")  # software that recomputes whole layers where nobody asks; Megatron's recipes do not
_OFFLOADED = {"decoder_layer_input": "input", "query_proj": "qkv", "out_proj": "out"}  # MaxText's names of tensors
NODE = 8  # accelerators: larger fast domains span nodes
_GRAPHS = re.compile(r"(?i)cuda[_ ]graph[= ]((?:1\b|\w+/|(?=[a-z_]+\+))[^;|]*)")


class Source(Protocol):
    """What is needed of a catalog."""

    def accelerator(self, id: str, /) -> Accelerator:
        """The accelerator called `id`."""

    def cluster(self, id: str, /) -> Cluster:
        """The cluster called `id`."""

    def model(self, id: str, /) -> Model:
        """The model called `id`."""

    def recipe(self, id: str, /) -> Recipe:
        """The precision recipe called `id`."""

    def framework(self, id: str, /) -> Framework:
        """The framework called `id`."""

    def library(self, id: str, /) -> Library:
        """The communication library called `id`."""

    def ids(self, kind: str, /) -> list[str]:
        """All ids of a kind."""


@dataclass(frozen=True)
class Case:
    """A row ready to be priced: the job, the layouts to try in order (the first that fits counts), what was assumed."""

    row: Row
    job: Job
    layouts: tuple[Layout, ...]
    assumptions: tuple[str, ...]


@dataclass(frozen=True)
class CaseBuilder:
    """Builds cases from rows out of one catalog, each spec looked up once. vocabulary: assumed where a row has none."""

    catalog: Source
    vocabulary: int

    @cached_property
    def _recipes(self) -> list[str]:
        return self.catalog.ids("recipe")

    @cached_property
    def _lookups(self) -> Lookups:
        return Lookups(self.catalog)

    def case(self, row: Row) -> Case:
        """The case of `row`; raises `PerfplanError` with the reason if the row cannot be priced."""
        _check_scope(row)
        notes = Assumed()
        get = self._lookups
        model = row_model(row, get.model, self.vocabulary, notes)
        cluster = self._dispatching(fitted_cluster(get.default_cluster(row.hardware_id), row, notes), row)
        framework = get.framework(_framework(row, cluster, notes))
        attention = _attention(row, notes)
        job = Job(
            model,
            cluster,
            row.n_accel or 0,
            row.global_batch or 0,
            row.seq_len or 0,
            _attention_format(row, get.recipe(self._recipe(row, notes))),
            framework,
            attention,
            overlap=_overlap(row, framework, notes),
            method=_method(row, notes),
            packed=_packed(row, notes),
            graphs=_graphs(row),
            padded_experts="tokendrop" in row.note,
        )
        layouts = _layouts(row, framework, bool(row.experts), notes)
        return Case(row, job, layouts, tuple(notes.words))

    def _dispatching(self, cluster: Cluster, row: Row) -> Cluster:
        """The cluster with the library that the row sends tokens to experts with, if constants are known for it."""
        if not re.search(r"moe_dispatcher=(deepep|hybridep)", row.overlap):
            return cluster
        library, chip = self._lookups.library(_dispatcher(cluster.levels[0].size)), cluster.accelerator.id
        known = chip in library.kernels or chip in library.borrow
        return replace(cluster, dispatcher=library) if known else cluster

    def _recipe(self, row: Row, notes: Assumed) -> str:
        """The recipe of the row's precision; the variant with 16-bit state if the row says so."""
        pure = f"{row.precision}-pure"
        if pure in self._recipes and (row.params_dtype == row.precision or "mp=PURE" in row.note):
            return pure
        if not row.params_dtype:
            notes.add(f"stored parameters as in recipe {row.precision}")
        return row.precision


class Lookups:
    """Catalog look-ups that remember what they gave out."""

    def __init__(self, catalog: Source) -> None:
        self.model = lru_cache(maxsize=None)(catalog.model)
        self.recipe = lru_cache(maxsize=None)(catalog.recipe)
        self.framework = lru_cache(maxsize=None)(catalog.framework)
        self.library = lru_cache(maxsize=None)(catalog.library)
        self._accelerator = lru_cache(maxsize=None)(catalog.accelerator)
        self._cluster = lru_cache(maxsize=None)(catalog.cluster)

    def default_cluster(self, accelerator: str) -> Cluster:
        """The default cluster of an accelerator."""
        chip = self._accelerator(accelerator)
        if not chip.default_cluster:
            raise MissingField(f"accelerator {accelerator} has no default cluster")
        return self._cluster(chip.default_cluster)


def _check_scope(row: Row) -> None:
    """Raise the reason why a row lies outside what the training model covers."""
    if row.metric not in METRICS:
        raise Unsupported(f"metric {row.metric or 'not stated'} is none of {', '.join(sorted(METRICS))}")
    if not row.stated:
        raise Unsupported("value not stated")
    if row.method not in METHODS:
        raise Unsupported(f"method {row.method or 'not stated'} is not modelled yet")
    for name in _offloads(row) - {"none", "activations", "optimizer_cpu"}:
        raise Unsupported(f"offload of {name.replace('_', ' ')} is not modelled yet")
    if row.confidence == "recalled":
        raise Unsupported("recalled figure, listed and not scored")
    for name in _GIVEN:
        if getattr(row, name) in (None, ""):
            raise Unsupported(f"{name} not stated")


def _dispatcher(domain: int) -> str:
    """The library whose constants stand for DeepEP and HybridEP: one copy per rank, between nodes one per node."""
    return "nvlink-one-sided" if domain > NODE else "deepep-v1"


def _framework(row: Row, cluster: Cluster, notes: Assumed) -> str:
    """The software, from the hardware, the sharding, the attention kernel and the CUDA graphs that the row states."""
    if cluster.accelerator.vendor.lower() == "google":
        name = "maxtext"
    elif row.sharding in ("zero3", "hsdp") and row.tp == row.pp == 1 and not row.epoch:
        name = "fsdp"
    elif row.attention_kernel == "unfused" or (row.attention_kernel == "unknown" and row.precision == "fp16"):
        name = "megatron-2021"
    else:
        name = "mlperf-nemo" if "MLPerf" in row.epoch else "megatron-core"
    notes.add(f"framework {name}")
    return name


def _method(row: Row, notes: Assumed) -> str:
    if row.method == "lora":
        notes.add("adapters of rank 16 on the attention projections")
    return row.method


def _attention_format(row: Row, recipe: Recipe) -> Recipe:
    """The recipe with core attention in FP8 where the row says so."""
    eight = recipe.gemm["forward"] not in ("bf16", "fp16") and re.search(r"FP8_DPA=(?:1|True)\b", row.note)
    return replace(recipe, attention="fp8") if eight else recipe


def _packed(row: Row, notes: Assumed) -> int:
    """Mean tokens of the documents in a packed sequence, 0 = the sequence is one document."""
    if row.method == "pretrain" or "packed seq" in row.note or row.attention_kernel == "unfused":
        return 0
    tokens = min(assumed("document"), row.seq_len or 0)
    notes.add(f"documents of {tokens} tokens packed into a sequence")
    return tokens


def _graphs(row: Row) -> tuple[str, ...]:
    """What CUDA graphs capture, as the row's note says."""
    stated = _GRAPHS.search(row.note)
    if not stated:
        return ()
    if "full_iteration" in stated[1]:
        return ("full_iteration",)
    return tuple(scope for scope in GRAPHS if re.search(rf"\b{scope}\b", stated[1])) or GRAPHS[:-1]


def _attention(row: Row, notes: Assumed) -> str:
    if row.attention_kernel in ("flash", "unfused"):
        return row.attention_kernel
    kernel = "unfused" if row.precision == "fp16" else "flash"
    notes.add(f"attention kernel {kernel}")
    return kernel


def _overlap(row: Row, framework: Framework, notes: Assumed) -> dict[str, float]:
    """Overrides of the framework's overlap from the row's own flags."""
    flags = dict(part.split("=", 1) for part in row.overlap.split(";") if "=" in part)
    axes = {"tp": flags.get("tp_overlap"), "ep": flags.get("ep_overlap"), "dp": flags.get("grad_reduce_overlap")}
    choice: dict[str, float] = {}
    for axis, flag in axes.items():
        if flag == "0":
            choice[axis] = 0.0
        elif flag is not None:
            choice[axis] = framework.overlap.get(axis, 0.0) or 1.0
    if not row.overlap:
        notes.add("overlap as the framework's default")
    return choice


def _divided(whole: int, parts: int, what: str) -> int:
    if parts < 1 or whole % parts:
        raise Unsupported(f"{what}: {parts} does not divide {whole}")
    return whole // parts


def _sequence_parallel(row: Row, framework: Framework, notes: Assumed) -> int:
    if (row.tp or 1) == 1:  # software ignores the switch where no tensor-parallel ranks share tokens
        return 0
    if row.sp is not None:
        return row.sp
    overlaps = "tp_overlap=1" in row.overlap  # Transformer Engine overlaps gathers and scatters, which are sp's
    choice = int(framework.id == "megatron-core" or bool(row.experts) or overlaps)
    notes.add(f"sp {choice}")
    return choice


def _micro_batch(row: Row, dp: int, framework: Framework, notes: Assumed) -> int:
    per_rank = _divided(row.global_batch or 0, dp, "global batch over dp")
    if row.micro_batch:
        _divided(per_rank, row.micro_batch, "batch of a rank over the micro-batch")
        return row.micro_batch
    if per_rank > 1 and framework.id != "maxtext":
        raise Unsupported("micro_batch not stated")
    notes.add(f"micro-batch {per_rank}: no gradient accumulation")
    return per_rank


def _kept(row: Row, notes: Assumed) -> str:
    """The sharding of a row: under a pipeline frameworks gather weights once a step and reduce gradients once."""
    if (row.pp or 1) > 1 and row.sharding in ("zero2", "zero3", "hsdp"):
        notes.add(f"{row.sharding} under a pipeline priced as zero1: weights gathered, gradients reduced once a step")
        return "zero1"
    return row.sharding


def _sharding(row: Row, replicas: int, notes: Assumed) -> str:
    """The layout token; a degree that is not the whole group of replicas becomes explicit widths."""
    degree, sharding = row.sharding_degree, _kept(row, notes)
    if sharding == "hsdp":
        if degree is None:
            degree = _divided(replicas, replicas // min(row.accel_per_node or replicas, replicas), "ranks of a node")
            notes.add(f"sharding degree {degree}: within a node")
        return "zero3" if degree == replicas else f"hsdp{degree}"
    names = {"none": "zero0", "zero1": "zero1", "zero2": "zero2", "zero3": "zero3"}
    if sharding not in names:
        raise Unsupported(f"sharding {sharding} is not modelled yet")
    if sharding == "none" or degree is None or degree in (replicas, row.dp):
        return names[sharding]
    return {"zero1": f"w1-g1-o{degree}", "zero2": f"w1-g{degree}-o{degree}", "zero3": f"hsdp{degree}"}[sharding]


def _recompute(row: Row, framework: Framework, notes: Assumed) -> tuple[str, ...]:
    """Recompute settings to try in order; more than one if the row does not say."""
    if layers := re.fullmatch(r"(\d+) layers", row.recompute_modules if row.recompute == "full" else ""):
        return (f"full:{layers[1]}",)
    if row.recompute in ("none", "full"):
        return (row.recompute,)
    if row.offload and "all but" in row.recompute_modules:
        return ("full",)
    if row.recompute != "selective":
        notes.add("recompute: the least that fits")
        return ("none", "selective", "full") if framework.id in _REMAT else ("none", "selective")
    modules = row.recompute_modules.replace("+", ",").replace(" ", "")
    if modules and all(module in MODULES for module in modules.split(",")):
        return (modules,)
    if modules:
        notes.add(f"recompute of {row.recompute_modules} taken as selective")
    return ("selective",)


def _offloads(row: Row) -> set[str]:
    return set(re.findall(r"[\w-]+", row.offload))


def _offload(row: Row, notes: Assumed) -> str:
    """What `off=` says of the row: the state and the tensors or layers that it names, else all activations."""
    names = ["optim"] * ("optimizer_cpu" in _offloads(row))
    if "activations" in _offloads(row):
        names += _activations(row, notes)
    return ",".join(names) or "none"


def _activations(row: Row, notes: Assumed) -> list[str]:
    if layers := re.search(r"cpu_activation_offload_layers=(\d+)", row.note):
        return [f"acts:{layers[1]}"]
    words = f"{row.recompute_modules} {row.note}"
    names = [name for tensor, name in _OFFLOADED.items() if f"{tensor}=offload" in words]
    if names or "qkv_proj_offloaded" in words:
        return names or ["qkv"]
    notes.add("offload of all activations")
    return ["acts"]


def _layouts(row: Row, framework: Framework, moe: bool, notes: Assumed) -> tuple[Layout, ...]:
    tp, pp, cp, ep = row.tp or 1, row.pp or 1, row.cp or 1, row.ep or 1
    dp = _divided(row.n_accel or 0, tp * pp * cp, "layout does not multiply to the accelerators")
    if row.dp is not None and row.dp != dp:
        raise Unsupported("layout does not multiply to the accelerators")
    etp = row.etp or 1
    if moe and row.etp is None and tp > 1:
        notes.add("etp 1")
    if pp > 1 and row.vpp is None:
        notes.add("vpp 1")
    mbs = _micro_batch(row, dp, framework, notes)
    base = Layout.parse(
        f"tp{tp} sp{_sequence_parallel(row, framework, notes)} cp{cp} pp{pp} vpp{row.vpp or 1} ep{ep}"
        f" etp{etp} dp{dp} mbs{mbs} {_sharding(row, dp * cp, notes)} off={_offload(row, notes)}"
    )
    choices = _recompute(row, framework, notes)
    return tuple(replace(base, recompute=Layout.parse(f"rc={choice}").recompute) for choice in choices)
