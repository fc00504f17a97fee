"""The arguments that the serving commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Engine", "Isl", "Kv", "LayoutText", "Osl", "Weights"]

Engine = Annotated[
    str, typer.Option("--engine", metavar="ID[-RELEASE]", help="Serving engine of the catalog, such as trtllm-0.17.")
]
Weights = Annotated[
    str,
    typer.Option("--weights", metavar="FORMAT", show_default=False,
                 help="Number format of the weights, such as fp8 or awq; the checkpoint's own unless given."),
]
Kv = Annotated[
    str, typer.Option("--kv", metavar="DTYPE", show_default=False, help="Number format of the cache; else bf16.")
]
LayoutText = Annotated[
    str, typer.Option("--layout", metavar="TOKENS", show_default=False,
                      help="The layout, such as 'tp4 pp1 ep8 adp2 dp1' (adp: attention data parallelism).")
]
Isl = Annotated[str, typer.Option("--isl", metavar="TOKENS", show_default=False, help="Tokens of a prompt.")]
Osl = Annotated[str, typer.Option("--osl", metavar="TOKENS", show_default=False, help="Tokens generated per request.")]
