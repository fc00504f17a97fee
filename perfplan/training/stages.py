"""Pipeline stages: which layers each rank holds when chunks may be uneven."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

__all__ = ["Stage", "chunk_sizes", "stages"]


@dataclass(frozen=True)
class Stage:
    """Ranks that hold the same pieces. layers: layers of each kind; first, last: embedding, head; count: how many such
    ranks; rank: the first of them (the one with most micro-batches in flight)."""

    layers: tuple[int, ...]
    first: bool
    last: bool
    count: int
    rank: int


def chunk_sizes(layers: int, chunks: int, tail: int = 0) -> tuple[int, ...] | None:
    """Layers in each of the pp * vpp chunks, or None if some chunk would be empty.

    tail: layers' worth beyond the head at the end of the last chunk (multi-token prediction), which then holds fewer
    layers by as many as it can.

    Even if the layers divide (embedding and head ride along); else embedding and head count as one slot each and every
    chunk holds floor or ceil of the slots, larger chunks in the middle. Where ranks hold several chunks, what the
    ranks run at one time then takes about as long on all of them: three chunks of 2 2/3 slots on each of 16 ranks cost
    interleaved 1F1B 2% in event simulation, and 9% with the larger ones first, last or spread evenly.

    >>> chunk_sizes(126, 64)[:3], chunk_sizes(126, 64)[-1], sum(chunk_sizes(126, 64))
    ((1, 2, 2), 1, 126)
    >>> chunk_sizes(8, 4), chunk_sizes(61, 4), chunk_sizes(61, 4, 1)
    ((2, 2, 2, 2), (15, 16, 16, 14), (15, 16, 16, 14))
    >>> chunk_sizes(62, 4, 1)
    (15, 17, 16, 14)
    """
    splits = (_chunk_sizes(layers, chunks, each) for each in range(tail, -1, -1))
    return next((sizes for sizes in splits if sizes is not None), None)


def _chunk_sizes(layers: int, chunks: int, tail: int) -> tuple[int, ...] | None:
    if chunks > layers + 2 + tail:
        return None
    if chunks == 1 or layers % chunks == 0:
        return (layers // chunks,) * chunks if layers >= chunks else None
    small, more = divmod(layers + 2 + tail, chunks)
    start = (chunks - more) // 2
    inner = [small + (start <= index < start + more) for index in range(chunks)]
    if more == chunks - 1:
        inner = [small + 1] * (chunks - 1) + [small]
    inner[0], inner[-1] = inner[0] - 1, inner[-1] - 1 - tail
    return tuple(inner) if min(inner) >= 0 and sum(inner) == layers and min(inner[1:-1], default=1) > 0 else None


@lru_cache(maxsize=4096)
def stages(
    layers: tuple[int, ...], kinds: int, pp: int, vpp: int, block: int = 0, tail: int = 0
) -> tuple[Stage, ...] | None:
    """Distinct stages of a model whose i-th layer is of kind `layers[i]`, split over pp ranks of vpp chunks each.

    tail: as in `chunk_sizes`. With `block` there are twice the kinds: the first `block` layers of each chunk are of
    kind `layers[i] + kinds`.
    """
    sizes = chunk_sizes(len(layers), pp * vpp, tail)
    if sizes is None:
        return None
    counts = [[0] * kinds * (2 if block else 1) for _ in range(pp)]
    start = 0
    for chunk, size in enumerate(sizes):
        for place, kind in enumerate(layers[start : start + size]):
            counts[chunk % pp][kind + kinds * (place < block)] += 1
        start += size
    seen: dict[tuple[tuple[int, ...], bool, bool], list[int]] = {}
    for rank, held in enumerate(counts):
        seen.setdefault((tuple(held), rank == 0, rank == pp - 1), []).append(rank)
    return tuple(Stage(held, first, last, len(ranks), ranks[0]) for (held, first, last), ranks in seen.items())
