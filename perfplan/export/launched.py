"""A launch line as the arguments of an estimate: layout, model, batch, precision and software."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from perfplan.catalog import Catalog
from perfplan.catalog.specs import Framework, Model, Moe, Recipe
from perfplan.errors import SpecError, Unsupported
from perfplan.export.architecture import ARCHITECTURE, model_facts, model_of
from perfplan.export.facts import stage_text
from perfplan.export.launchers import Facts, Launcher, launcher
from perfplan.export.line import Line, read_line
from perfplan.export.stages import stage_sizes
from perfplan.training.job import ORDERS
from perfplan.training.layout import Layout
from perfplan.training.stages import chunk_sizes

__all__ = ["Launched", "launched"]


@dataclass(frozen=True)
class Launched:
    """What a launch line asks for. layout, model, gpus, global_batch (0 = it does not say), seq_len (0), recipe,
    overlap, order, optimizer: of the job; caveats: what it says that is not priced so; line: what was read."""

    launcher: Launcher
    line: Line
    model: Model
    layout: Layout
    gpus: int
    global_batch: int
    seq_len: int
    recipe: Recipe
    overlap: dict[str, float]
    order: str
    optimizer: str
    attention: str
    graphs: tuple[str, ...]
    padded_experts: bool
    dropout: bool
    caveats: tuple[str, ...]

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of a job that the line settles; those that it leaves alone are absent. A line without a global
        batch runs one micro-batch per replica."""
        alone = self.layout.mbs * self.layout.dp
        said = {"gpus": self.gpus, "global_batch": self.global_batch or alone, "seq_len": self.seq_len,
                "precision": self.recipe.id, "order": self.order, "optimizer": self.optimizer,
                "attention": self.attention, "cuda_graphs": self.graphs, "padded_experts": self.padded_experts}
        return {name: value for name, value in said.items() if value}

    def framework(self, plain: Framework) -> Framework:
        """The framework with the dropout that the line asks for."""
        return replace(plain, dropout=self.dropout)


def launched(catalog: Catalog, name: str, text: str, *, model: str = "", gpus: int | None = None) -> Launched:
    """Read the launch line `text` of the framework `name`. model: catalog entry that its flags must agree with, "" =
    the model is made from the flags; gpus: accelerators, where the line does not start them itself."""
    table = launcher(catalog, name)
    if table.style != "flags":
        raise Unsupported(f"launch lines of {table.id} are not read, only written; give --from megatron-lm")
    line = read_line(table, text)
    facts = line.facts
    _contradictions(facts, table)
    spec = _model(catalog, table, line, model)
    world = _world(facts, table, gpus)
    layout, remarks = _layout(facts, table, spec, world)
    recipe = _recipe(catalog, facts, table)
    remarks += _experts(facts, table, spec)
    unread = [f"{flag} of the launch line: {says}" for flag, says in line.unmodelled]
    unread += [f"{flag} of the launch line was not understood and is ignored" for flag, _ in line.unknown]
    unread += [f"{flag} of the launch line: the architecture is that of {spec.id}" for flag in line.architecture]
    return Launched(
        table, line, spec, layout, world, _int(facts, "global_batch", 0), _int(facts, "seq_len", 0),
        recipe, _overlap(facts, layout), ORDERS[bool(facts.get("order_pp_inside"))], _optimizer(facts),
        "unfused" if facts.get("attention") in ("unfused", "local") else "", _words(facts, "graphs"),
        bool(facts.get("pad_experts") and "capacity" in facts),
        _share(facts, "hidden_dropout", table) > 0,
        (*remarks, *unread))


def _int(facts: Facts, name: str, otherwise: int) -> int:
    value = facts.get(name, otherwise)
    return value if isinstance(value, int) else otherwise


def _share(facts: Facts, name: str, table: Launcher, otherwise: str = "0") -> float:
    """A number from 0 to 1."""
    text = str(facts.get(name, table.default(name, otherwise)))
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        flag = next(row.name for row in table.flags if row.fact == name)
        raise SpecError(f"{flag} {text} of the {table.id} line is no number from 0 to 1; write one such as 0.1")
    return value


def _words(facts: Facts, name: str) -> tuple[str, ...]:
    value = facts.get(name, ())
    return value if isinstance(value, tuple) else ()


# ---------------------------------------------------------------- contradictions
_APART = (
    ("bf16", "fp16", "both dtypes"),
    ("chunk_layers", "vpp", "two ways to cut stages into chunks"),
    ("chunk_layers", "stage_layers", "two ways to cut stages into chunks"),
    ("vpp", "stage_layers", "two ways to cut stages into chunks"),
    ("reduce_bf16", "reduce_fp32", "gradients reduced in both formats"),
    ("torch_fsdp", "shard_optimizer", "FSDP2 beside the distributed optimizer"),
    ("torch_fsdp", "megatron_fsdp", "two kinds of FSDP"),
    ("fp8_format", "fp4_format", "two narrow formats"),
)
_NEEDS = (
    ("overlap_gather", "shard_optimizer"), ("overlap_gather", "overlap_reduce"), ("overlap_tp", "sp"),
    ("recompute_method", "recompute"), ("recompute_layers", "recompute"), ("recompute_modules", "recompute"),
    ("first_moment", "precise_optimizer"), ("second_moment", "precise_optimizer"),
    ("precise_optimizer", "shard_optimizer"), ("pad_experts", "capacity"), ("shard_strategy", "megatron_fsdp"),
    ("shard_instances", "shard_optimizer"), ("first_bf16", "ends_bf16"), ("last_bf16", "ends_bf16"),
)
_OF_MODEL = (
    ("kv_heads", "grouped"), ("kv_lora", "latent"), ("q_lora", "latent"), ("top_k", "experts"),
    ("expert_ffn", "experts"), ("shared_ffn", "experts"), ("moe_layers", "experts"), ("overlap_ep", "experts"),
    ("expert_groups", "experts"), ("group_limit", "expert_groups"),
)
"""Flags of the architecture that need another one, in a line that describes a whole model."""


def _contradictions(facts: Facts, table: Launcher) -> None:
    names = {row.fact: row.name for row in table.flags}
    for one, other, why in _APART:
        if one in facts and other in facts:
            raise SpecError(f"the {table.id} line has {names[one]} and {names[other]}, {why}; drop one of them")
    for one, other in (*_NEEDS, *(_OF_MODEL if "layers" in facts else ())):
        if one in facts and other not in facts and not (other == "shard_optimizer" and "megatron_fsdp" in facts):
            raise SpecError(f"{names[one]} of the {table.id} line does nothing without {names[other]}; add that or drop"
                            " it")
    if facts.get("recompute") == "full" and "recompute_method" not in facts:
        raise SpecError(f"full recompute of the {table.id} line needs {names['recompute_method']} uniform or block")
    if facts.get("recompute") == "modules" and "recompute_method" in facts:
        raise SpecError(f"selective recompute of the {table.id} line takes no {names['recompute_method']}; drop it")
    if _int(facts, "ep", 1) > 1 and "experts" not in facts and "layers" in facts:
        raise SpecError(f"the {table.id} line has {names['ep']} {facts['ep']}, but no {names['experts']}")


# ---------------------------------------------------------------- model
def _model(catalog: Catalog, table: Launcher, line: Line, model: str) -> Model:
    if not model:
        if line.architecture:
            raise Unsupported(
                f"{line.architecture[0]} of the {table.id} line makes a model that flags cannot describe here; name the"
                " MODEL, a catalog id or the path of a config.json, beside it")
        return model_of(line.facts, table, _int(line.facts, "tp", 1))
    spec = catalog.model(model)
    _agree(line.facts, spec, table)
    mtp = _int(line.facts, "mtp", 0)
    return spec if mtp == spec.mtp_layers else replace(spec, mtp_layers=mtp)


def _agree(facts: Facts, spec: Model, table: Launcher) -> None:
    """Raise if a flag says something else than the catalog's model."""
    own, names = model_facts(spec), {row.fact: row.name for row in table.flags}
    if own.get("beyond_flags"):
        own = {name: own[name] for name in ("layers", "hidden", "vocab")}
    skip = {"mtp", "max_position", "norm", "moe_layers"} | (set() if _dense(spec) else {"ffn"})
    switches = {"grouped", "gated", "untied", "latent"} if "layers" in facts else set()
    for name in ARCHITECTURE:
        given = facts.get(name, False if name in switches and "beyond_flags" not in own else None)
        if name in skip or given is None or (name in switches and "heads" not in own):
            continue
        have = own.get(name, _derived(name, own))
        if name == "positional" and given == "yarn":
            given = "rope"
        if have is not None and given != have:
            word = f"no {names[name]}" if given is False else names[name] if given is True else f"{names[name]} {given}"
            own_word = "does" if have is True else "does not" if have is False else f"has {have}"
            raise SpecError(f"the {table.id} line has {word}, but {spec.id} {own_word}; name the model that the line"
                            " trains, or none to take it from the flags")


def _dense(spec: Model) -> bool:
    return any(not isinstance(kind.ffn, Moe) for kind in spec.kinds)


def _derived(name: str, own: dict[str, Any]) -> Any:
    """Facts that a model leaves out because they follow from others."""
    if name == "kv_heads":
        return own.get("heads") if not own.get("latent") else None
    if name == "head_dim":
        return own["hidden"] // own["heads"] if "heads" in own and not own.get("latent") else None
    if name in ("grouped", "gated", "untied", "latent"):
        return False
    return 0 if name in ("experts", "shared_ffn", "q_lora") and "heads" in own else None


# ---------------------------------------------------------------- layout
def _world(facts: Facts, table: Launcher, gpus: int | None) -> int:
    if "per_node" in facts:
        started = _int(facts, "per_node", 1) * _int(facts, "nodes", 1)
        if gpus is not None and gpus != started:
            raise SpecError(f"the {table.id} line starts {started} ranks, but --gpus says {gpus}; drop one of them")
        return started
    if gpus is None:
        raise SpecError(f"the {table.id} line does not say on how many accelerators it runs; give --gpus, or the"
                        " torchrun words --nproc-per-node and --nnodes")
    return gpus


def _layout(facts: Facts, table: Launcher, spec: Model, world: int) -> tuple[Layout, tuple[str, ...]]:
    tp, pp, cp, ep = (_int(facts, name, 1) for name in ("tp", "pp", "cp", "ep"))
    if not tp * pp * cp or world % (tp * pp * cp):
        raise SpecError(f"tp*pp*cp = {tp}*{pp}*{cp} of the {table.id} line does not divide its {world} accelerators")
    if "mbs" not in facts:
        raise SpecError(f"the {table.id} line lacks --micro-batch-size; add it")
    routed = spec.routed
    vpp, remarks = _vpp(facts, table, spec, pp)
    dp = world // (tp * pp * cp)
    kinds = set(_words(facts, "cp_kind")) or {"ring"}
    if len(kinds) > 1:
        raise Unsupported(f"--cp-comm-type of the {table.id} line differs by layer, which is not modelled; give one"
                          " word")
    widths = _widths(facts, dp * cp, table)
    layout = Layout(
        tp=tp, sp=int(bool(facts.get("sp")) and tp > 1), cp=cp, pp=pp, vpp=vpp, ep=ep,
        etp=_int(facts, "etp", tp) if routed else 1, dp=dp, mbs=_int(facts, "mbs", 1), shard_weights=widths[0],
        shard_gradients=widths[1], shard_optimizer=widths[2], cp_kind=kinds.pop() if cp > 1 else "ring",
        recompute=_recompute(facts), offload=(("optim", 0),) if facts.get("offload_optimizer") else ())
    if _int(facts, "recompute_layers", 1) > 1 and facts.get("recompute_method") == "uniform":
        remarks += ("recompute of several layers at a time is priced as of one, which keeps more inputs and less else",)
    if facts.get("offload_optimizer") and _share(facts, "offload_fraction", table, "1") < 1:
        remarks += ("part of the optimizer state on the host is priced as all of it",)
    return Layout.parse(str(layout)), remarks


def _vpp(facts: Facts, table: Launcher, spec: Model, pp: int) -> tuple[int, tuple[str, ...]]:
    layers = len(spec.layers)
    if "stage_layers" in facts:
        sizes = stage_sizes(str(facts["stage_layers"]), layers)
        if len(sizes) % pp:
            raise SpecError(f"the {len(sizes)} chunks of --pipeline-model-parallel-layout are no multiple of pp = {pp}")
        priced = chunk_sizes(layers, len(sizes), spec.mtp_layers)
        same = sizes == priced
        own = "" if same else f"; perfplan prices {stage_text(priced or (), spec.mtp_layers)}"
        return len(sizes) // pp, () if same else (f"--pipeline-model-parallel-layout is not priced as given{own}",)
    if "chunk_layers" in facts:
        each = _int(facts, "chunk_layers", 1)
        if not each or layers % (each * pp):
            raise SpecError(f"{each} layers per virtual stage of the {table.id} line times pp = {pp} do not divide the"
                            f" {layers} layers")
        return layers // (each * pp), ()
    return _int(facts, "vpp", 1), ()


def _widths(facts: Facts, ranks: int, table: Launcher) -> tuple[int, ...]:
    instances = _int(facts, "shard_instances", 1)
    if not instances or ranks % instances:
        raise SpecError(f"--num-distributed-optimizer-instances {instances} of the {table.id} line does not divide the"
                        f" {ranks} replicas")
    width = ranks // instances if instances > 1 else 0
    if facts.get("torch_fsdp"):
        return (1, 0, 0) if facts.get("torch_fsdp_keep") else (0, 0, 0)
    if facts.get("megatron_fsdp"):
        word = str(facts.get("shard_strategy", "zero0"))
        stage = int(word.removeprefix("zero"))
    else:
        stage = int(bool(facts.get("shard_optimizer")))
    return tuple(width if 3 - place <= stage else 1 for place in range(3))


def _recompute(facts: Facts) -> tuple[str, ...]:
    if facts.get("recompute") == "full":
        some = _int(facts, "recompute_layers", 1)
        return (f"full:{some}",) if facts.get("recompute_method") == "block" else ("full",)
    if facts.get("recompute") == "modules" or facts.get("recompute_attention"):
        return tuple(sorted(_words(facts, "recompute_modules"))) or ("core_attn",)
    return ()


def _experts(facts: Facts, table: Launcher, spec: Model) -> tuple[str, ...]:
    """What the experts of a line do that is priced otherwise."""
    if not spec.routed:
        return ()
    word = facts.get("dispatcher", table.default("dispatcher", "alltoall"))
    remarks = {f"tokens go to experts by {word}; priced as the cluster's all-to-all": word != "alltoall",
               "experts run one by one without --moe-grouped-gemm; priced as one grouped product":
                   "grouped_gemm" not in facts}
    return tuple(text for text, present in remarks.items() if present)


# ---------------------------------------------------------------- software
def _overlap(facts: Facts, layout: Layout) -> dict[str, float]:
    """Axes whose overlap the line leaves off; the others have the framework's fraction."""
    off: dict[str, float] = {}
    sharded = (layout.shard_optimizer != 1) and layout.shard_gradients == 1
    if not facts.get("overlap_reduce") or (sharded and not facts.get("overlap_gather")):
        off |= {"dp": 0.0} if not facts.get("torch_fsdp") else {}
    if facts.get("megatron_fsdp") and not facts.get("overlap_gather"):
        off["fsdp"] = 0.0
    if not facts.get("overlap_tp"):
        off["tp"] = 0.0
    if "overlap_pp" in facts:
        off["pp"] = 0.0
    if layout.ep > 1 and not facts.get("overlap_ep"):
        off["ep"] = 0.0
    return off


def _optimizer(facts: Facts) -> str:
    word = str(facts.get("optimizer", "adam")).removesuffix("-sharded")
    return "" if word == "adam" else word


def _recipe(catalog: Catalog, facts: Facts, table: Launcher) -> Recipe:
    """The catalog's recipe of the line's formats, with the line's own weights, gradients and moments."""
    base = "bf16" if facts.get("bf16") else "fp16" if facts.get("fp16") else "fp32"
    narrow = ""
    if "fp8_format" in facts:
        narrow = str(facts.get("fp8_recipe", table.default("fp8_recipe", "fp8")))
    elif "fp4_format" in facts:
        narrow = str(facts.get("fp4_recipe", "nvfp4"))
    if base == "fp32" and narrow:
        raise SpecError(f"the {table.id} line has {narrow} without --bf16; add it")
    recipe = catalog.recipe(narrow or base)
    half = base == "fp16" and not facts.get("reduce_fp32")  # Megatron reduces fp16 gradients as they are unless told
    size = 2.0 if facts.get("reduce_bf16") or half else 4.0
    if recipe.wire["dp_reduce"] != size:
        recipe = replace(recipe, gradient=size, wire={**recipe.wire, "dp_reduce": size})
    if narrow and recipe.weight < 2 and not facts.get("fp8_weights"):
        recipe = replace(recipe, weight=2.0, transposed=recipe.weight + recipe.transposed,
                         wire={**recipe.wire, "dp_gather": 2.0})
    recipe = replace(recipe, moments=sum(_moment(facts, name) for name in ("first_moment", "second_moment")))
    ends = (_int(facts, "first_bf16", 1), _int(facts, "last_bf16", 1)) if facts.get("ends_bf16") else (0, 0)
    return replace(recipe, bf16_layers=ends)


def _moment(facts: Facts, name: str) -> float:
    return {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0}[str(facts.get(name, "fp32"))]
