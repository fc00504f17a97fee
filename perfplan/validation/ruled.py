"""RedCoast's two sharding rules, priced matrix by matrix: does a model's training state fit on so many accelerators?

Rule one alternates the sharded dimension in consecutive dense layers; rule two shards queries, keys and values by their
output and the attention's output by its input, MLPs likewise. A dimension that the ranks do not divide stays whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from perfplan.catalog import Catalog
from perfplan.catalog.specs import Attention, Mlp, Model
from perfplan.errors import MissingField, Unsupported
from perfplan.formulas.sharding import ruled_activations, ruled_memory
from perfplan.units import parse
from perfplan.validation.reproduce import Prices

__all__ = ["Blocks", "ruled_prices", "ruled_state"]

STATE = 16.0  # bytes per parameter: weights, gradients and two moments in fp32
ELEMENT = 4.0  # bytes per activation in fp32


@dataclass(frozen=True)
class Blocks:
    """Dimensions of a transformer, encoder and decoder alike. layers: (how many, attentions in each); attention: width
    of all heads together, keys: of key and value heads; mlp: width of its middle; gated: three matrices instead of
    two; positions: rows of learned positions; tied: the head is the embedding."""

    hidden: int
    layers: tuple[tuple[int, int], ...]
    heads: int
    attention: int
    keys: int
    mlp: int
    gated: bool
    vocab: int
    tied: bool
    positions: int = 0


def _of_model(model: Model) -> Blocks:
    kind = model.kinds[0]
    a, f = kind.mixer, kind.ffn
    if len(model.kinds) > 1 or not isinstance(a, Attention) or not isinstance(f, Mlp):
        raise Unsupported(f"the sharding rules are priced for models of one dense kind of layer, not {model.id}")
    positions = model.max_position if model.positional == "learned" else 0
    return Blocks(model.hidden, ((len(model.layers), 1),), a.heads, a.heads * a.head_dim, a.kv_heads * a.head_dim,
                  f.width, f.gated, model.vocab, model.tied, positions)


def _of_numbers(inputs: Mapping[str, Any]) -> Blocks:
    """An encoder-decoder: every decoder layer has two attentions."""
    names = ("hidden", "encoder", "decoder", "heads", "head_dim", "mlp", "vocab")
    if missing := [name for name in names if name not in inputs]:
        raise MissingField(f"the dimensions of an encoder-decoder lack {', '.join(missing)}")
    width = inputs["heads"] * inputs["head_dim"]
    return Blocks(inputs["hidden"], ((inputs["encoder"], 1), (inputs["decoder"], 2)), inputs["heads"], width, width,
                  inputs["mlp"], bool(inputs.get("gated")), inputs["vocab"], bool(inputs.get("tied", True)),
                  inputs.get("positions", 0))


def _matrices(blocks: Blocks) -> Iterator[tuple[int, int, int]]:
    """(how many, parameters, length of the dimension that the rules shard) of every matrix."""
    h, a, k = blocks.hidden, blocks.attention, blocks.keys
    attentions, layers = sum(n * each for n, each in blocks.layers), sum(n for n, _ in blocks.layers)
    yield 2 * attentions, h * a, a  # queries by their output, the attention's output by its input
    yield 2 * attentions, h * k, k
    yield (3 if blocks.gated else 2) * layers, h * blocks.mlp, blocks.mlp
    yield 1 if blocks.tied else 2, blocks.vocab * h, blocks.vocab
    yield 1, blocks.positions * h, 1  # named by no rule


def ruled_state(blocks: Blocks, ranks: int) -> float:
    """Memory of weights, gradients and Adam's moments in fp32 on one of `ranks` accelerators [B]."""
    return float(sum(n * ruled_memory(size, width, ranks, STATE) for n, size, width in _matrices(blocks)))


def _activations(blocks: Blocks, ranks: int, seq_len: int) -> float:
    """Activations of one sequence, logits included [B]."""
    mlp = blocks.mlp * (2 if blocks.gated else 1)
    layers = sum(n * ruled_activations(seq_len, blocks.hidden, each * blocks.attention, mlp, each * blocks.heads,
                                       seq_len, ranks, ELEMENT) for n, each in blocks.layers)
    return float(layers + 2 * ruled_memory(seq_len * blocks.vocab, blocks.vocab, ranks, ELEMENT))


def _blocks(catalog: Catalog, inputs: Mapping[str, Any]) -> Blocks:
    return _of_model(catalog.model(str(inputs["model"]))) if "model" in inputs else _of_numbers(inputs)


def _state(catalog: Catalog, inputs: Mapping[str, Any]) -> float:
    """Training state of all ranks together, as if everything were sharded [B]."""
    return ruled_state(_blocks(catalog, inputs), 1)


def _fits(catalog: Catalog, inputs: Mapping[str, Any]) -> float:
    """1 if state and activations of one sequence fit on every rank, else 0."""
    blocks, ranks = _blocks(catalog, inputs), int(inputs["ranks"])
    needed = ruled_state(blocks, ranks) + _activations(blocks, ranks, int(inputs["seq_len"]))
    return float(needed <= parse(str(inputs["memory"]), "B"))


def ruled_prices(catalog: Catalog) -> Prices:
    """The quantities of this module by name, over one catalog."""
    named: dict[str, Callable[[Catalog, Mapping[str, Any]], float]] = {"ruled_state": _state, "ruled_fits": _fits}
    return {name: partial(price, catalog) for name, price in named.items()}
