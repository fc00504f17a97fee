"""Names as published measurements spell them, and the names of the catalog that they stand for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = ["accelerator_named", "model_named", "release_named", "sized"]

_TRADE = re.compile(
    "nvidia|amd|intel|google|apple|cloud|geforce|radeon|instinct|tesla|quadro|graphics|gpus?|tensor|core|server|workstation"
    "|ac|edition|generation|blackwell|hopper|ampere|superchip|developer|kit|platinum|gold|xeon|module|chips?"
    r"|\d+(g|gb|gib|w)|(sxm|pcie|gen|hbm|nvl|oam|x)\d*e?|\d+x|gddr\d+x?")  # makers, series, sizes, sockets
_VARIANT = re.compile(
    "instruct|chat|it|hf|base|thinking|preview|turbo|dynamic|static|quantized|kv|fp8|fp4|nvfp4|mxfp4|awq|gptq|int[48]|bf16"
    r"|fp16|w\d+a\d+|\d{4}|v\d+(\.\d+)?|meta|nvidia")
_RELEASE = re.compile(r"(?<![\w.])v?(\d+\.\d+[^\s/]*)")


def accelerator_named(name: str, known: Iterable[str]) -> str | None:
    """The known name whose words all stand in `name`, where the rest are makers, series, sizes and sockets.

    >>> accelerator_named("NVIDIA H100 80GB HBM3", ["h100", "h100-pcie", "h200"])
    'h100'
    >>> accelerator_named("A100 80GB PCIe", ["a100", "a100-pcie", "a100-pcie-80gb"])
    'a100-pcie-80gb'
    >>> accelerator_named("H100 of a new kind", ["h100"]) is None
    True
    """
    text = re.sub(r"\b(sxm|pcie)\d?\b", r"\1", name.lower().replace("+", "plus"))
    text = re.sub(r"^\s*\d+\s*x\s*|(?<=\d)\s+(?=gi?b\b)", "", text)  # "8x H100", "80 GB"
    words = re.findall(r"[a-z0-9]+", text)
    heard = {*words, *("".join(pair) for pair in zip(words, words[1:], strict=False))}

    def rest(parts: set[str]) -> list[str]:
        joined = {one for pair in zip(words, words[1:], strict=False) if "".join(pair) in parts for one in pair}
        return [one for one in words if one not in parts | joined and not _TRADE.fullmatch(one)]

    found = [(len(parts), len(one), one) for one in known
             for parts in (set(one.split("-")), {one.replace("-", "")}) if parts <= heard and not rest(parts)]
    return max(found)[2] if found else None


def sized(name: str, id_: str, known: Iterable[str]) -> str:
    """The id of the same chip with the memory that `name` states, where it is known; else the id.

    >>> sized("Tesla V100 32GB", "v100-sxm-16gb", ["v100-sxm-16gb", "v100-sxm-32gb"])
    'v100-sxm-32gb'
    """
    stated = re.search(r"(\d+)\s*gi?b\b", name.lower())
    other = re.sub(r"-\d+gb$", f"-{stated[1]}gb", id_) if stated else id_
    return other if other in known else id_


def model_named(name: str, known: Mapping[str, str]) -> str | None:
    """The id of a model by its id or its name on the hub, spelt otherwise or with the words of a variant behind.

    known: id or name on the hub -> id.

    >>> model_named("Llama3.1_70B-Instruct-FP8", {"llama-3.1-70b": "llama-3.1-70b"})
    'llama-3.1-70b'
    """
    ids = {_plain(one.rpartition("/")[2]): id_ for one, id_ in known.items()}
    words = re.split(r"[-_\s]+", name.rpartition("/")[2].lower())
    while words:
        if found := ids.get(_plain("".join(words))):
            return found
        if not _VARIANT.fullmatch(words[-1]):
            return None
        words.pop()
    return None


def _plain(name: str) -> str:
    return re.sub(r"[-_\s]+", "", name.lower())


def release_named(text: str) -> str:
    """The release in a version as published: its number, without what stands around it; else the text.

    >>> release_named("v0.12.0"), release_named("lmsysorg/sglang:v0.5.5-cu129"), release_named("2024-05 build")
    ('0.12.0', '0.5.5-cu129', '2024-05 build')
    """
    found = _RELEASE.search(text)
    return found[1] if found else text
