"""Frozen specs that the catalog gives out: SI floats (B, B/s, FLOP/s, s, W, $/s is never used: $ per hour), no YAML.

`None` means unknown and stays unknown: whoever needs the number raises an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


# ---------------------------------------------------------------- hardware
@dataclass(frozen=True)
class Kernel:
    """Constants of one kernel kind and dtype: t = max(work/(compute*peak), bytes/(memory*bandwidth)) + overhead.

    compute, memory: fractions of the dense peak and of the memory bandwidth [1]; overhead: time per kernel [s];
    half: work size at which half of `compute` is reached (attention: query length in tokens; 0 = no such term);
    step: latency of the loop of a matrix product, per element of its inner dimension [s].
    Attention forward and backward together (formulas.attention.pass_pair_time; half: tokens by which the diagonal
    lengthens causal sequences): narrow: fraction reached with heads of 64 over that with heads of 128 [1].
    Expert layers (formulas.moe.experts_time; half: rows that fill up the tiles of one expert): around: fraction of the
    bandwidth that the kernels around the products reach [1]; each: time that the tables of one expert cost [s].
    Decode attention (formulas.attention.decode_time): start: fraction of the bandwidth while its pipelines fill [1];
    ramp: longest time that this costs [s]; spread: units that one head of one sequence keeps busy (0 = all: it splits).
    """

    compute: float
    memory: float
    overhead: float
    half: float = 0.0
    narrow: float = 0.0
    step: float = 0.0
    around: float = 0.0
    each: float = 0.0
    start: float = 1.0
    ramp: float = 0.0
    spread: float = 0.0
    source: str = ""
    borrowed: str = ""  # id of the accelerator these constants were fitted on, if not this one


@dataclass(frozen=True)
class Accelerator:
    """One accelerator as software sees it (a GPU, a GCD, a TPU chip)."""

    id: str
    name: str
    vendor: str
    family: str  # generation: volta, ampere, ada, hopper, blackwell, cdna2, cdna3, cdna4, tpu, gaudi, apple, ...
    memory: float  # B, as the driver reports
    memory_bandwidth: float  # B/s
    peak: Mapping[str, float]  # dtype -> dense FLOP/s (OP/s for int8)
    kernels: Mapping[str, Mapping[str, Kernel]]  # kind -> dtype[:kv dtype][@software] -> constants
    sustained: Mapping[str, float] = field(default_factory=dict)
    # dtype (any = the others) -> clock in a long step over clock in an isolated kernel, compute-bound work only [1]
    lent: Mapping[str, float] = field(default_factory=dict)
    # dtype -> what whole steps reach of the rate that borrowed constants of products promise, at the full clock [1]
    units: int | None = None  # SMs, CUs, cores
    l2: float | None = None  # B
    tdp: float | None = None  # W
    price_per_hour: float | None = None  # $ per accelerator-hour
    host_bandwidth: float | None = None  # B/s per direction (PCIe, C2C)
    default_cluster: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)  # field -> source
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Level:
    """One network level. A domain of the level holds `size` accelerators; levels are listed innermost first.

    bandwidth: one direction, per accelerator, all links of the level [B/s]; latency: per hop [s];
    launch: fixed cost of one collective call [s]; efficiency: (ranks in the domain, fraction of `bandwidth` reached
    by large collectives), ascending; fill: share of the latency that the chunks of a message pay [1];
    reduction: fraction of `bandwidth` reached by in-network all-reduce, 0 = none; reduction_ranks: fewest ranks for
    which the library reduces in the network;
    oversubscription: >= 1, divides `bandwidth` beyond the domain below; rails: NICs per node (information);
    operations: operation -> the same table where its efficiency differs (all_gather stands for reduce_scatter too);
    dims: torus shape; peer: bandwidth of a message to one peer, where it is not that of two ranks in a ring [B/s].
    """

    name: str
    size: int
    topology: str  # switch | mesh | torus | ring (information)
    bandwidth: float
    latency: float
    launch: float
    efficiency: tuple[tuple[int, float], ...]
    fill: float = 0.0
    reduction: float = 0.0
    reduction_ranks: int = 2
    oversubscription: float = 1.0
    rails: int = 1
    dims: tuple[int, ...] = ()
    peer: float | None = None
    source: str = ""
    borrowed: str = ""
    operations: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Exchange:
    """What one algorithm of a library costs on one accelerator: constants of its own, beside those of the links.

    launch: constant time of a call [s]; latency: what each further rank adds [s]; floor: least time of a call [s];
    efficiency: (ranks, fraction of the link bandwidth reached), ascending; the algorithm serves from the fewest on.
    """

    launch: float
    efficiency: tuple[tuple[int, float], ...]
    latency: float = 0.0
    floor: float = 0.0
    source: str = ""


@dataclass(frozen=True)
class Library:
    """A collective library: per operation the algorithms it has, and the constants of its own selection model.

    algorithms: operation -> names in the order tried. tuner: algorithm -> (base [s], hop inside a node [s],
    hop between nodes [s], fraction of the bus bandwidth [1]); empty = the first algorithm listed is always taken.
    exchange: hops that an all-to-all waits for, of those of a ring [1]. kernels: accelerator -> algorithm ->
    its own constants; borrow: accelerator -> whose it has. software: how labels of measured rows begin;
    callers: label, a release may follow -> constant time that a caller adds to every call [s].
    """

    id: str
    algorithms: Mapping[str, tuple[str, ...]]
    tuner: Mapping[str, tuple[float, float, float, float]]
    memory: float  # B of buffers per rank
    exchange: float = 1.0
    source: str = ""
    kernels: Mapping[str, Mapping[str, Exchange]] = field(default_factory=dict)
    borrow: Mapping[str, str] = field(default_factory=dict)
    software: tuple[str, ...] = ()
    callers: Mapping[str, float] = field(default_factory=dict)

    def kernel(self, chip: str, algorithm: str) -> Exchange | None:
        """Constants of an algorithm on an accelerator, borrowed where it has none; None = not measured."""
        return self.kernels.get(chip, self.kernels.get(self.borrow.get(chip, ""), {})).get(algorithm)

    def called(self, software: str) -> float:
        """Time that the caller of a measured row adds to each call, by its label: "torch2.9" begins with torch [s]."""
        for name, extra in self.callers.items():
            if software == name or (software.startswith(name) and software[len(name)].isdigit()):
                return extra
        return 0.0


@dataclass(frozen=True)
class Cluster:
    """Accelerators of one kind on a hierarchy of network levels; `levels[0]` is the fast domain."""

    id: str
    name: str
    accelerator: Accelerator
    levels: tuple[Level, ...]
    library: Library
    accelerators_per_node: int
    size: int | None = None  # accelerators in the whole machine, None = as many as asked for
    overhead_power: float = 0.0  # W per accelerator for host, NICs, fans
    pue: float = 1.0
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    dispatcher: Library | None = None  # of tokens to experts; None = the all-to-all of `library`

    @property
    def fast_domain(self) -> int:
        """Accelerators in one fast-interconnect domain."""
        return self.levels[0].size


# ---------------------------------------------------------------- model
@dataclass(frozen=True)
class Attention:
    """Softmax attention. kv_heads < heads: GQA; kv_lora_rank > 0: MLA (head_dim = nope + rope); window 0 = full."""

    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int = 0
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    bias: bool = False
    output_gate: bool = False
    index_heads: int = 0  # sparse-attention indexer (DSA); 0 with index_topk > 0: reuses the selection of a layer below
    index_head_dim: int = 0
    index_topk: int = 0
    output_bias: bool = False
    qk_norm: bool = False  # norm over each query and key head
    chunked: bool = False  # `window` is a block that starts anew every `window` tokens (Llama 4), not a sliding one
    kv_shared: bool = False  # keys serve as values: one projection, one cached tensor
    compression: int = 0  # tokens per entry of a compressed cache read beside the window (DeepSeek-V4); 0 = none
    o_lora_rank: int = 0  # grouped low-rank output projection (DeepSeek-V4)
    o_groups: int = 0


@dataclass(frozen=True)
class Mamba:
    """Mamba-2 (SSD) mixer: inner width = heads * head_dim."""

    heads: int
    head_dim: int
    state: int
    groups: int
    conv: int = 4
    chunk: int = 256


@dataclass(frozen=True)
class LinearAttention:
    """Linear attention of the delta-rule family; widths per head; gate_rank > 0: low-rank gates per channel (KDA),
    0: a full-width output gate and scalar gates per head (gated DeltaNet)."""

    qk_heads: int
    v_heads: int
    qk_head_dim: int
    v_head_dim: int
    conv: int = 4
    chunk: int = 64
    gate_rank: int = 0
    output_gate: bool = False  # KDA with an output gate of full width instead of a low-rank one


@dataclass(frozen=True)
class Mlp:
    """Dense MLP: three matrices if gated, else two."""

    width: int
    gated: bool
    bias: bool = False


@dataclass(frozen=True)
class Moe:
    """Routed experts of `width`, `top_k` of `experts` per token; `shared_width`: all shared experts together; `latent`:
    width that the routed experts see instead of the hidden size (0 = hidden size); groups, group_limit: groups of
    neighbouring experts, of which a token picks from `group_limit` at most (0 = all)."""

    experts: int
    top_k: int
    width: int
    gated: bool
    shared_width: int = 0
    latent: int = 0
    groups: int = 1
    group_limit: int = 0


@dataclass(frozen=True)
class LayerKind:
    """One kind of layer: a mixer and a feed-forward part, either may be absent (single-mixer blocks of hybrids)."""

    mixer: Attention | Mamba | LinearAttention | None
    ffn: Mlp | Moe | None
    parallel: bool = False  # attention and MLP read the same norm (one residual add)
    post_norm: bool = False  # a second norm after each part (Gemma)


@dataclass(frozen=True)
class Model:
    """A decoder-only language model: `layers[i]` is an index into `kinds`.

    mtp_layers: multi-token-prediction modules that training runs, one per further token; mtp_shared: all of them have
    one set of weights; mtp_block: kinds of the layers of one module, the last layer's unless given.
    """

    id: str
    name: str
    hidden: int
    vocab: int
    tied: bool
    kinds: tuple[LayerKind, ...]
    layers: tuple[int, ...]
    max_position: int = 0
    norm: str = "rms"
    positional: str = "rope"
    mtp_layers: int = 0
    mtp_shared: bool = False
    mtp_block: tuple[int, ...] = ()
    dtype: str = "bf16"  # number format of the published weights
    residual_streams: int = 1  # > 1: hyper-connections (DeepSeek-V4)
    published_params: float | None = None
    published_active: float | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def prediction_block(self) -> tuple[int, ...]:
        """Kinds of the layers of one multi-token-prediction module."""
        return self.mtp_block or self.layers[-1:]

    @property
    def routed(self) -> bool:
        """Whether any layer has routed experts."""
        return any(isinstance(kind.ffn, Moe) for kind in self.kinds)


# ---------------------------------------------------------------- number formats and software
@dataclass(frozen=True)
class Recipe:
    """A precision recipe: what each op computes in, what is stored per parameter, what each collective moves.

    gemm: pass (forward, dgrad, wgrad) -> dtype of the linear layers' GEMMs; experts: the same for grouped GEMMs;
    attention, head, router: dtypes; scale_block: elements per scale factor (0 = one per tensor), scale_bytes each;
    cast_reads: times that a cast to a narrow format reads its input (2 = the scale of the whole tensor is taken first);
    bf16_layers: how many first and last layers stay in bf16; weight, transposed, master, gradient, moments: bytes per
    parameter; saved: bytes per element of a GEMM input kept for backward; wire: collective (tp, cp, pp, ep_dispatch,
    ep_combine, dp_reduce, dp_gather) -> bytes per element.
    """

    id: str
    gemm: Mapping[str, str]
    experts: Mapping[str, str]
    attention: str
    head: str
    router: str
    scale_block: int
    scale_bytes: float
    cast_reads: int
    bf16_layers: tuple[int, int]
    weight: float
    transposed: float
    master: float
    gradient: float
    moments: float
    saved: float
    wire: Mapping[str, float]
    source: str = ""


@dataclass(frozen=True)
class Optimizer:
    """What an optimizer keeps and computes. moments: bytes of all moments per parameter of a layer's matrices; others:
    the same for embedding and head; iterations: Newton-Schulz iterations per step on each matrix, 0 = none."""

    id: str
    moments: float
    others: float
    iterations: int = 0
    source: str = ""


@dataclass(frozen=True)
class Release:
    """How a software release differs on one accelerator: factor on the step time [1], from `rows` measured steps."""

    factor: float
    rows: int
    source: str


@dataclass(frozen=True)
class Framework:
    """A training software release: fixed times, what it overlaps and reserves by default.

    host_gap: host time between micro-batch passes of one stage [s]; step_gap: per optimizer step [s]; launch: host time
    per kernel when eager [s]; optimizer_bytes: bytes moved per owned parameter by the optimizer step;
    context: memory of the driver context and workspaces [B]; fragmentation: fraction of activations that the allocator
    loses;
    overlap: axis (tp, dp, pp, ep, fsdp, cp, offload) -> fraction of its communication that may hide behind compute;
    contention: slow-down of compute while communication overlaps [1].
    """

    id: str
    host_gap: float
    step_gap: float
    launch: float
    optimizer_bytes: float
    context: float
    fragmentation: float
    overlap: Mapping[str, float]
    contention: float
    attention: str  # flash | flash1 (an older fused kernel) | unfused
    dropout: bool = False  # masks are drawn, stored and applied
    skew: float = 0.0  # what a launched-late blocking collective waits for hosts out of step, per further rank [s]
    sync: float = 0.0  # what a blocking collective stops the accelerator beyond the time of its library [s]
    group_launch: float = 0.0  # host time per expert and pass of an eager grouped GEMM, its casts included [s]
    moe_launch: float = 0.0  # host time of a MoE layer, both passes, whose shapes follow from the routing [s]
    gathered_units: float = 3.0  # layers' worth of gathered weights and gradients alive when weights are sharded
    logits: float = 6.0  # bytes per logit alive in the loss: 16-bit ones and their fp32 softmax, unless fused [B]
    working_copy: bool = True  # weights for the products are stored beside the master copy, not cast when gathered
    host_link: float | None = None  # fraction of the host link that copies reach [1]
    host_update: float | None = None  # parameters that Adam updates per second on an accelerator's share of the CPU
    mtp: bool = False  # whether its pretraining recipes train the model's multi-token-prediction modules
    scatter_gather: bool = False  # pipeline sends split the activation over the tensor-parallel group even without sp
    releases: Mapping[str, Mapping[str, Release]] = field(default_factory=dict)  # release -> chip/CLASS -> factor
    release: str = ""  # the release meant; "" = no release in particular: no factor
    source: str = ""

    def released(self, chip: str, moe: bool) -> Release | None:
        """The factor of the release meant, on an accelerator and for a class of models; None if none is known."""
        return self.releases.get(self.release, {}).get(f"{chip}/{'moe' if moe else 'dense'}")


@dataclass(frozen=True)
class Engine:
    """One release of a serving engine: what it reserves, how it forms batches, and the times that are its own.

    library: collective library with its all-reduce kernels; page: tokens of a cache page; memory_fraction: of the
    device (`memory_basis` total) or of what the loaded model leaves free (free); context: memory outside the allocator
    [B]; max_batch: sequences per attention rank; token_budget: tokens of one step; chunked: whether prompts beyond the
    budget are split; mixed: whether prompts share a step with decodes; padding: batches up to which graphs are
    captured: smaller ones are padded to the next of them; step: host time of a decode step that the device waits for
    [s]; prompt: the same for a step with prompts [s]; sequence: host time per sequence and step [s]; layer: time of a
    layer beyond its kernels [s]; overhead: share of an isolated kernel's constant that is left inside a captured graph
    [1]; eager: the same for prompts, launched one by one [1]; launch: least host time per layer of a step with prompts,
    which hides behind the device's [s]; gather: prompts that share a step, per request that one step lets in on average
    [1]; joined: prompt tokens of a closed loop that share a step where prompts are shorter [1]; together: share of the
    requests of a closed loop whose prompts run one after another before any of them decodes [1]; reads: number format
    -> fraction of the memory bandwidth of its decode kernels, where they are its own; unit_rate: most bytes per second
    that one unit of the chip draws in its decode kernels, 0 = no such limit [B/s]; products: fraction of the dense peak
    that decode attention on the vector units reaches, 0 = it uses the catalog's; narrow: whether 16-bit products are
    accumulated in 16 bits, at half the rate of int8; per_watt: rate of products per watt where the power of the chip
    limits them, 0 = it does not [FLOP/s]; unpack: rows of a product from which narrow weights are first written out in
    16 bits, 0 = never; first: time of a request before its prompt runs, for the server and its tokens, that delays no
    other request [s]; routed: time of a layer with routed experts beyond its kernels [s]; evenness: of the popularity
    of experts among the tokens of a step, see formulas.serving.touched_experts [1]; tables: share of the catalog's time
    for tables of experts [1]; gathers: whether the products of experts fetch their rows themselves, so that none are
    permuted before; idle_experts: number format -> share of the experts without tokens whose weights its kernels read
    all the same [1]; windows: whether caches and kernels use the sliding windows of a model, else all layers keep and
    read everything; no_evict: whether a request is admitted only if the cache holds it at its full length; compute:
    fraction of the matrix rate of the catalog's kernels that its prompts reach [1]; quantised: the same once more where
    products run in fewer than 16 bits [1]; cached: fraction of the memory rate of the catalog's decode attention that
    is left beside other kernels, over pages and unequal lengths [1]; throttled: whether the matrix units run at the
    clock that a long run sustains, as where all requests are queued from the start, or at the full clock, for decodes
    leave them idle; burst: share of the requests of a closed loop that arrive together [1]; ahead: steps with a
    neighbour's prompt that the prompt of a request in a closed loop waits for [1]; stream: time that every user of a
    closed loop adds to first tokens, for all go through one server [s].
    """

    id: str
    name: str
    library: str
    page: int
    memory_fraction: float
    memory_basis: str
    context: float
    max_batch: int
    token_budget: int
    chunked: bool
    mixed: bool
    padding: tuple[int, ...]
    step: float
    prompt: float
    sequence: float
    layer: float
    overhead: float
    eager: float
    compute: float
    burst: float
    ahead: float = 0.0
    stream: float = 0.0
    launch: float = 0.0
    gather: float = 1.0
    joined: float = 0.0
    together: float = 0.0
    throttled: bool = True
    evenness: float = 1e6
    tables: float = 1.0
    quantised: float = 1.0
    cached: float = 1.0
    gathers: bool = False
    reads: Mapping[str, float] = field(default_factory=dict)
    unit_rate: float = 0.0
    products: float = 0.0
    narrow: bool = False
    per_watt: float = 0.0
    unpack: int = 0
    no_evict: bool = False
    windows: bool = True
    first: float = 0.0
    routed: float = 0.0
    idle_experts: Mapping[str, float] = field(default_factory=dict)
    kernels: Library | None = None  # the collective library, loaded
    source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def kernel_names(self) -> str:
        """Name of the engine among the kernel constants of accelerators."""
        return self.id.partition("-")[0]
