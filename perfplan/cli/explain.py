"""`perfplan explain`: where a number comes from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from perfplan.cli import options, serving
from perfplan.cli.groups import grouped
from perfplan.errors import OutOfRange

if TYPE_CHECKING:
    from perfplan.catalog import Catalog
    from perfplan.report import Output
    from perfplan.symbolic.explain import Row
    from perfplan.training.estimate import Estimate

__all__ = ["explain"]

Quantity = Annotated[
    str | None,
    typer.Argument(
        metavar="QUANTITY",
        show_default=False,
        help="A formula by name or symbol; with MODEL, a quantity of its estimate: step_time, memory, mfu,"
        " tokens_per_s, dp, T_AR,ring.",
    ),
]
Model = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL", show_default=False, help="Explain the estimate of this model; the options are estimate's."
    ),
]
Line = Annotated[
    tuple[str, str],
    typer.Option(
        "--from",
        metavar="FRAMEWORK 'FLAGS'",
        show_default=False,
        help="Explain the estimate of a launch line: of megatron-lm, or, with --isl and --osl, of vllm, sglang or"
        " tensorrt-llm.",
    ),
]
ListAll = Annotated[
    bool,
    typer.Option(
        "--list",
        help="List the formulas by topic, or those of the topic named, such as queueing; with --csv or --json also"
        " their sources.",
    ),
]
Latex = Annotated[bool, typer.Option("--latex", help="Print LaTeX.")]
Depth = Annotated[int, typer.Option("--depth", metavar="N", min=0, help="Levels of the tree that are printed.")]
Turning = Annotated[
    str,
    typer.Option(
        "--break-even",
        metavar="NUMBER",
        show_default=False,
        help="Say instead at which value of a hardware number the step turns compute-bound: 'network bandwidth',"
        " 'fast-domain bandwidth', 'memory bandwidth', 'peak FLOP/s'.",
    ),
]


STEP = ("step_time", "step-time", "step", "T_step")
_NEEDED = ("cluster", "layout", "global_batch", "seq_len")
OF_FORMULA = {"quantity", "list_all", "latex", "csv", "json"}
OF_EXPERTS = ("routing", "routing_skew")
OF_SERVING = {"quantity", "model", "cluster", "layout", "line", "isl", "osl", "concurrency", "engine", "weights", "kv",
              "settings", "catalog", "depth", "latex", "csv", "json", *OF_EXPERTS}
OF_LIST = {"quantity", "list_all", "csv", "json"}
NOT_OF_TURNING = {"depth", "latex"}


def _given(context: typer.Context) -> dict[str, str]:
    """Parameters that stand on the command line: name -> how it is written there."""
    written = {parameter.name: parameter.opts[0] for parameter in context.command.params if parameter.name}
    return {
        name: option
        for name, option in written.items()
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }


@grouped
def explain(
    context: typer.Context,
    quantity: Quantity = None,
    model: Model = None,
    cluster: options.Cluster = "",
    layout: options.LayoutText = "",
    global_batch: options.LineBatch = None,
    seq_len: options.LineSeqLen = None,
    line: Line = ("", ""),
    gpus: options.LayoutGpus = None,
    job: options.Job = None,
    isl: serving.Isl = "",
    osl: serving.Osl = "",
    concurrency: serving.Concurrency = None,
    engine: serving.EngineOrLine = "",
    weights: serving.Weights = "",
    kv: serving.Kv = "",
    settings: options.Settings = None,
    catalog: options.Folders = None,
    depth: Depth = 3,
    break_even: Turning = "",
    list_all: ListAll = False,
    latex: Latex = False,
    csv: options.Csv = None,
    json: options.Json = False,
) -> None:
    """Show where a number comes from: symbol, expression, value, unit, source; of a formula or of an estimate."""
    from perfplan.catalog import Catalog
    from perfplan.report import Output

    output = Output(csv, json)
    given = _given(context)
    if list_all:
        _refuse(given, {*given}.difference(OF_LIST), "does nothing beside --list")
        _list(output, quantity or "")
    elif quantity is None:
        raise OutOfRange("explain wants the name of a quantity, or --list for all formulas by topic")
    elif model is None and "line" not in given:
        _refuse(given, {*given}.difference(OF_FORMULA), "belongs to an estimate; name its model after the quantity")
        _formula(output, quantity, latex)
    elif "isl" in given or "osl" in given or _serves(line, catalog):
        _refuse(given, {*given}.difference(OF_SERVING), "belongs to training; leave it, or --isl and --osl, out")
        _served(output, quantity, model or "", cluster, layout, line, depth, latex,
                Catalog(catalog or (), settings or ()), length=(isl, osl), concurrency=concurrency, engine=engine,
                weights=weights, kv=kv, **{name: job[name] for name in OF_EXPERTS})
    elif missing := [name for name in _NEEDED if name not in given and (name == "cluster" or "line" not in given)]:
        needed = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise OutOfRange(f"explaining an estimate of {model} needs {needed} too, as `perfplan estimate train` does")
    else:
        from perfplan.api import estimate_train
        from perfplan.cli.launch import from_line

        entries = Catalog(catalog or (), settings or ())
        read = from_line(line, model or "", gpus, entries)
        make = partial(
            estimate_train,
            model or "",
            cluster=cluster,
            layout=layout,
            gpus=gpus,
            global_batch=global_batch,
            seq_len=seq_len,
            **job,
            launch=read,
            catalog=entries,
        )
        if break_even:
            _refuse(given, NOT_OF_TURNING, "does nothing beside --break-even, which prints a sentence")
            _turning(output, quantity, make, break_even)
        else:
            _tree(output, quantity, make, depth, latex)


def _serves(line: tuple[str, str] | None, catalog: options.Folders) -> bool:
    """Whether a launch line is of a serving engine."""
    from perfplan.catalog import Catalog

    entries = Catalog(catalog or ())
    return line is not None and line[0] in entries.ids("launcher") and (
        entries.launcher(line[0]).get("phase") == "serving")


def _refuse(given: dict[str, str], unwanted: set[str], why: str) -> None:
    for name, option in given.items():
        if name in unwanted:
            raise OutOfRange(f"{option if option.startswith('-') else name} {why}")


def _list(output: Output, topic: str) -> None:
    from perfplan.report import formulas

    rows = formulas.formula_rows(topic)
    output.emit(formulas.list_text(rows), rows, formulas.FORMULA_COLUMNS)


def _formula(output: Output, quantity: str, latex: bool) -> None:
    from perfplan.report import formulas

    formula = formulas.formula_named(quantity)
    page = formulas.formula_document(formula)
    text = page["latex"] if latex else formulas.formula_text(formula)
    output.emit(text, page["parameters"], formulas.PARAMETER_COLUMNS, page)


def _served(output: Output, quantity: str, model: str, cluster: str, layout: str, line: tuple[str, str], depth: int,
            latex: bool, catalog: Catalog, *, length: tuple[str, str], concurrency: int | None, engine: str,
            weights: str, kv: str, routing: str, routing_skew: float) -> None:
    """A quantity of a deployment in a closed loop, or with all requests queued."""
    from perfplan.cli.launch import served_line
    from perfplan.export.served import served_job
    from perfplan.report import quantities
    from perfplan.serving.estimate import saturated, steady
    from perfplan.serving.words import tokens

    if not cluster or not all(length):
        raise OutOfRange("explaining a deployment needs --cluster, --isl and --osl, as `perfplan estimate serve` does")
    isl, osl = tokens(length[0], "--isl"), tokens(length[1], "--osl")
    job, place = served_job(model, cluster, layout, served_line(line, model, catalog), catalog, length=isl + osl,
                            engine=engine, weights=weights, kv=kv, routing=routing, routing_skew=routing_skew)
    make = partial(steady, job, place, isl, osl, float(concurrency)) if concurrency else (
        partial(saturated, job, place, isl, osl))
    _show(output, quantities.explained_serving(quantity, make, depth), latex)


def _tree(output: Output, quantity: str, make: Callable[[], Estimate], depth: int, latex: bool) -> None:
    from perfplan.report import quantities

    _show(output, quantities.explained(quantity, make, depth), latex)


def _show(output: Output, tree: list[Row], latex: bool) -> None:
    from perfplan.report import quantities

    text = quantities.tree_latex(tree) if latex else quantities.tree_text(tree)
    output.emit(text, quantities.tree_rows(tree), quantities.TREE_COLUMNS, quantities.tree_document(tree))


def _turning(output: Output, quantity: str, make: Callable[[], Estimate], number: str) -> None:
    from perfplan.report import Column
    from perfplan.training.turning import turning_point

    if quantity not in STEP:
        raise OutOfRange(f"--break-even is about the whole step: write step_time in the place of {quantity}")
    found = turning_point(make(), number)
    row = {"number": number, "value": found.value, "sentence": found.sentence}
    output.emit(found.sentence, [row], [Column("number"), Column("value"), Column("sentence")], row)
