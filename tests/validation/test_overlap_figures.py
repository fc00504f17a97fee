"""Figures of overlap that need a simulation or a whole step: the orders and inequalities that are published."""

import pytest

from perfplan.catalog import Catalog
from perfplan.validation.runs import reproduce_published


@pytest.mark.parametrize("name", ["megascale", "nanoflow", "comet", "pipeline-schedules", "ladder-residual"])
def test_orders_and_inequalities_hold(name):
    quantities = ("ablation_order", "overlap_inside", "fused_order", "fused_time", "fused_possible",
                  "simulated_bubble", "ladder_speedup")
    checks = [c for c in reproduce_published(name, catalog=Catalog()) if c.quantity in quantities]
    assert checks and all(c.passed for c in checks)


def test_the_headline_that_the_logs_do_not_support_is_recorded_and_not_tested():
    from perfplan.validation.runs import technique

    found = technique(Catalog(), "deep-optimizer-states")
    assert "1.39 times" in found.contradicted[0]["contradicts"]
    assert not any(row.value == 2.5 for row in found.published)
