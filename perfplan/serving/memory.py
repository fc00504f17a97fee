"""What a rank of a serving instance keeps: weights, cache and states, activations; and what that leaves room for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from perfplan.catalog.parameters import layer_parameters, norm_elements
from perfplan.catalog.specs import Attention, LayerKind, LinearAttention, Mamba, Mlp, Moe
from perfplan.errors import OutOfRange
from perfplan.formulas import serving as formulas
from perfplan.formulas.core import maximum, total
from perfplan.formulas.parameters import embedding_parameters, key_value_parameters
from perfplan.serving.attention import cached_width
from perfplan.serving.job import ServingJob
from perfplan.serving.layout import ServingLayout, legal

__all__ = ["Fit", "cache_per_token", "fit", "fits", "held_sequences", "pool", "sequence_cache",
           "shared_prefix", "smallest", "stage_kinds", "weights"]

STATE = 4.0  # bytes per element of recurrent states: engines keep them in fp32
INDEX = 1 + 4 / 128  # bytes per element of an indexer's keys: fp8 with a scale per 128 (DeepSeek-V3.2)
LEFT = {"norm", "bias", "vector", "router", "streams"}  # repeated on every rank of a tp group


# ---------------------------------------------------------------- weights
def _replicated(job: ServingJob, kind: LayerKind, tp: Any) -> Any:
    """Attention parameters of a layer that every rank of a tp group keeps whole, beyond its share [1]."""
    a, hidden = kind.mixer, job.model.hidden
    if not isinstance(a, Attention):
        return 0.0
    if a.kv_lora_rank:
        return hidden * (a.q_lora_rank + a.kv_lora_rank + a.qk_rope_head_dim) * (1 - 1 / tp)
    values = 0 if a.kv_shared else a.v_head_dim
    kept = key_value_parameters(hidden, formulas.kv_head_share(a.kv_heads, tp), a.head_dim, values)
    return kept - key_value_parameters(hidden, a.kv_heads, a.head_dim, values) / tp


def layer_weights(job: ServingJob, kind: LayerKind, layout: ServingLayout) -> Any:
    """Weights of one layer on one rank [B]."""
    parts: dict[str, Any] = {}
    for part, count in layer_parameters(job.model, kind).items():
        width = job.weights.of(part).weight
        split = 1 if part in LEFT else layout.width if part == "experts" else layout.tp
        kept = count / split + (_replicated(job, kind, layout.tp) if part == "attention" else 0.0)
        parts[part] = kept * width * (1 - job.host_experts if part == "experts" else 1.0)
    return total("M_layer", "B", parts)


def stage_kinds(job: ServingJob, pp: int) -> Iterator[tuple[int, ...]]:
    """Layers of each kind on each pipeline stage; the first stages take one more where they do not divide."""
    layers, kinds = job.model.layers, range(len(job.model.kinds))
    even, more = divmod(len(layers), pp)
    start = 0
    for stage in range(pp):
        held = layers[start : start + even + (stage < more)]
        start += len(held)
        yield tuple(held.count(kind) for kind in kinds)


def weights(job: ServingJob, layout: ServingLayout) -> float:
    """Weights of the fullest rank [B]."""
    each = [layer_weights(job, kind, layout) for kind in job.model.kinds]
    matrix = embedding_parameters(job.model.vocab, job.model.hidden) / layout.tp
    ends = (matrix * job.weights.embedding, 0.0 if job.model.tied and layout.pp == 1 else matrix * job.weights.head)
    sizes = [sum(n * size for n, size in zip(counts, each, strict=True)) for counts in stage_kinds(job, layout.pp)]
    sizes[0] += ends[0]
    sizes[-1] += ends[1] + 2.0 * norm_elements(job.model)
    return float(max(sizes))


# ---------------------------------------------------------------- cache
def cache_per_token(job: ServingJob, kind: LayerKind, layout: ServingLayout) -> Any:
    """Cache of one token in one layer of this kind on one rank [B]."""
    a, width = kind.mixer, cached_width(job.kv)
    if not isinstance(a, Attention):
        return 0.0
    index = a.index_head_dim * INDEX if a.index_heads else 0.0
    if a.kv_lora_rank:
        return formulas.latent_bytes(a.kv_lora_rank, a.qk_rope_head_dim, width, layout.dcp) + index
    heads = formulas.kv_head_share(a.kv_heads, layout.tp)
    return formulas.cached_bytes(heads, a.head_dim, 0 if a.kv_shared else a.v_head_dim, width) / layout.dcp + index


def _state(kind: LayerKind, tp: Any) -> Any:
    match kind.mixer:
        case Mamba() as m:
            return formulas.mamba_state_bytes(m.heads, m.head_dim, m.state, m.groups, m.conv, STATE, tp)
        case LinearAttention() as m:
            keys = m.qk_heads * m.qk_head_dim
            return formulas.linear_state_bytes(m.v_heads, m.qk_head_dim, m.v_head_dim, keys, m.conv, STATE, tp)
    return 0.0


def cached_tokens(job: ServingJob, kind: LayerKind, length: Any) -> Any:
    """Tokens of a sequence of `length` that a layer of this kind caches."""
    a = kind.mixer
    if not isinstance(a, Attention) or not a.window or not job.engine.windows:
        return length
    compressed = length / a.compression if a.compression else 0.0
    return formulas.attended_tokens(length, a.window) + compressed


def sequence_cache(job: ServingJob, layout: ServingLayout, length: Any) -> Any:
    """Cache of one sequence of `length` tokens on the fullest rank, in whole pages, states included [B]."""
    kinds = job.model.kinds
    paged = formulas.page_tokens(length, job.engine.page)
    each = [cache_per_token(job, kind, layout) * cached_tokens(job, kind, paged) + _state(kind, layout.tp)
            for kind in kinds]
    worst: Any = 0.0
    for counts in stage_kinds(job, layout.pp):
        worst = maximum(worst, sum(n * size for n, size in zip(counts, each, strict=True)))
    return worst


def shared_prefix(job: ServingJob, isl: float) -> float:
    """Tokens of a prompt of `isl` that requests share, where their prefixes are kept once [1]."""
    return job.reuse.hit * isl if job.reuse.prefixes else 0.0


def held_sequences(job: ServingJob, layout: ServingLayout, room: float, length: float, isl: float) -> float:
    """Sequences of `length` tokens that `room` bytes of a rank hold, prefixes that they share stored once; infinite
    where a sequence takes none."""
    shared = round(shared_prefix(job, isl))
    own = float(sequence_cache(job, layout, round(length) - shared))
    once = job.reuse.prefixes * float(sequence_cache(job, layout, shared)) if shared else 0.0
    return float(formulas.paged_cache(max(room - once, 0.0), own)) if own else float("inf")


def per_token(job: ServingJob, layout: ServingLayout) -> float:
    """Cache that one more token takes on the fullest rank while no window is full [B]."""
    each = [cache_per_token(job, kind, layout) for kind in job.model.kinds]
    return max(float(sum(n * size for n, size in zip(counts, each, strict=True)))
               for counts in stage_kinds(job, layout.pp))


# ---------------------------------------------------------------- room
def _widest(job: ServingJob, layout: ServingLayout) -> float:
    """Elements per token of the widest pair of tensors that a layer holds at once [1]."""
    widths = [0.0]
    for kind in job.model.kinds:
        if isinstance(kind.ffn, Mlp):
            widths.append(3 * kind.ffn.width / layout.tp)
        if isinstance(kind.ffn, Moe):
            f = kind.ffn
            widths.append(f.top_k * (3 * f.width / layout.etp / layout.ep + 2 * job.model.hidden / layout.ep))
        if isinstance(kind.mixer, Attention):
            widths.append(2 * kind.mixer.heads * (kind.mixer.head_dim + kind.mixer.v_head_dim) / layout.tp)
    return max(widths)


def activations(job: ServingJob, layout: ServingLayout, longest: int) -> float:
    """Peak of activations of one step: the token budget through the widest layer, and the logits of a batch [B]."""
    engine = job.engine
    tokens = engine.token_budget if engine.chunked else max(engine.token_budget, longest)
    tokens = min(tokens, max(longest, 1) * engine.max_batch)
    logits = 4 * min(engine.max_batch, 256) * job.model.vocab / layout.tp
    return float(2 * tokens * (3 * job.model.hidden + _widest(job, layout)) + logits)


def pool(job: ServingJob, layout: ServingLayout, longest: int) -> float:
    """Memory of one rank that the engine gives to the cache [B]."""
    engine, memory = job.engine, job.cluster.accelerator.memory
    room = formulas.pool_of_total if engine.memory_basis == "total" else formulas.pool_of_free
    held = weights(job, layout), activations(job, layout, longest)
    return float(room(memory, engine.memory_fraction, *held, engine.context))


@dataclass(frozen=True)
class Fit:
    """What one layout leaves room for. weights, activations, reserve, pool: of the fullest rank [B]; per_token: cache
    of one token there while no window is full [B]; tokens: cached tokens of one replica at the context asked for;
    worst, expected: sequences of one replica if all are as long as the context, or as long as expected; users: of all
    replicas."""

    layout: ServingLayout
    weights: float
    activations: float
    reserve: float
    pool: float
    per_token: float
    sequence: float
    tokens: int
    worst: float
    expected: float
    wanted: int

    @property
    def users(self) -> int:
        """Sequences of all replicas at full length."""
        return int(self.worst) * self.layout.dp

    @property
    def fits(self) -> bool:
        """Whether as many sequences as wanted fit at full length."""
        return self.pool > 0 and self.users >= max(self.wanted, 1)


def fit(job: ServingJob, layout: ServingLayout, context: int, users: int = 1, expected: int | None = None) -> Fit:
    """What fits beside the weights. context: longest sequence; users: sequences wanted; expected: their mean length."""
    check_context(job, context)
    room, sequence = pool(job, layout, context), sequence_cache(job, layout, context)
    mean = sequence_cache(job, layout, min(expected or context, context))
    limit, groups = job.engine.max_batch * layout.adp, layout.adp
    worst = min(groups * int(formulas.paged_cache(room, sequence)), limit) if sequence else limit
    usual = min(groups * float(formulas.paged_cache(room, mean)), limit) if mean else limit
    whole = groups * formulas.paged_cache(room, sequence) * context if sequence else 0
    page, each = job.engine.page, per_token(job, layout)
    windowed = any(isinstance(k.mixer, Attention) and k.mixer.window for k in job.model.kinds) or _state_of(job)
    tokens = groups * page * formulas.cached_pages(room, page, each) if each and not windowed else int(whole)
    held = weights(job, layout)
    used = activations(job, layout, context)
    reserve = job.cluster.accelerator.memory - held - used - room
    return Fit(layout, held, used, reserve, room, each, float(sequence), int(tokens), worst, usual, users)


def _state_of(job: ServingJob) -> bool:
    return any(_state(kind, 1) for kind in job.model.kinds)


def check_context(job: ServingJob, context: int) -> None:
    """Raise OutOfRange for a context that the model does not have."""
    limit = job.model.max_position
    if context < 1 or (limit and context > limit):
        raise OutOfRange(f"a context of {context} tokens is outside what {job.model.id} has, 1 to {limit or 'any'};"
                         " choose one of them")


def fits(job: ServingJob, gpus: int, context: int, users: int = 1, expected: int | None = None) -> list[Fit]:
    """Every legal layout of `gpus` accelerators, those that fit first, then by users, then by ranks per copy."""
    found = [fit(job, layout, context, users, expected) for layout in legal(job.model, gpus)]
    return sorted(found, key=lambda f: (not f.fits, -f.users, f.layout.instance, str(f.layout)))


def smallest(job: ServingJob, context: int, users: int = 1, most: int = 256) -> int | None:
    """The fewest accelerators of which some layout fits; None if not even `most` do."""
    for gpus in range(1, most + 1):
        if any(fit(job, layout, context, users).fits for layout in _best(job, gpus)):
            return gpus
    return None


def _best(job: ServingJob, gpus: int) -> Sequence[ServingLayout]:
    return legal(job.model, gpus)
