"""What a catalog file may hold, field by field: the pydantic models at the catalog's edge.

Field names are those of `perfplan.catalog.specs`; quantities are texts with units ("900 GB/s") and arrive as SI floats.
The JSON Schemas for editors are generated from here. Imported only when a file is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from perfplan.errors import BadQuantity
from perfplan.units import parse, show

__all__ = ["DTYPES", "SCHEMAS", "AcceleratorFile", "ClusterFile", "EngineFields", "EngineFile",
           "FrameworkFile", "KernelFile",
           "LevelFile", "LibraryFile", "RecipeFile"]

DTYPES = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "fp8-block", "mxfp8", "fp6", "fp4", "nvfp4", "mxfp4", "int8",
          "int4")
PASSES = ("forward", "dgrad", "wgrad")
WIRES = ("tp", "cp", "pp", "ep_dispatch", "ep_combine", "dp_reduce", "dp_gather")

_EXAMPLES = {"B": ["80 GiB", "141 GB"], "B/s": ["3.35 TB/s", "400 Gb/s"], "FLOP/s": ["989 TFLOP/s"],
             "OP/s": ["1979 TOP/s"], "s": ["5 us", "1 ms"], "W": ["700 W", "14.3 kW"], "$/h": ["2.5 $/h"],
             "1": ["0.8", "80 %"], "1/s": ["12 /s"]}


@dataclass(frozen=True)
class Quantity:
    """Annotation of a field that reads texts with a unit: its SI unit, and the range outside which it is absurd."""

    unit: str
    low: float = 0.0
    high: float = math.inf

    def read(self, value: object) -> float:
        """The SI value of a text; faults are pydantic's, so that they carry the field's path."""
        try:
            number = parse(value, self.unit)
        except BadQuantity as error:
            raise PydanticCustomError("bad_quantity", "{message}", {"message": str(error)}) from error
        if not self.low <= number <= self.high:
            raise PydanticCustomError("absurd", "{message}", {
                "message": f"{value!r} is absurd: possible are {show(self.low, self.unit)} to "
                           f"{show(self.high, self.unit)}"})
        return number

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> CoreSchema:
        """Read by `read`; pydantic asks for this."""
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: Any) -> dict[str, Any]:
        """How editors see the field; pydantic asks for this."""
        kind: Any = ["string", "number"] if self.unit == "1" else "string"
        return {"type": kind, "description": f"a quantity in {self.unit}", "examples": _EXAMPLES[self.unit]}


Memory = Annotated[float, Quantity("B", 1e6, 1e15)]
Bandwidth = Annotated[float, Quantity("B/s", 1e3, 1e15)]
Duration = Annotated[float, Quantity("s", 0, 10)]
Power = Annotated[float, Quantity("W", 0, 1e9)]
Price = Annotated[float, Quantity("$/h", 0, 1e4)]
Fraction = Annotated[float, Quantity("1", 0, 1)]
PositiveFraction = Annotated[float, Quantity("1", 1e-6, 1)]
Bytes = Annotated[float, Quantity("B", 0, 1e15)]
Count = Annotated[int, Field(ge=1, le=1 << 40, strict=True)]
Ranks = Annotated[int, Field(ge=1, le=1 << 40)]  # a key of a YAML mapping arrives as text
Number = Annotated[float, Quantity("1", 0, 1e6)]
BytesEach = Annotated[float, Quantity("1", 0, 64)]  # B per parameter, element or scale factor


def _peaks(value: object) -> dict[str, float]:
    if not isinstance(value, dict) or not value:
        raise PydanticCustomError("bad_peaks", "wants a mapping of dtype to dense peak, such as bf16: 989 TFLOP/s")
    peaks: dict[str, float] = {}
    for dtype, text in value.items():
        if dtype not in DTYPES:
            raise PydanticCustomError("unknown_dtype", "{message}", {
                "message": f"{dtype!r} is not a dtype; known are {', '.join(DTYPES)}"})
        peaks[dtype] = _peak(dtype, text)
    return peaks


def _peak(dtype: str, text: object) -> float:
    return Quantity("OP/s" if dtype.startswith("int") else "FLOP/s", 1e9, 1e18).read(text)


Peaks = Annotated[dict[str, float], BeforeValidator(_peaks), WithJsonSchema(
    {"type": "object", "description": "dense peak per dtype", "propertyNames": {"enum": list(DTYPES)},
     "additionalProperties": {"type": "string", "examples": ["989 TFLOP/s", "1979 TOP/s"]}})]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    id: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", description="defaults to the file name")
    notes: tuple[str, ...] = ()


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class KernelFile(_Part):
    """Constants of one kernel kind and dtype."""

    compute: PositiveFraction
    memory: Annotated[float, Quantity("1", 1e-6, 1.5)]
    overhead: Duration
    half: Annotated[float, Quantity("1", 0, 1e6)] = 0.0
    step: Duration = Field(0.0, description="matrix products: latency per element of the inner dimension")
    narrow: Annotated[float, Quantity("1", 0, 10)] = Field(
        0.0, description="attention, both passes: fraction reached with heads of 64 over that with heads of 128")
    around: Fraction = Field(0.0, description="expert layers: fraction of the bandwidth that the kernels around reach")
    each: Duration = Field(0.0, description="expert layers: time that the tables of one expert cost")
    start: Annotated[float, Quantity("1", 1e-3, 1e3)] = Field(
        1.0, description="decode attention: fraction of the bandwidth while the pipelines fill")
    ramp: Duration = Field(0.0, description="decode attention: longest time that filling them costs")
    spread: Annotated[float, Quantity("1", 0, 1e6)] = Field(
        0.0, description="decode attention: units that one head of one sequence keeps busy, 0 = all of them")
    source: str
    borrowed: str = ""


def _for_all(value: object) -> object:
    """One number stands for all dtypes."""
    return value if isinstance(value, dict) else {"any": value}


class AcceleratorFile(_File):
    """One accelerator as software sees it. A fact that nobody published stays absent."""

    name: str
    vendor: str
    family: str
    memory: Memory
    memory_bandwidth: Bandwidth
    peak: Peaks
    sources: dict[str, str] = Field(description="field -> publication; every number wants one")
    kernels: dict[Literal["gemm", "unaligned_gemm", "grouped_gemm", "attention", "attention_backward",
                          "attention_flash1",
                          "unfused_attention", "attention_fwd_bwd", "attention_decode", "experts", "scan",
                          "stream"],
                  dict[str, KernelFile]] = Field(
        {}, description="kind -> dtype, dtype:KV dtype, or any for all; @software after it for one engine -> constants")
    borrow: str | None = Field(None, description="accelerator whose kernel constants are used where there are none")
    same_constants: dict[str, str] = Field({}, description="dtype without kernel constants -> dtype whose it uses")
    sustained: Annotated[dict[str, PositiveFraction], BeforeValidator(_for_all), WithJsonSchema(
        {"type": ["number", "string", "object"]})] = Field(
        {}, description="clock in a long step over that in one kernel: a number, or dtype (any = the others) -> number")
    units: Count | None = None
    l2: Bytes | None = None
    tdp: Power | None = None
    price_per_hour: Price | None = None
    host_bandwidth: Bandwidth | None = None
    default_cluster: str | None = None

    @model_validator(mode="after")
    def _every_number_has_a_source(self) -> AcceleratorFile:
        numbers = ["memory", "memory_bandwidth", *(f"peak.{dtype}" for dtype in self.peak)]
        optional = ("units", "l2", "tdp", "price_per_hour", "host_bandwidth")
        numbers += [name for name in optional if getattr(self, name) is not None]
        bare = [n for n in numbers if n not in self.sources]
        if bare:
            raise PydanticCustomError("no_source", "{message}", {
                "message": f"no source is given for {', '.join(bare)}; add one under sources"})
        return self


Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p", "broadcast", "moe_dispatch",
                    "moe_combine"]


class LevelFile(_Part):
    """One network level, innermost first."""

    name: str
    size: Count | None = Field(None, description="accelerators in one domain; absent on the outermost level = no limit")
    topology: Literal["switch", "mesh", "torus", "ring"] = Field(
        description="information; what a torus changes is priced from its dims")
    bandwidth: Bandwidth
    latency: Duration
    launch: Duration
    efficiency: dict[Ranks, PositiveFraction] = Field(
        min_length=1, description="ranks in the domain -> fraction of the bandwidth")
    operations: dict[Operation, dict[Ranks, PositiveFraction]] = Field({}, description="efficiency where it differs")
    fill: Annotated[float, Quantity("1", 0, 100)] = Field(
        0.0, description="share of the latency that the chunks of a message pay")
    reduction: Fraction = 0.0
    reduction_ranks: Ranks = Field(2, description="fewest ranks for which the library reduces in the network")
    oversubscription: Annotated[float, Quantity("1", 1, 1000)] = 1.0
    rails: Count = Field(1, description="information: network cards of a node, which the bandwidth counts")
    dims: tuple[Count, ...] = ()
    peer: Bandwidth | None = None
    source: str
    borrowed: str = ""


class ClusterFile(_File):
    """Accelerators of one kind on a hierarchy of network levels."""

    name: str
    accelerator: str
    library: str
    dispatcher: str | None = Field(None, description="library that sends tokens to experts; absent = all-to-all")
    accelerators_per_node: Count
    levels: Annotated[tuple[LevelFile, ...], Field(min_length=1)]
    size: Count | None = None
    overhead_power: Power = 0.0
    pue: Annotated[float, Quantity("1", 1, 3)] = 1.0
    sources: dict[str, str]

    @model_validator(mode="after")
    def _levels_nest(self) -> ClusterFile:
        sizes = [level.size for level in self.levels]
        if None in sizes[:-1]:
            raise PydanticCustomError("levels", "only the outermost level may leave out its size")
        known = [s for s in sizes if s is not None]
        if any(b % a for a, b in zip(known, known[1:], strict=False)):
            raise PydanticCustomError("levels", "{message}", {
                "message": f"level sizes {known} do not nest: each must be a multiple of the one before"})
        return self


class TunerFile(_Part):
    """Constants with which the library itself predicts an algorithm's time."""

    base: Duration
    intra: Duration
    inter: Duration
    bandwidth: Annotated[float, Quantity("1", 1e-6, 4)]


class ExchangeFile(_Part):
    """Constants of one algorithm of a library on one accelerator."""

    launch: Duration
    latency: Duration = Field(0.0, description="what each further rank adds")
    floor: Duration = Field(0.0, description="least time of a call")
    efficiency: dict[Ranks, Annotated[float, Quantity("1", 1e-6, 4)]] = Field(
        min_length=1, description="ranks -> fraction of the link bandwidth; the algorithm serves from the fewest on")
    source: str


class LibraryFile(_File):
    """A collective library."""

    algorithms: dict[Operation, tuple[str, ...]]
    tuner: dict[str, TunerFile] = {}
    exchange: Annotated[float, Quantity("1", 0, 1000)] = Field(
        1.0, description="hops that an all-to-all waits for, of those of a ring")
    kernels: dict[str, dict[str, ExchangeFile]] = Field({}, description="accelerator -> algorithm -> constants")
    borrow: dict[str, str] = Field({}, description="accelerator without kernels of its own -> whose it has")
    software: tuple[str, ...] = Field((), description="how the software labels of measured rows begin")
    callers: dict[str, Duration] = Field({}, description="software label -> time that the caller adds to each call")
    memory: Bytes
    source: str


Dtype = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "fp8-block", "mxfp8", "nvfp4", "mxfp4", "int8"]
Pass = Literal["forward", "dgrad", "wgrad"]
Layers = Annotated[int, Field(ge=0, le=10_000, strict=True)]


class RecipeFile(_File):
    """A precision recipe: what is computed, stored and moved in which format. Byte counts are plain numbers."""

    gemm: dict[Pass, Dtype]
    experts: dict[Pass, Dtype]
    attention: Dtype
    head: Dtype
    router: Dtype
    scale_block: Annotated[int, Field(ge=0, le=1 << 20, strict=True)] = 0
    scale_bytes: BytesEach = 0.0
    cast_reads: Annotated[int, Field(ge=1, le=4, strict=True)] = 1
    bf16_layers: tuple[Layers, Layers] = (0, 0)
    weight: BytesEach
    transposed: BytesEach = 0.0
    master: BytesEach
    gradient: BytesEach
    moments: BytesEach
    saved: BytesEach
    wire: dict[Literal["tp", "cp", "pp", "ep_dispatch", "ep_combine", "dp_reduce", "dp_gather"], BytesEach]
    source: str

    @model_validator(mode="after")
    def _complete(self) -> RecipeFile:
        for name, given, wanted in (("gemm", self.gemm, PASSES), ("experts", self.experts, PASSES),
                                    ("wire", self.wire, WIRES)):
            missing = [key for key in wanted if key not in given]
            if missing:
                raise PydanticCustomError("missing", "{message}", {"message": f"{name} lacks {', '.join(missing)}"})
        return self


class OptimizerFile(_File):
    """An optimizer: what it keeps per parameter, in bytes, and what it computes beyond element-wise updates."""

    moments: BytesEach
    others: BytesEach
    iterations: Annotated[int, Field(ge=0, le=64, strict=True)] = 0
    source: str


class ReleaseFile(_Part):
    """How much longer the steps of one release take on one accelerator than those of the framework in general."""

    factor: Annotated[float, Quantity("1", 0.2, 5)]
    rows: Count
    source: str


class FrameworkFile(_File):
    """A training software release."""

    host_gap: Duration
    step_gap: Duration
    launch: Duration
    optimizer_bytes: Annotated[float, Quantity("1", 0, 1000)]
    context: Bytes
    fragmentation: Fraction
    overlap: dict[Literal["tp", "dp", "pp", "ep", "fsdp", "cp", "offload"], Fraction]
    contention: Annotated[float, Quantity("1", 1, 4)]
    attention: Literal["flash", "flash1", "unfused"]
    dropout: bool = False
    mtp: bool = False
    scatter_gather: bool = False
    gathered_units: Number = 3.0
    logits: Annotated[float, Field(ge=0, le=32, description="bytes per logit alive in the loss")] = 6.0
    working_copy: bool = Field(True, description="weights in the format of the products stand beside the master copy")
    skew: Duration = 0.0
    sync: Duration = 0.0
    host_link: PositiveFraction | None = None
    host_update: Annotated[float, Quantity("1", 1, 1e15)] | None = None
    group_launch: Duration = 0.0
    moe_launch: Duration = 0.0
    releases: dict[str, dict[str, ReleaseFile]] = Field(
        {}, description="release -> ACCELERATOR/dense or ACCELERATOR/moe -> factor on its step times, used when named")
    source: str


Tokens = Annotated[float, Field(ge=0, le=1 << 24)]


class LengthsFile(_Part):
    """Lengths of prompts or outputs in tokens: mean, standard deviation, percentiles."""

    mean: Annotated[float, Field(gt=0, le=1 << 24)]
    deviation: Annotated[float, Field(gt=0, le=1 << 24)]
    p50: Tokens
    p90: Tokens
    p99: Tokens
    max: Tokens


class WorkloadFile(_File):
    """Requests as a population: lengths of prompts and outputs, and how they arrive."""

    name: str
    input: LengthsFile
    output: LengthsFile
    correlation: Annotated[float, Field(ge=-1, le=1)] = 0.0
    limit: Annotated[int, Field(ge=0, le=1 << 24, strict=True)] = Field(
        0, description="most tokens of prompt and output together; longer requests are left out, 0 = none are")
    arrival_variation: Annotated[float, Field(ge=0, le=1000)] = Field(
        1.0, description="coefficient of variation of the times between arrivals, 1 = Poisson")
    rate: Annotated[float, Quantity("1/s", 0, 1e9)] | None = None
    requests: Annotated[int, Field(ge=0, strict=True)] = 0
    source: str


class EngineFields(_Part):
    """What one release of an engine may change; same: another release, whose changes it has before its own."""

    same: str | None = None
    library: str | None = None
    page: Count | None = None
    memory_fraction: Fraction | None = None
    memory_basis: Literal["total", "free"] | None = None
    context: Bytes | None = None
    max_batch: Count | None = None
    token_budget: Count | None = None
    chunked: bool | None = None
    mixed: bool | None = None
    padding: tuple[Count, ...] | None = None
    step: Duration | None = None
    prompt: Duration | None = None
    sequence: Duration | None = None
    layer: Duration | None = None
    overhead: Annotated[float, Quantity("1", 0, 10)] | None = None
    eager: Annotated[float, Quantity("1", 0, 10)] | None = None
    launch: Duration | None = None
    gather: Number | None = None
    joined: Number | None = None
    together: Fraction | None = None
    throttled: bool | None = None
    evenness: Number | None = None
    tables: Number | None = None
    compute: Annotated[float, Quantity("1", 1e-3, 2)] | None = None
    quantised: Annotated[float, Quantity("1", 1e-3, 2)] | None = None
    cached: Annotated[float, Quantity("1", 1e-3, 2)] | None = None
    burst: Fraction | None = None
    ahead: Number | None = None
    stream: Duration | None = None
    unit_rate: Annotated[float, Quantity("B/s", 0, 1e12)] | None = None
    products: Fraction | None = None
    narrow: bool | None = None
    per_watt: Annotated[float, Quantity("FLOP/s", 0, 1e14)] | None = None
    unpack: Annotated[int, Field(ge=0)] | None = None
    no_evict: bool | None = None
    windows: bool | None = None
    gathers: bool | None = None
    first: Duration | None = None
    routed: Duration | None = None
    idle_experts: dict[str, Fraction] | None = None
    reads: dict[str, Annotated[float, Quantity("1", 1e-3, 1.5)]] | None = None
    source: str | None = None
    notes: tuple[str, ...] = ()


class EngineFile(_File):
    """A serving engine: what all its releases share, and per release and family of chips what differs."""

    name: str
    library: str
    page: Count
    memory_fraction: Fraction
    memory_basis: Literal["total", "free"]
    context: Bytes
    max_batch: Count
    token_budget: Count
    chunked: bool
    mixed: bool
    padding: tuple[Count, ...] = ()
    step: Duration
    prompt: Duration
    sequence: Duration = 0.0
    layer: Duration = 0.0
    overhead: Annotated[float, Quantity("1", 0, 10)] = 1.0
    eager: Annotated[float, Quantity("1", 0, 10)] = 1.0
    launch: Duration = 0.0
    gather: Number = 1.0
    joined: Number = 0.0
    together: Fraction = 0.0
    throttled: bool = True
    evenness: Number = 1e6
    tables: Number = 1.0
    compute: Annotated[float, Quantity("1", 1e-3, 2)] = 1.0
    quantised: Annotated[float, Quantity("1", 1e-3, 2)] = 1.0
    cached: Annotated[float, Quantity("1", 1e-3, 2)] = 1.0
    burst: Fraction = 0.0
    ahead: Number = 0.0
    stream: Duration = 0.0
    unit_rate: Annotated[float, Quantity("B/s", 0, 1e12)] = 0.0
    products: Fraction = 0.0
    narrow: bool = False
    per_watt: Annotated[float, Quantity("FLOP/s", 0, 1e14)] = 0.0
    unpack: Annotated[int, Field(ge=0)] = 0
    no_evict: bool = False
    windows: bool = True
    gathers: bool = False
    first: Duration = 0.0
    routed: Duration = 0.0
    idle_experts: dict[str, Fraction] = {}
    reads: dict[str, Annotated[float, Quantity("1", 1e-3, 1.5)]] = {}
    releases: dict[str, EngineFields] = Field(
        {}, description="how a release begins, /FAMILY or /CHIP may follow -> what it does differently")
    families: dict[str, EngineFields] = Field({}, description="family of chips, or chip -> constants of its own")
    source: str


SCHEMAS: dict[str, type[BaseModel]] = {"accelerator": AcceleratorFile, "cluster": ClusterFile, "library": LibraryFile,
                                       "recipe": RecipeFile, "framework": FrameworkFile,
                                       "optimizer": OptimizerFile, "workload": WorkloadFile,
                                       "engine": EngineFile}
