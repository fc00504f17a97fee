import numpy as np
import pytest

from perfplan.catalog.files import packaged_root
from perfplan.placement.read import read_routing
from perfplan.placement.routing import from_transitions


@pytest.fixture(scope="session")
def shipped():
    """Reads one of the shipped instances, such as 8x8x4."""
    return lambda name: read_routing(packaged_root() / "measurements" / "placement" / f"transitions_{name}.csv")


@pytest.fixture
def small():
    """A random instance of a few experts and layers."""

    def make(experts, layers, seed):
        draws = np.random.default_rng(seed)
        return from_transitions(draws.integers(0, 50, (layers - 1, experts, experts)) + 1.0, f"instance {seed}")

    return make
