"""Numbers of tokens and rates of requests as people write them, and the engine that they mean unless they say."""

from __future__ import annotations

import re

from perfplan.errors import OutOfRange

__all__ = ["ENGINE", "rate_of", "tokens"]

ENGINE = "vllm"


def tokens(text: str, option: str = "") -> int:
    """Tokens of "4000" or "32k", k = 1024. option: the one that gives them, for errors.

    >>> tokens("32k"), tokens("4000")
    (32768, 4000)
    """
    found = re.fullmatch(r"(\d{1,15})([kKmM]?)", text.strip())
    if found is None:
        raise OutOfRange(f"{option} {text!r}".lstrip() + " is no number of tokens; write 4000, or 32k for 32768")
    return int(found[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20}[found[2].lower()]


def rate_of(text: str) -> float:
    """Requests per second of "3/s", "3" or "90/min".

    >>> rate_of("3/s"), rate_of("90/min")
    (3.0, 1.5)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(/s|/min|)", text.strip())
    if found is None:
        raise OutOfRange(f"--rate {text!r} is no rate of requests; write 3/s or 90/min")
    return float(found[1]) / (60 if found[2] == "/min" else 1)
