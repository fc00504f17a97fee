"""The model of a measured row: the catalog's, the row's inline dimensions, or the catalog's with those put in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from perfplan.catalog.specs import Attention, LayerKind, Mlp, Model, Moe
from perfplan.errors import UnknownName, Unsupported
from perfplan.validation.assumptions import assumed
from perfplan.validation.rows import Row

__all__ = ["Assumed", "inline_model", "row_model"]

_NEEDED = ("hidden_size", "layers", "attention_heads")


@dataclass
class Assumed:
    """What was assumed about one row, in the order of use."""

    words: list[str] = field(default_factory=list)

    def add(self, words: str) -> None:
        """Note one assumption."""
        self.words.append(words)


def row_model(row: Row, lookup: Callable[[str], Model], vocabulary: int, notes: Assumed) -> Model:
    """The model of `row`: dimensions that the row states win over the catalog's.

    `vocabulary` [entries] is assumed where neither states one.
    """
    known = _known(row, lookup)
    if known is None:
        return inline_model(row, vocabulary, notes)
    differing = _differences(row, known)
    if not differing:
        return known
    if len(known.kinds) > 1 or row.attention_kind not in ("", "mha", "gqa") or not _complete(row):
        notes.add(f"catalog dimensions kept, the row differs in {', '.join(differing)}")
        return known
    notes.add(f"dimensions of the row, the catalog differs in {', '.join(differing)}")
    kind = known.kinds[0]
    built = inline_model(row, known.vocab, notes)
    kinds = tuple(replace(k, parallel=kind.parallel) for k in built.kinds)
    return replace(built, kinds=kinds, norm=known.norm, positional=known.positional, max_position=known.max_position)


def _known(row: Row, lookup: Callable[[str], Model]) -> Model | None:
    if not row.model_id:
        return None
    try:
        return lookup(row.model_id)
    except UnknownName:
        if _complete(row):
            return None
        raise


def _complete(row: Row) -> bool:
    return all(getattr(row, name) for name in _NEEDED)


def _differences(row: Row, model: Model) -> list[str]:
    """Names of the row's dimensions that the catalog has otherwise."""
    pairs: dict[str, tuple[int | None, int | None]] = {
        "hidden_size": (row.hidden_size, model.hidden),
        "layers": (row.layers, len(model.layers)),
        "vocab_size": (row.vocab_size, model.vocab),
    }
    attention = next((kind.mixer for kind in model.kinds if isinstance(kind.mixer, Attention)), None)
    if attention is not None:
        pairs |= {
            "attention_heads": (row.attention_heads, attention.heads),
            "kv_heads": (row.kv_heads, attention.kv_heads),
            "head_dim": (row.head_dim, attention.head_dim),
        }
    mlp = next((kind.ffn for kind in model.kinds if isinstance(kind.ffn, Mlp)), None)
    if mlp is not None:
        pairs["ffn_hidden_size"] = (row.ffn_hidden_size, mlp.width)
    moe = next((kind.ffn for kind in model.kinds if isinstance(kind.ffn, Moe)), None)
    if moe is not None:
        pairs |= {
            "experts": (row.experts, moe.experts),
            "experts_per_token": (row.experts_per_token, moe.top_k),
            "moe_ffn_hidden_size": (row.moe_ffn_hidden_size, moe.width),
        }
    return [name for name, (mine, theirs) in pairs.items() if mine and mine != theirs]


def inline_model(row: Row, vocabulary: int, notes: Assumed) -> Model:
    """A model from the dimensions that the row states; `vocabulary` [entries] where it states none."""
    if row.attention_kind not in ("", "mha", "gqa"):
        raise Unsupported(f"{row.attention_kind} attention without a catalog model")
    for name in _NEEDED:
        if not getattr(row, name):
            raise Unsupported(f"{name} not stated and the model is not in the catalog")
    hidden, heads, layers = row.hidden_size or 0, row.attention_heads or 0, row.layers or 0
    vocabulary = vocabulary if (row.tp or 1) > 1 else min(vocabulary, assumed("unpadded_vocabulary"))
    if row.vocab_size is None:
        notes.add(f"vocabulary {vocabulary}")
    tied = not row.gated_mlp if row.tied_embeddings is None else bool(row.tied_embeddings)
    if row.tied_embeddings is None:
        notes.add(f"embeddings {'tied' if tied else 'not tied'}")
    head_dim = row.head_dim or hidden // heads
    attention = Attention(heads, row.kv_heads or heads, head_dim, head_dim)
    dense, moe = _feed_forward(row, notes)
    first = layers if moe is None else (row.first_dense_layers or 0)
    if first and dense is None:
        raise Unsupported("ffn_hidden_size not stated")
    present = [LayerKind(attention, part) for part in (dense if first else None, moe) if part is not None]
    order = (0,) * layers if len(present) == 1 else (0,) * first + (1,) * (layers - first)
    return Model(
        id=row.model_id or f"{row.source}-h{hidden}-l{layers}",
        name=row.model_id or "inline",
        hidden=hidden,
        vocab=row.vocab_size or vocabulary,
        tied=tied,
        kinds=tuple(present),
        layers=order,
        positional="rope" if row.gated_mlp else "learned",  # as GPT, whose MLPs are plain
    )


def _feed_forward(row: Row, notes: Assumed) -> tuple[Mlp | None, Moe | None]:
    gated = bool(row.gated_mlp)
    if row.gated_mlp is None:
        notes.add("plain MLP of two matrices")
    dense = Mlp(row.ffn_hidden_size, gated) if row.ffn_hidden_size else None
    if not row.experts:
        return dense, None
    if not row.experts_per_token or not row.moe_ffn_hidden_size:
        raise Unsupported("experts_per_token or moe_ffn_hidden_size not stated")
    shared = (row.shared_experts or 0) * row.moe_ffn_hidden_size
    return dense, Moe(row.experts, row.experts_per_token, row.moe_ffn_hidden_size, gated, shared)
