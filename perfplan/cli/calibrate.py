"""`perfplan calibrate`: constants of one's own hardware from one's own measurements."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from perfplan.cli import options

__all__ = ["app"]

app = typer.Typer(name="calibrate", help="Fit constants to measurements of one's own hardware.")

Measured = Annotated[
    str,
    typer.Option(
        "--measured", metavar="FILE.csv", show_default=False, help="Measurements in the schema of kernels_measured.csv."
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


def _kernels(
    fit: Any,
    measured: str,
    accelerator: str,
    folders: list[str] | None,
    date: str | None,
    save: str | None,
    csv: str | None,
    json: bool,
) -> None:
    from pathlib import Path

    from perfplan.calibration.entry import accelerator_yaml
    from perfplan.calibration.tables import file_date, read_kernels
    from perfplan.catalog import Catalog

    catalog = Catalog(folders or ())
    chip, day = catalog.accelerator(accelerator), date or file_date(measured)
    found = fit(read_kernels(measured), chip, catalog.hardware)
    entry = accelerator_yaml(chip.id, catalog.raw("accelerator", chip.id)[0], found, Path(measured).name, day)
    _report(found, entry, day, save, csv, json)


@app.command()
def gemm(
    measured: Measured,
    accelerator: Accelerator,
    quantised: Quantised = False,
    date: Date = None,
    folders: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
    save: SaveEntry = None,
) -> None:
    """Plain and grouped matrix products: fractions of peak and bandwidth, and the constant per kernel."""
    from functools import partial

    from perfplan.calibration.calibrate import calibrate_gemm

    fit = partial(calibrate_gemm, quantised=quantised)
    _kernels(fit, measured, accelerator, folders, date, save, csv, json)


@app.command()
def attention(
    measured: Measured,
    accelerator: Accelerator,
    date: Date = None,
    folders: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
    save: SaveEntry = None,
) -> None:
    """Attention forward and backward: fraction of peak reached, and the length at which half of it is."""
    from perfplan.calibration.calibrate import calibrate_attention

    _kernels(calibrate_attention, measured, accelerator, folders, date, save, csv, json)


@app.command()
def stream(
    measured: Measured,
    accelerator: Accelerator,
    date: Date = None,
    folders: options.Folders = None,
    csv: options.Csv = None,
    json: options.Json = False,
    save: SaveEntry = None,
) -> None:
    """Memory-bound kernels: fraction of the bandwidth reached, and what one costs when a graph launches it."""
    from perfplan.calibration.calibrate import calibrate_streams

    _kernels(calibrate_streams, measured, accelerator, folders, date, save, csv, json)


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
def script() -> None:
    """Print a Python script that measures all this with PyTorch: `perfplan calibrate script > measure.py`."""
    from perfplan.calibration.script import measuring_script
    from perfplan.report import STDOUT, write

    write(STDOUT, measuring_script())


@app.command()
def collectives(
    measured: Annotated[
        str,
        typer.Option(
            "--measured",
            metavar="FILE",
            show_default=False,
            help="Measurements in the schema of collectives_measured.csv, or the output of nccl-tests (text, or JSON"
            " of -J).",
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

    from perfplan.calibration.calibrate import calibrate_collectives
    from perfplan.calibration.entry import cluster_yaml
    from perfplan.calibration.links import Domain
    from perfplan.calibration.tables import file_date, read_collectives
    from perfplan.catalog import Catalog

    catalog = Catalog(folders or ())
    machine, day = catalog.cluster(cluster or accelerator), date or file_date(measured)
    chip, level = catalog.accelerator(accelerator).id, machine.levels[0]
    switched = level.reduction_ranks if level.reduction else 0
    domain = Domain(level.bandwidth, machine.library.exchange, switched)
    found = calibrate_collectives(read_collectives(measured, op, ranks), chip, domain, level.size, catalog.hardware)
    entry = cluster_yaml(machine.id, catalog.raw("cluster", machine.id)[0], found, Path(measured).name, day)
    _report(found, entry, day, save, csv, json)
