"""Accounting: what each published FLOP count counts, model and hardware FLOP utilisation, days, energy and money.

The same run reads 5 to 33 percent differently under two conventions (attention halved for causality or not, recompute
counted or not, logits counted or not), so every count below carries the name of its convention.
"""

from __future__ import annotations

from typing import Any

from perfplan.formulas.core import formula

__all__ = [
    "achieved_flop_rate",
    "attention_flops_per_token",
    "budget_steps",
    "energy_used",
    "flops_6nd",
    "k22_hardware_flops",
    "k22_model_flops",
    "mfu_from_rate",
    "mfu_from_time",
    "money_spent",
    "mosaic_flops_per_token",
    "run_time",
    "sc21_flops",
    "sc21_run_time",
    "scaled_iteration_time",
    "system_flop_rate",
    "threshold_time",
    "token_rate",
    "weight_flops_per_token",
]

_SC21 = "Narayanan et al. 2021 (SC21), section 3.3 and appendix"
_K22 = "Korthikanti et al. 2022, appendix A"
_MEGASCALE = "MegaScale (NSDI 2024); training_communication.md section 3 [derived]"


@formula("C_6ND", "FLOP", source="matrix products of forward and backward, one multiply-add per weight and pass")
def flops_6nd(params: Any, tokens: Any) -> Any:
    """FLOPs of a run under 6ND: weights only, no attention, no recompute; say whether N has the embedding.

    params : parameters that a token meets [1]
    tokens : tokens trained on [1]

    GPT-3, 300B tokens:

    >>> round(flops_6nd(175e9, 300e9) / 1e23, 2)
    3.15
    """
    return 6 * params * tokens


@formula("C_w", "FLOP", source="2 FLOP per weight forward, twice that backward (training_core.md section 1)")
def weight_flops_per_token(weights: Any) -> Any:
    """FLOPs per token in the matrix products with weights, forward and backward.

    weights : matrix elements that one token meets, LM head included, embedding look-up not [1]

    >>> weight_flops_per_token(7.5e9) / 1e9
    45.0
    """
    return 6 * weights


@formula("C_a", "FLOP", source="training_core.md sections 1.2 and 1.3")
def attention_flops_per_token(layers: Any, heads: Any, qk_width: Any, v_width: Any, attended: Any) -> Any:
    """FLOPs per token in core attention, forward and backward (three passes), recompute not counted.

    layers : layers with softmax attention [1]
    heads : query heads [1]
    qk_width : query and key width of one head [1]
    v_width : value width of one head [1]
    attended : keys per query: s if counted in full, s/2 if causal, the window at most [1]

    Llama-3-8B at 8192 tokens counted in full (57.91 GFLOP/token with its 7.505e9 weights):

    >>> round((attention_flops_per_token(32, 32, 128, 128, 8192) + weight_flops_per_token(7.505e9)) / 1e9, 2)
    57.91
    """
    return 6 * layers * heads * (qk_width + v_width) * attended


@formula("C_Mosaic", "FLOP", source="mosaicml/llm-foundry scripts/train/benchmarking/README.md")
def mosaic_flops_per_token(params: Any, layers: Any, hidden: Any, seq_len: Any) -> Any:
    """FLOPs per token as llm-foundry counts them: embedding inside N, full attention, no recompute.

    params : parameters, input embedding included [1]
    layers : layers [1]
    hidden : model width [1]
    seq_len : tokens per sequence [1]

    MPT-70B on 64 A100 at 410 tokens/s per GPU is published as 166 model TFLOP/s per GPU:

    >>> round(410 * mosaic_flops_per_token(64862437376, 80, 8192, 2048) / 1e12)
    166
    """
    return 6 * params + 12 * layers * hidden * seq_len


@formula("C_SC21", "FLOP", source=_SC21)
def sc21_flops(batch: Any, seq_len: Any, layers: Any, hidden: Any, vocab: Any) -> Any:
    """Hardware FLOPs of one step, every layer recomputed: full multi-head attention, MLP of four times the width.

    batch : sequences per step [1]
    seq_len : tokens per sequence [1]
    layers : layers [1]
    hidden : model width [1]
    vocab : vocabulary, padded [1]

    The layers cost 4/3 of what they cost without recompute; the logits are not recomputed:

    >>> round(sc21_flops(1, 2048, 96, 12288, 0) / k22_model_flops(1, 2048, 96, 12288, 0), 6)
    1.333333
    """
    return 96 * batch * seq_len * layers * hidden**2 * (1 + seq_len / (6 * hidden) + vocab / (16 * layers * hidden))


@formula("C_K22", "FLOP", source=_K22)
def k22_model_flops(batch: Any, seq_len: Any, layers: Any, hidden: Any, vocab: Any) -> Any:
    """Model FLOPs of one step: full multi-head attention, MLP of four times the width, no recompute.

    batch : sequences per step [1]
    seq_len : tokens per sequence [1]
    layers : layers [1]
    hidden : model width [1]
    vocab : vocabulary, padded [1]

    The 22B model on 8 A100 in 1.10 s (published: 41.5 %; the time is rounded):

    >>> round(k22_model_flops(4, 2048, 48, 6144, 51200) / (8 * 312e12 * 1.10), 4)
    0.4165
    """
    return 72 * batch * seq_len * layers * hidden**2 * (1 + seq_len / (6 * hidden) + vocab / (12 * hidden * layers))


@formula("C_K22hw", "FLOP", source=f"{_K22}; identified from the four published HFU (training_core.md section 1.3)")
def k22_hardware_flops(batch: Any, seq_len: Any, layers: Any, hidden: Any, vocab: Any) -> Any:
    """Hardware FLOPs of one step with selective recompute, as the paper's HFU column counts them.

    batch : sequences per step [1]
    seq_len : tokens per sequence [1]
    layers : layers [1]
    hidden : model width [1]
    vocab : vocabulary, padded [1]

    The 22B model turns an MFU of 41.5 % into an HFU of 43.7 %:

    >>> ratio = k22_hardware_flops(4, 2048, 48, 6144, 51200) / k22_model_flops(4, 2048, 48, 6144, 51200)
    >>> round(0.415 * ratio, 3)
    0.437
    """
    return 72 * batch * seq_len * layers * hidden**2 * (1 + seq_len / (3 * hidden) + vocab / (12 * hidden * layers))


@formula("MFU", "1", source="Chowdhery et al. 2022 (PaLM): FLOPs of the convention over what the peak could do")
def mfu_from_time(flops: Any, step_time: Any, accelerators: Any, peak: Any) -> Any:
    """FLOP utilisation from a step time; model or hardware utilisation by what `flops` counts.

    flops : FLOPs of one step [FLOP]
    step_time : time of one step [s]
    accelerators : accelerators in the run [1]
    peak : dense peak of one accelerator [FLOP/s]

    >>> round(mfu_from_time(k22_model_flops(64, 2048, 96, 12288, 51200), 13.75, 64, 312e12), 4)
    0.5139
    """
    return flops / (step_time * accelerators * peak)


@formula("MFU", "1", source="Chowdhery et al. 2022 (PaLM)")
def mfu_from_rate(flops_per_token: Any, tokens_per_second: Any, accelerators: Any, peak: Any) -> Any:
    """FLOP utilisation from a token rate.

    flops_per_token : FLOPs per token of the convention [FLOP]
    tokens_per_second : tokens per second of the whole run [tokens/s]
    accelerators : accelerators in the run [1]
    peak : dense peak of one accelerator [FLOP/s]

    MegaScale's table: Megatron-LM on 12,288 GPUs at 1466.8k tokens/s, published as 41.2 %:

    >>> per_token = k22_model_flops(1, 2048, 96, 12288, 64000) / 2048
    >>> round(mfu_from_rate(per_token, 1466.8e3, 12288, 312e12), 3)
    0.412
    """
    return flops_per_token * tokens_per_second / (accelerators * peak)


@formula("R_tokens", "tokens/s", source="tokens of one step over its time, per accelerator in use")
def token_rate(tokens: Any, step_time: Any, accelerators: Any) -> Any:
    """Tokens per second and accelerator.

    tokens : tokens of one step, global batch times sequence length [tokens]
    step_time : time of one step [s]
    accelerators : accelerators in use [1]

    >>> token_rate(128 * 8192, 2.0, 64)
    8192.0
    """
    return tokens / (step_time * accelerators)


@formula("F_sys", "FLOP/s", source="utilisation times peak")
def system_flop_rate(accelerators: Any, peak: Any, utilisation: Any) -> Any:
    """FLOP rate of a whole run.

    accelerators : accelerators in the run [1]
    peak : dense peak of one accelerator [FLOP/s]
    utilisation : fraction of the peak [1]

    >>> round(system_flop_rate(12288, 312e12, 0.412) / 1e15, 1)
    1579.5
    """
    return accelerators * peak * utilisation


@formula("F_acc", "FLOP/s", source=_SC21)
def achieved_flop_rate(flops: Any, step_time: Any, accelerators: Any) -> Any:
    """FLOP rate that one accelerator achieves.

    flops : FLOPs of one step under the convention wanted [FLOP]
    step_time : time of one step [s]
    accelerators : accelerators in the run [1]

    >>> achieved_flop_rate(3.12e18, 10.0, 1000) / 1e12
    312.0
    """
    return flops / (step_time * accelerators)


@formula("T_run", "s", source="tokens over rate")
def run_time(tokens: Any, tokens_per_second: Any) -> Any:
    """Time of a whole run without interruptions.

    tokens : tokens trained on [tokens]
    tokens_per_second : tokens per second of the whole run [tokens/s]

    300B tokens at 1466.8k tokens/s, published as 2.37 days:

    >>> round(run_time(300e9, 1466.8e3) / 86400, 2)
    2.37
    """
    return tokens / tokens_per_second


@formula("T_run", "s", source=f"{_SC21}, equation for the end-to-end training time")
def sc21_run_time(tokens: Any, params: Any, accelerators: Any, achieved: Any) -> Any:
    """Time of a whole run with full recompute: eight FLOP per parameter and token.

    tokens : tokens trained on [1]
    params : parameters [1]
    accelerators : accelerators in the run [1]
    achieved : hardware FLOP rate of one accelerator, recompute counted [FLOP/s]

    GPT-3 on 1024 A100 at 140 TFLOP/s, published as 34 days:

    >>> round(sc21_run_time(300e9, 175e9, 1024, 140e12) / 86400)
    34
    """
    return 8 * tokens * params / (accelerators * achieved)


@formula("T_iter", "s", source=_MEGASCALE)
def scaled_iteration_time(
    compute: Any, smallest: Any, accelerators: Any, constant: Any, batch: Any, tp: Any, pp: Any, chunks: Any
) -> Any:
    """Strong scaling of one job: compute that divides, a bubble that grows as micro-batches run out, and a constant.

    compute : compute of one iteration at the smallest size, without bubble [s]
    smallest : accelerators of the smallest size [1]
    accelerators : accelerators of this size [1]
    constant : time per iteration that does not divide [s]
    batch : sequences per step, micro-batch 1 [1]
    tp : tensor parallel ranks [1]
    pp : pipeline stages [1]
    chunks : virtual stages per rank [1]

    Megatron-LM's 175B run of MegaScale's table, batch 768, on 1024 GPUs (published: 11.9 s):

    >>> round(scaled_iteration_time(37.4, 256, 1024, 2.38, 768, 8, 8, 6), 2)
    11.96
    """
    bubble = (pp - 1) * accelerators / (chunks * batch * tp * pp)
    return compute * (1 + bubble) * smallest / accelerators + constant


@formula("E", "J", source="board power and host share at the meter, times time")
def energy_used(power: Any, accelerators: Any, time: Any, pue: Any) -> Any:
    """Energy of a run at the meter of the building.

    power : power per accelerator with its share of host and network [W]
    accelerators : accelerators in the run [1]
    time : time of the run [s]
    pue : power usage effectiveness of the building [1]

    1024 accelerators at 1 kW for one day at PUE 1.1, in MWh:

    >>> round(energy_used(1000.0, 1024, 86400.0, 1.1) / 3.6e9, 2)
    27.03
    """
    return power * accelerators * time * pue


@formula("M", "$", source="price per accelerator-hour times hours")
def money_spent(price: Any, accelerators: Any, time: Any) -> Any:
    """Money for a run that rents every accelerator for the whole time.

    price : price of one accelerator-hour [$/h]
    accelerators : accelerators in the run [1]
    time : time of the run [s]

    >>> money_spent(2.0, 1024, 3600.0)
    2048.0
    """
    return price * accelerators * (time / 3600)


@formula("n_steps", "1", source="Languini Kitchen: measured rate times hours on the reference accelerator")
def budget_steps(time: Any, tokens_per_second: Any, batch: Any, seq_len: Any) -> Any:
    """Optimizer steps that a budget of accelerator time pays for.

    time : accelerator time of the budget [s]
    tokens_per_second : measured rate of the reference accelerator [tokens/s]
    batch : sequences per step [1]
    seq_len : tokens per sequence [1]

    GPT small, six hours of an RTX 3090 (published: 18,265 steps):

    >>> round(budget_steps(6 * 3600, 55416, 128, 512))
    18265
    """
    return time * tokens_per_second / (batch * seq_len)


@formula("T_C", "s", source="FLOPs of the threshold over the rate reached (training_communication.md section 14)")
def threshold_time(flops: Any, accelerators: Any, peak: Any, utilisation: Any) -> Any:
    """Time after which a run has used a number of FLOPs; `utilisation` and `flops` follow one counting rule.

    flops : FLOPs to be used [FLOP]
    accelerators : accelerators in the run [1]
    peak : dense peak of one accelerator [FLOP/s]
    utilisation : FLOP utilisation [1]

    12,288 A100 at 41.2 %, until 1e25 FLOP:

    >>> round(threshold_time(1e25, 12288, 312e12, 0.412) / 86400, 1)
    73.3
    """
    return flops / (accelerators * peak * utilisation)
