"""The arguments that the commands share, so that models, clusters and layouts are written one way everywhere."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from perfplan.cli.groups import Group
from perfplan.errors import OutOfRange, nearest
from perfplan.serving.words import tokens
from perfplan.units import parse

__all__ = [
    "Attention",
    "Cluster",
    "Csv",
    "Entries",
    "Folders",
    "Fix",
    "Forbid",
    "Framework",
    "From",
    "GlobalBatch",
    "Gpus",
    "Job",
    "Json",
    "Launch",
    "LayoutGpus",
    "LayoutText",
    "LineBatch",
    "LineGpus",
    "LineSeqLen",
    "Model",
    "ModelOrLine",
    "Method",
    "Mtp",
    "Optimizer",
    "Order",
    "Out",
    "Overlap",
    "PowerCap",
    "Precision",
    "Rank",
    "Save",
    "SeqLen",
    "ServeFrom",
    "ServeLaunch",
    "Settings",
    "Routing",
    "Skew",
    "Technique",
    "WholeGpus",
    "gpu_range",
    "overlaps",
]

AXES = ("tp", "cp", "dp", "fsdp", "pp", "ep")

Model = Annotated[
    str, typer.Argument(metavar="MODEL", show_default=False, help="Catalog id, or path of a Hugging Face config.json.")
]
ModelOrLine = Annotated[
    str,
    typer.Argument(
        metavar="[MODEL]",
        show_default=False,
        help="Catalog id, or path of a Hugging Face config.json; with --from, what its flags must agree with.",
    ),
]
From = Annotated[
    tuple[str, str],
    typer.Option(
        "--from",
        metavar="FRAMEWORK 'FLAGS'",
        show_default=False,
        help="Take layout, batch, precision and, without MODEL, the architecture from a launch line of megatron-lm;"
        " what was read and what was not is told on standard error.",
    ),
]
ServeFrom = Annotated[
    tuple[str, str],
    typer.Option(
        "--from",
        metavar="ENGINE 'LINE'",
        show_default=False,
        help="Take model, layout, formats and limits from a launch line of vllm, sglang or tensorrt-llm, such as"
        " 'vllm serve MODEL --tensor-parallel-size 4'; what was read and what was not is told on standard error.",
    ),
]
Launch = Annotated[
    str,
    typer.Option(
        "--launch",
        metavar="FRAMEWORK",
        show_default=False,
        help="Add the layout's launch flags: megatron-lm, megatron-bridge, torchtitan or deepspeed.",
    ),
]
ServeLaunch = Annotated[
    str,
    typer.Option(
        "--launch",
        metavar="ENGINE",
        show_default=False,
        help="Add the launch settings: vllm, sglang or tensorrt-llm.",
    ),
]
Cluster = Annotated[str, typer.Option("--cluster", metavar="ID", show_default=False, help="Cluster of the catalog.")]
Gpus = Annotated[
    str,
    typer.Option("--gpus", metavar="N|A..B", show_default=False, help="Accelerators to use, or the range to search."),
]
WholeGpus = Annotated[int, typer.Option("--gpus", metavar="N", show_default=False, help="Accelerators to use.")]
LayoutGpus = Annotated[
    int | None,
    typer.Option(
        "--gpus",
        metavar="N",
        show_default=False,
        help="Accelerators of the job; as many as the layout uses unless given.",
    ),
]
LineGpus = Annotated[
    int | None,
    typer.Option(
        "--gpus", metavar="N", show_default=False, help="Accelerators to use; with --from, where it does not say."
    ),
]
_batch = typer.Option("--global-batch", metavar="B", show_default=False, help="Sequences per optimizer step.")
GlobalBatch = Annotated[int, _batch]
LineBatch = Annotated[int | None, _batch]


def _length(given: object) -> int:
    return tokens(str(given), "--seq-len")


_sequence = typer.Option(
    "--seq-len", metavar="S", show_default=False, parser=_length, help="Tokens per sequence, such as 8k."
)
SeqLen = Annotated[int, _sequence]
LineSeqLen = Annotated[int | None, _sequence]
Precision = Annotated[str, typer.Option("--precision", metavar="ID", help="Precision recipe of the catalog.")]
Framework = Annotated[
    str,
    typer.Option(
        "--framework",
        metavar="ID",
        show_default=False,
        help="Training software of the catalog; the accelerator's usual unless given.",
    ),
]
Attention = Annotated[
    str,
    typer.Option(
        "--attention",
        metavar="flash|unfused",
        show_default=False,
        help="Attention kernels; the framework's unless given.",
    ),
]
Overlap = Annotated[
    str,
    typer.Option(
        "--overlap",
        metavar="'tp=0 dp=1'",
        show_default=False,
        help="Fraction of an axis' communication that may hide behind compute (axes tp,"
        " cp, dp, fsdp, pp, ep); the framework's unless given.",
    ),
]
Order = Annotated[
    str,
    typer.Option(
        "--order",
        metavar="AXES",
        help="How axes lie on the network, innermost first: tp-cp-dp-pp or tp-cp-pp-dp.",
    ),
]
Optimizer = Annotated[
    str,
    typer.Option(
        "--optimizer",
        metavar="ID",
        show_default=False,
        help="Optimizer, such as adam-8bit or muon; Adam as the recipe stores it unless given.",
    ),
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="pretrain|sft|lora",
        help="What learns: all parameters (sft: on sequences packed to --seq-len), or adapters beside a frozen base.",
    ),
]
Rank = Annotated[
    int, typer.Option("--lora-rank", metavar="R", help="Rank of the adapters on the attention projections.")
]
Packed = Annotated[
    int,
    typer.Option(
        "--packed", metavar="TOKENS", help="Mean tokens of the documents packed into a sequence; 0 = one document."
    ),
]
Graphs = Annotated[
    str,
    typer.Option(
        "--cuda-graphs",
        metavar="PARTS",
        show_default=False,
        help="What CUDA graphs capture, of attn, mamba, mlp, moe_router, moe_preprocess, full_iteration: 'attn,mlp'.",
    ),
]
Padded = Annotated[
    bool,
    typer.Option("--padded-experts", help="Experts drop tokens beyond their capacity and pad the rest: static shapes."),
]
Mtp = Annotated[
    int | None,
    typer.Option(
        "--mtp",
        metavar="N",
        show_default=False,
        help="Multi-token-prediction modules to train, on the last stage; in pretraining the model's own where the"
        " framework's recipes train them, unless given.",
    ),
]
Skew = Annotated[
    float, typer.Option("--routing-skew", metavar="X", help="Load of the most loaded expert rank over the mean.")
]
PowerCap = Annotated[
    str,
    typer.Option(
        "--power-cap",
        metavar="POWER",
        show_default=False,
        help="Power that each accelerator may draw, such as 500W: what computes slows down, memory and links do not.",
    ),
]
Routing = Annotated[
    str,
    typer.Option(
        "--routing",
        metavar="FILE|synthetic",
        show_default=False,
        help="Routing that gives the skew at every ep: a trace, loads or counts, or synthetic:zipf=0.8,seed=1.",
    ),
]
LayoutText = Annotated[
    str,
    typer.Option(
        "--layout",
        metavar="TOKENS",
        show_default=False,
        help="The layout, such as 'tp8 sp1 cp1 pp8 vpp8 ep1 etp1 dp16 mbs1 zero1 rc=none'.",
    ),
]
Fix = Annotated[
    str,
    typer.Option(
        "--fix", metavar="TOKENS", show_default=False, help="Search only layouts with these tokens, such as 'tp8 pp8'."
    ),
]
Forbid = Annotated[
    str,
    typer.Option(
        "--forbid",
        metavar="TOKENS",
        show_default=False,
        help="Search no layouts with any of these tokens, such as 'rc=full vpp2'.",
    ),
]
Technique = Annotated[
    list[str] | None,
    typer.Option(
        "--technique", metavar="ID", show_default=False, help="Apply a technique of the catalog; may be repeated."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        show_default=False,
        help="Override a fact of the catalog, such as accelerator.memory=96GiB; may be repeated.",
    ),
]
Folders = Annotated[
    list[str] | None,
    typer.Option(
        "--catalog", metavar="DIR", show_default=False, help="Look in this catalog folder first; may be repeated."
    ),
]
Csv = Annotated[
    str | None,
    typer.Option(
        "--csv",
        metavar="[FILE]",
        show_default=False,
        help="Write the table as CSV, to standard output unless a file is named.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Save = Annotated[
    str | None, typer.Option("--save", metavar="FILE", show_default=False, help="Write everything as JSON into a file.")
]


def gpu_range(text: str) -> tuple[int, int]:
    """Fewest and most accelerators of "1024" or "256..2048".

    >>> gpu_range("1024"), gpu_range("256..2048")
    ((1024, 1024), (256, 2048))
    """
    found = re.fullmatch(r"(\d{1,7})(?:\.\.(\d{1,7}))?", text.strip())
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if low > high:
        raise OutOfRange(f"--gpus {text!r} falls; write the smaller count first, {high}..{low}")
    if low < 1:
        raise OutOfRange(f"--gpus {text!r} is no count of accelerators; write 1024, or a range such as 256..2048")
    return low, high


def words(text: str) -> tuple[str, ...]:
    """Words of a list with commas or blanks between them.

    >>> words("attn, mlp")
    ('attn', 'mlp')
    """
    return tuple(text.replace(",", " ").split())


def overlaps(text: str) -> dict[str, float]:
    """Overlapped fraction per axis of "tp=0 dp=1".

    >>> overlaps("tp=0 dp=50%")
    {'tp': 0.0, 'dp': 0.5}
    """
    fractions = {}
    for token in text.replace(",", " ").split():
        axis, equals, fraction = token.partition("=")
        if axis not in AXES or not equals:
            hint = nearest(axis, AXES)
            raise OutOfRange(
                f"--overlap token {token!r} is not understood; write AXIS=FRACTION, such as"
                f" {(*hint, 'dp')[0]}=1, with an axis of {', '.join(AXES)}"
            )
        fractions[axis] = parse(fraction, "1", f"--overlap {axis}")
        if fractions[axis] > 1:
            raise OutOfRange(f"--overlap {token!r} hides more than all; write a fraction from 0 to 1")
    return fractions


def _job(
    precision: Precision = "bf16",
    framework: Framework = "",
    attention: Attention = "",
    overlap: Overlap = "",
    order: Order = "tp-cp-dp-pp",
    optimizer: Optimizer = "",
    method: Method = "pretrain",
    lora_rank: Rank = 16,
    packed: Packed = 0,
    cuda_graphs: Graphs = "",
    padded_experts: Padded = False,
    mtp: Mtp = None,
    routing_skew: Skew = 1.0,
    routing: Routing = "",
    power_cap: PowerCap = "",
    technique: Technique = None,
) -> dict[str, Any]:
    return locals() | {
        "overlap": overlaps(overlap), "cuda_graphs": words(cuda_graphs), "technique": technique or ()
    }


Job = Annotated[Any, Group(_job)]
"""What describes a training job beside model, machine and batch: arguments of `api.training_job` by name."""


def _entries(settings: Settings = None, catalog: Folders = None) -> Any:
    from perfplan.catalog import Catalog

    return Catalog(catalog or (), settings or ())


def _output(csv: Csv = None, json: Json = False, save: Save = None) -> Any:
    from perfplan.report import Output

    return Output(csv, json, save)


Entries = Annotated[Any, Group(_entries)]
"""Where models, clusters and the like come from: a `Catalog`."""
Out = Annotated[Any, Group(_output)]
"""Where the answer goes, and in which form: an `Output`."""
