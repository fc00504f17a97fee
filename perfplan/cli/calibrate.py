"""`perfplan calibrate`: constants of one's own hardware from one's own measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from perfplan.cli import options
from perfplan.cli.groups import Group, grouped

__all__ = ["app"]

app = typer.Typer(name="calibrate", help="Fit constants to measurements of one's own hardware.")

Measured = Annotated[
    str,
    typer.Option(
        "--measured",
        metavar="FILE",
        show_default=False,
        help="Measurements: CSV in the schema of kernels_measured.csv, a PyTorch profiler trace (.json, .json.gz), or"
        " an operator table of aiconfigurator (CSV; .parquet with pip install 'perfplan[operators]').",
    ),
]
Accelerator = Annotated[
    str, typer.Option("--accelerator", metavar="ID", show_default=False, help="Accelerator that was measured.")
]
SaveEntry = Annotated[
    str | None,
    typer.Option(
        "--save", metavar="OUT.yaml", show_default=False, help="Write the catalog entry with the constants found."
    ),
]
Date = Annotated[
    str | None,
    typer.Option("--date", metavar="YYYY-MM-DD", show_default=False, help="Day of the measurement; the file's if not."),
]
Quantised = Annotated[
    bool,
    typer.Option("--quantised", help="Times below 16 bits include quantising the activations, a kernel of its own."),
]

Peak = Annotated[
    list[str] | None,
    typer.Option(
        "--peak", metavar="FORMAT=RATE", show_default=False, help="New accelerator: dense peak, such as 'bf16=800"
        " TFLOP/s'; may be repeated."
    ),
]
Bandwidth = Annotated[
    str, typer.Option("--bandwidth", metavar="RATE", show_default=False, help="New accelerator: memory bandwidth.")
]
Memory = Annotated[
    str, typer.Option("--memory", metavar="SIZE", show_default=False, help="New accelerator: memory.")
]
Like = Annotated[
    str,
    typer.Option(
        "--like",
        metavar="ID",
        show_default=False,
        help="New accelerator: the one whose links, and whose constants until they are measured, it uses.",
    ),
]


@app.callback()
def calibrate() -> None:
    """Fit constants to measurements of one's own hardware, and write a catalog entry that carries them."""


def _report(found: Any, entry: str, date: str, save: str | None, csv: str | None, json: bool) -> None:
    from perfplan.report import Output, calibration, write

    if save:
        write(save, entry)
    text = calibration.calibration_text(found, entry, save)
    rows = calibration.fit_rows(found)
    Output(csv, json).emit(text, rows, calibration.FIT_COLUMNS, calibration.document(found, entry, date))


@dataclass(frozen=True)
class _Fit:
    """What the fits of kernels share: the accelerator, facts of one that the catalog lacks, and where results go."""

    accelerator: str
    facts: tuple[list[str] | None, str, str, str]
    folders: list[str] | None
    date: str | None
    output: tuple[str | None, str | None, bool]


def _fit(
    accelerator: Accelerator,
    peak: Peak = None,
    bandwidth: Bandwidth = "",
    memory: Memory = "",
    like: Like = "",
    date: Date = None,
    folders: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
    save: SaveEntry = None,
) -> _Fit:
    return _Fit(accelerator, (peak, bandwidth, memory, like), folders, date, (save, csv, json))


Fit = Annotated[_Fit, Group(_fit)]


def _kernels(calibrate: Any, measured: str, fit: _Fit, experts: bool = False) -> None:
    from pathlib import Path

    from perfplan.calibration.entry import accelerator_yaml
    from perfplan.calibration.readers import read_experts, read_kernels
    from perfplan.calibration.tables import file_date
    from perfplan.catalog import Catalog
    from perfplan.catalog.new import NewAccelerator, measured_accelerator

    catalog, day = Catalog(fit.folders or ()), fit.date or file_date(measured)
    new = NewAccelerator(fit.facts[0] or (), *fit.facts[1:])
    chip, raw = measured_accelerator(catalog, fit.accelerator, new, day)
    found = calibrate((read_experts if experts else read_kernels)(measured), chip, catalog.hardware)
    _report(found, accelerator_yaml(chip.id, raw, found, Path(measured).name, day), day, *fit.output)


@app.command()
@grouped
def gemm(measured: Measured, fit: Fit, quantised: Quantised = False) -> None:
    """Plain and grouped matrix products: fractions of peak and bandwidth, and the constant per kernel."""
    from functools import partial

    from perfplan.calibration.calibrate import calibrate_gemm

    _kernels(partial(calibrate_gemm, quantised=quantised), measured, fit)


@app.command()
@grouped
def attention(measured: Measured, fit: Fit) -> None:
    """Attention forward and backward: fraction of peak reached, and the length at which half of it is."""
    from perfplan.calibration.calibrate import calibrate_attention

    _kernels(calibrate_attention, measured, fit)


@app.command()
@grouped
def moe(
    measured: Annotated[
        str,
        typer.Option(
            "--measured",
            metavar="FILE",
            show_default=False,
            help="Expert layers in the schema of ops_moe.csv, or an operator table of aiconfigurator.",
        ),
    ],
    fit: Fit,
) -> None:
    """Grouped matrix products of experts, from whole expert layers with balanced routing."""
    from perfplan.calibration.calibrate import calibrate_experts

    _kernels(calibrate_experts, measured, fit, experts=True)


@app.command()
@grouped
def stream(measured: Measured, fit: Fit) -> None:
    """Memory-bound kernels: fraction of the bandwidth reached, and what one costs when a graph launches it."""
    from perfplan.calibration.calibrate import calibrate_streams

    _kernels(calibrate_streams, measured, fit)


@app.command()
def step(
    measured: Annotated[
        list[str],
        typer.Option(
            "--measured",
            metavar="FILE.csv",
            show_default=False,
            help="Measured steps in the schema of training_measured.csv; may be repeated.",
        ),
    ],
    accelerator: Accelerator,
    date: Date = None,
    folders: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
    save: Annotated[
        str | None,
        typer.Option("--save", metavar="DIR", show_default=False, help="Write the entries into a catalog folder."),
    ] = None,
) -> None:
    """Whole training steps: sustained clock, memory-bound kernels, and the fixed times of the framework."""
    from pathlib import Path

    from perfplan.calibration.tables import file_date
    from perfplan.catalog import Catalog
    from perfplan.report import Output
    from perfplan.report.steps import MOVED_COLUMNS, moved_rows, step_document, step_text, write_entries
    from perfplan.validation.rows import read_rows
    from perfplan.validation.step_calibration import calibrate_steps

    files, day = [Path(path) for path in measured], date or file_date(measured[0])
    names = ", ".join(path.name for path in files)
    found = calibrate_steps(read_rows(files), Catalog(folders or ()), accelerator, names, day)
    if save:
        write_entries(found, save)
    Output(csv, json).emit(step_text(found, save), moved_rows(found), MOVED_COLUMNS, step_document(found, day))


@app.command()
def script(
    example: Annotated[
        bool, typer.Option("--example", help="Print measurements of a chip called my-chip, in place of the script.")
    ] = False,
) -> None:
    """Print a Python script that measures all this with PyTorch: `perfplan calibrate script > measure.py`."""
    from perfplan.calibration.script import measuring_script
    from perfplan.catalog.new import example_measurements
    from perfplan.report import STDOUT, write

    write(STDOUT, example_measurements() if example else measuring_script())


@app.command()
def collectives(
    measured: Annotated[
        str,
        typer.Option(
            "--measured",
            metavar="FILE",
            show_default=False,
            help="Measurements in the schema of collectives_measured.csv, or the output of nccl-tests (text, or JSON"
            " of -J), or an operator table of aiconfigurator.",
        ),
    ],
    accelerator: Accelerator,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster", metavar="ID", show_default=False, help="Cluster measured; the accelerator's usual if not."
        ),
    ] = None,
    op: Annotated[
        str, typer.Option("--op", metavar="NAME", show_default=False, help="Operation, if nccl-tests does not say.")
    ] = "",
    ranks: Annotated[
        int, typer.Option("--ranks", metavar="N", show_default=False, help="Ranks, if nccl-tests does not say.")
    ] = 0,
    date: Date = None,
    folders: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
    save: SaveEntry = None,
) -> None:
    """Collectives inside one fast domain: launch, latency, fill and fraction of the links per number of ranks."""
    from pathlib import Path

    from perfplan.calibration.collectives import calibrate_collectives
    from perfplan.calibration.entry import cluster_yaml
    from perfplan.calibration.links import Domain
    from perfplan.calibration.readers import read_collectives
    from perfplan.calibration.tables import file_date
    from perfplan.catalog import Catalog

    catalog = Catalog(folders or ())
    machine, day = catalog.cluster(cluster or accelerator), date or file_date(measured)
    chip, level = catalog.accelerator(accelerator).id, machine.levels[0]
    switched = level.reduction_ranks if level.reduction else 0
    domain = Domain(level.bandwidth, machine.library.exchange, switched)
    found = calibrate_collectives(read_collectives(measured, op, ranks), chip, domain, level.size, catalog.hardware)
    entry = cluster_yaml(machine.id, catalog.raw("cluster", machine.id)[0], found, Path(measured).name, day)
    _report(found, entry, day, save, csv, json)
