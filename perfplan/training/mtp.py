"""Multi-token prediction in training: modules beside the head that each predict one token further.

One module normalises the last hidden state and the embedding of the next token, joins them in a projection of twice the
width, runs its own layers and then the model's head and loss (DeepSeek-V3 report, section 2.2; training_core.md 1.1).
Embedding and head are the model's; pipeline stages that lack the embedding keep a copy of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from perfplan.formulas.core import maximum
from perfplan.formulas.parameters import prediction_parameters
from perfplan.training.job import Job
from perfplan.training.layers import Away, Cost, end_costs, layer_cost, run_cost
from perfplan.training.network import Network
from perfplan.training.ops import Gemm, Op, Stream
from perfplan.training.shape import Shape

__all__ = ["prediction_cost", "prediction_ops"]


def prediction_ops(job: Job, shape: Shape) -> list[Op]:
    """Norms of the hidden state and the embedding, and the projection of both."""
    hidden = job.model.hidden
    block = shape.rows * hidden
    return [Stream("mtp norms", "layernorm", 2 * 4 * block, 2 * 6 * block, 4),
            Gemm("mtp projection", "", shape.tokens, hidden / shape.tp, 2 * hidden)]


def _added(costs: Sequence[Cost]) -> Cost:
    """Costs of pieces that run one after another."""
    def column(name: str) -> Any:
        return sum(getattr(cost, name) for cost in costs)

    summed = Cost(**{field.name: column(field.name) for field in fields(Cost)})
    alive: Any = 0.0
    for cost in costs:
        alive = maximum(alive, cost.whole - cost.saved)
    return replace(summed, whole=summed.saved + alive)


def prediction_cost(
    job: Job, net: Network, shape: Shape, cp_kind: str, recompute: tuple[str, ...], away: Away = ()
) -> Cost | None:
    """All multi-token-prediction modules of a job, per micro-batch and rank of the last stage; None without any."""
    depth, model = job.mtp_depth, job.model
    if not depth:
        return None
    first, last = end_costs(job, net, shape)
    block = shape.rows * model.hidden
    joined = run_cost(job, net, shape, prediction_ops(job, shape), 2.0 * model.hidden)
    joined = replace(joined, saved=(2 * 2 + 2 * job.recipe.saved) * block,
                     dense=prediction_parameters(model.hidden, shape.tp))
    layers = [layer_cost(job, net, model.kinds[kind], shape, cp_kind, recompute, away)
              for kind in model.prediction_block]
    ends = [replace(end, dense=0.0, frozen=0.0, whole=end.saved) for end in (first, last)]
    module = _added([ends[0], joined, *layers, ends[1]])
    times = {name: depth * getattr(module, name) for name in
             ("forward", "backward", "recompute", "tp", "cp", "ep", "host", "hidden", "offload", "saved")}
    sets = 1 if model.mtp_shared else depth
    return replace(module, **times, whole=times["saved"] + module.whole - module.saved, dense=sets * module.dense,
                   expert=sets * module.expert)
