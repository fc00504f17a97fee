"""A model as neutral facts and back: the architecture flags of a launch line."""

from __future__ import annotations

import ast
import re
from dataclasses import replace

from perfplan.catalog.models import MOST_LAYERS, check_model
from perfplan.catalog.specs import Attention, LayerKind, Mlp, Model, Moe
from perfplan.errors import OutOfRange, SpecError, Unsupported
from perfplan.export.launchers import Fact, Facts, Launcher

__all__ = ["ARCHITECTURE", "layer_pattern", "model_facts", "model_of"]

ARCHITECTURE = ("layers", "hidden", "ffn", "heads", "grouped", "kv_heads", "head_dim", "gated", "vocab", "untied",
                "max_position", "positional", "norm", "latent", "q_lora", "kv_lora", "nope_dim", "rope_dim",
                "v_head_dim", "experts", "top_k", "expert_groups", "group_limit", "expert_ffn", "shared_ffn",
                "moe_layers", "mtp")


# ---------------------------------------------------------------- model -> facts
def model_facts(model: Model) -> dict[str, Fact]:
    """The architecture of a model; `beyond_flags` is among the facts where flags cannot say all of it."""
    facts: dict[str, Fact] = {"layers": len(model.layers), "hidden": model.hidden, "vocab": model.vocab,
                              "norm": model.norm, "positional": model.positional}
    facts |= {"untied": True} if not model.tied else {}
    facts |= {"max_position": model.max_position} if model.max_position else {}
    facts |= {"mtp": model.mtp_layers} if model.mtp_layers else {}
    if (plain := _plain(model)) is None:
        return {**facts, "beyond_flags": True}
    mixer, dense, routed = plain
    facts |= _attention_facts(mixer, model.hidden)
    gated = {part.gated for part in (dense, routed) if part is not None}
    facts |= {"ffn": dense.width if dense else routed.width if routed else 0}
    facts |= {"gated": True} if True in gated else {}
    biased = any(part.bias for part in (dense,) if part is not None) or mixer.output_bias
    facts |= {} if biased else {"unbiased": True}
    facts |= {name: True for name, on in (("qkv_bias", mixer.bias), ("qk_norm", mixer.qk_norm)) if on}
    if routed is not None:
        facts |= {"grouped_gemm": True, "dispatcher": "alltoall"}
        facts |= {"experts": routed.experts, "top_k": routed.top_k, "expert_ffn": routed.width}
        facts |= {"shared_ffn": routed.shared_width} if routed.shared_width else {}
        facts |= {"expert_groups": routed.groups} if routed.groups > 1 else {}
        facts |= {"group_limit": routed.group_limit} if routed.group_limit else {}
        facts |= _mixed(model)
    return facts


def _plain(model: Model) -> tuple[Attention, Mlp | None, Moe | None] | None:
    """The one mixer, MLP and MoE of a model whose layers are all attention and one of the two; else None."""
    mixers = {kind.mixer for kind in model.kinds}
    parts = {kind.ffn for kind in model.kinds}
    dense, routed = [p for p in parts if isinstance(p, Mlp)], [p for p in parts if isinstance(p, Moe)]
    mixer = next(iter(mixers))
    odd = any(kind.parallel or kind.post_norm or kind.ffn is None for kind in model.kinds) or model.residual_streams > 1
    if len(mixers) > 1 or not isinstance(mixer, Attention) or len(dense) > 1 or len(routed) > 1 or odd:
        return None
    special = mixer.window or mixer.output_gate or mixer.index_topk or mixer.kv_shared or mixer.compression
    if special or mixer.o_lora_rank or (routed and routed[0].latent):
        return None
    return mixer, dense[0] if dense else None, routed[0] if routed else None


def _attention_facts(mixer: Attention, hidden: int) -> dict[str, Fact]:
    facts: dict[str, Fact] = {"heads": mixer.heads}
    if mixer.kv_lora_rank:
        facts |= {"latent": True, "kv_lora": mixer.kv_lora_rank, "nope_dim": mixer.qk_nope_head_dim,
                  "rope_dim": mixer.qk_rope_head_dim, "v_head_dim": mixer.v_head_dim}
        return facts | ({"q_lora": mixer.q_lora_rank} if mixer.q_lora_rank else {})
    if mixer.kv_heads != mixer.heads:
        facts |= {"grouped": True, "kv_heads": mixer.kv_heads}
    return facts | ({"head_dim": mixer.head_dim} if mixer.head_dim * mixer.heads != hidden else {})


def _mixed(model: Model) -> dict[str, Fact]:
    routed = [isinstance(model.kinds[kind].ffn, Moe) for kind in model.layers]
    if all(routed):
        return {}
    runs: list[list[int]] = []
    for each in routed:
        if runs and runs[-1][0] == each:
            runs[-1][1] += 1
        else:
            runs.append([int(each), 1])
    return {"moe_layers": f"({'+'.join(f'[{kind}]*{count}' for kind, count in runs)})"}


# ---------------------------------------------------------------- facts -> model
def layer_pattern(text: str, layers: int) -> tuple[bool, ...]:
    """Which layers are MoE, by --moe-layer-freq: N = every N-th from the first on, or a Python list of 0 and 1.

    >>> layer_pattern("2", 4)
    (True, False, True, False)
    >>> layer_pattern("([0]*1+[1]*2)", 3)
    (False, True, True)
    """
    if text.isdecimal() and int(text):
        return tuple(index % int(text) == 0 for index in range(layers))
    if not re.fullmatch(r"[\[\]()0-9,+* ]{1,2000}", text):
        raise OutOfRange(f"moe layer frequency {text!r} is neither a number nor a list such as ([0]*3+[1]*58)")
    try:
        found = _listed(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise OutOfRange(f"moe layer frequency {text!r} is no list such as ([0]*3+[1]*58)") from None
    if len(found) != layers:
        raise SpecError(f"moe layer frequency {text!r} has {len(found)} entries, but the model has {layers} layers")
    return tuple(bool(each) for each in found)


def _listed(node: ast.expr) -> list[int]:
    """A list made of list literals, + and * only."""
    match node:
        case ast.List(elts=items):
            return [int(item.value) for item in items if isinstance(item, ast.Constant)]  # type: ignore[arg-type]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _listed(left) + _listed(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=ast.Constant(value=int(count))) if count <= 10_000:
            return _listed(left) * count
    raise ValueError


def model_of(facts: Facts, table: Launcher, tp: int) -> Model:
    """The model that the architecture flags of a line describe; the vocabulary is padded as the framework pads it."""
    missing = [name for name in ("layers", "hidden", "heads", "vocab") if name not in facts]
    if missing:
        names = ", ".join(each.name for each in table.flags if each.fact in missing)
        raise SpecError(f"the {table.id} line describes no whole model, it lacks {names}; add them or name a MODEL")
    hidden, layers = _number(facts, "hidden"), _number(facts, "layers")
    if layers > MOST_LAYERS or _number(facts, "mtp") > 16:
        raise OutOfRange(f"the {table.id} line has {layers} layers and {_number(facts, 'mtp')} prediction modules; a"
                         f" model has at most {MOST_LAYERS} and 16")
    gated, biased = bool(facts.get("gated")), not facts.get("unbiased")
    mixer = replace(_mixer(facts, table, hidden), bias=biased or bool(facts.get("qkv_bias")), output_bias=biased,
                    qk_norm=bool(facts.get("qk_norm")))
    dense = Mlp(_number(facts, "ffn", 4 * hidden), gated, biased)
    kinds: tuple[LayerKind, ...] = (LayerKind(mixer, dense),)
    order = (0,) * layers
    if "experts" in facts:
        width = _number(facts, "expert_ffn", dense.width)
        top_k = _number(facts, "top_k", int(table.default("top_k", 1)))
        moe = Moe(_number(facts, "experts"), top_k, width, gated, _number(facts, "shared_ffn"),
                  groups=_number(facts, "expert_groups", 1), group_limit=_number(facts, "group_limit"))
        routed = layer_pattern(str(facts.get("moe_layers", "1")), layers)
        present = sorted({*routed})
        kinds = tuple(LayerKind(mixer, moe if each else dense) for each in present)
        order = tuple(present.index(each) for each in routed)
    model = Model(
        id=f"{table.id}-line", name=f"the model of the {table.id} line", hidden=hidden,
        vocab=padded_vocabulary(facts, table, tp), tied=not facts.get("untied"), kinds=kinds, layers=order,
        max_position=_number(facts, "max_position", 0), norm=str(facts.get("norm", table.default("norm", "layer"))),
        positional=_positional(facts, table), mtp_layers=_number(facts, "mtp", 0),
        sources={"dimensions": f"flags of {table.name}"})
    return check_model(model, f"the {table.id} line")


def _number(facts: Facts, name: str, otherwise: int = 0) -> int:
    value = facts.get(name, otherwise)
    return int(value) if isinstance(value, int | str) else otherwise


def padded_vocabulary(facts: Facts, table: Launcher, tp: int) -> int:
    """The vocabulary rounded up to a multiple of the divisor times tp."""
    multiple = _number(facts, "vocab_divisor", int(table.default("vocab_divisor", 1))) * tp
    return -(-_number(facts, "vocab") // multiple) * multiple


def _positional(facts: Facts, table: Launcher) -> str:
    word = "rope" if facts.get("rope") else str(facts.get("positional", table.default("positional", "rope")))
    return {"yarn": "rope"}.get(word, word)


def _mixer(facts: Facts, table: Launcher, hidden: int) -> Attention:
    heads = _number(facts, "heads")
    if not heads or ("head_dim" not in facts and not facts.get("latent") and hidden % heads):
        raise SpecError(f"{heads} attention heads do not divide the hidden size {hidden} of the {table.id} line")
    if facts.get("latent"):
        if "kv_lora" not in facts:
            raise SpecError(f"latent attention of the {table.id} line needs --kv-lora-rank; add it or name a MODEL")
        kv, nope, rope, value = (_number(facts, name, int(table.default(name, 0)))
                                 for name in ("kv_lora", "nope_dim", "rope_dim", "v_head_dim"))
        return Attention(heads, heads, nope + rope, value, q_lora_rank=_number(facts, "q_lora"), kv_lora_rank=kv,
                         qk_nope_head_dim=nope, qk_rope_head_dim=rope)
    if "kv_heads" in facts and not facts.get("grouped"):
        raise SpecError(f"the {table.id} line gives query groups without --group-query-attention, which ignores them")
    kv_heads = _number(facts, "kv_heads", 1) if facts.get("grouped") else heads
    width = _number(facts, "head_dim", hidden // heads)
    if not width:
        raise Unsupported(f"the {table.id} line has heads of no width: hidden size {hidden}, {heads} heads")
    return Attention(heads, kv_heads, width, width)
