"""Fits recover the constants that made synthetic data, resist outliers, and report honest left-out errors."""

import numpy as np
import pytest

from perfplan.calibration.fit import fit_log, left_out_residuals, mape, quantiles
from perfplan.calibration.kernels import Rate, fit_kernel, kernel_model

RATE = Rate(peak=1e15, bandwidth=3e12)


def line(columns, c):
    return c["a"] + columns["x"] / c["b"]


def synthetic_gemms():
    m = np.repeat([1.0, 64.0, 1024.0, 8192.0], 6)
    n = np.tile([1024.0, 2048.0, 4096.0, 8192.0, 12288.0, 16384.0], 4)
    return {"flops": 2 * m * n * 4096, "traffic": 2 * (m * n + m * 4096 + n * 4096), "length": m}


def test_line_is_recovered():
    x = np.logspace(0, 4, 20)
    found = fit_log(line, {"x": x}, 5 + x / 3, {"a": (0.01, 1, 100), "b": (0.01, 1, 100)})
    assert found.constants == pytest.approx({"a": 5, "b": 3}, rel=1e-3)
    assert found.mape < 1e-3 and found.n == 20


def test_outlier_does_not_decide():
    x = np.logspace(0, 4, 20)
    y = 5 + x / 3
    y[10] *= 4
    found = fit_log(line, {"x": x}, y, {"a": (0.01, 1, 100), "b": (0.01, 1, 100)})
    assert found.constants["b"] == pytest.approx(3, rel=0.05)
    assert found.residuals[10] == pytest.approx(np.log(4), abs=0.1)


def test_weights_pull_the_fit():
    x = np.ones(2)
    start = {"b": (0.01, 1.0, 100.0)}
    heavy = fit_log(lambda c, k: c["x"] / k["b"], {"x": x}, np.array([1.0, 2.0]), start, weights=np.array([1.0, 99.0]))
    assert heavy.constants["b"] == pytest.approx(0.5, rel=0.05)


def test_fixed_constants_stay():
    x = np.logspace(0, 4, 20)
    found = fit_log(line, {"x": x}, 5 + x / 3, {"b": (0.01, 1, 100)}, fixed={"a": 5.0})
    assert found.constants["a"] == 5.0 and found.constants["b"] == pytest.approx(3, rel=1e-6)


@pytest.mark.parametrize(("compute", "memory", "overhead"), [(0.76, 0.8, 4e-6), (0.5, 0.9, 14e-6)])
def test_kernel_constants_are_recovered(compute, memory, overhead):
    columns = synthetic_gemms()
    truth = {"compute": compute, "memory": memory, "overhead": overhead}
    seconds = kernel_model(RATE)(columns, truth)
    found, held = fit_kernel(columns, seconds, RATE, list(columns["flops"] / columns["length"]))
    assert found.constants == pytest.approx(truth, rel=0.02)
    assert held is not None and held < 0.01


def test_half_length_is_recovered_and_limit_respected():
    columns = synthetic_gemms()
    truth = {"compute": 0.7, "memory": 0.8, "overhead": 4e-6, "half": 200.0}
    seconds = kernel_model(RATE)(columns, truth)
    assert fit_kernel(columns, seconds, RATE, half=True)[0].constants == pytest.approx(truth, rel=0.05)
    assert fit_kernel(columns, seconds, RATE, half=True, compute_limit=0.5)[0].constants["compute"] <= 0.5


def test_serial_traffic_adds():
    columns = synthetic_gemms()
    c = {"compute": 0.7, "memory": 0.5, "overhead": 1e-6}
    extra = kernel_model(RATE)(columns | {"serial": np.full(24, 1.5e6)}, c) - kernel_model(RATE)(columns, c)
    assert extra == pytest.approx(np.full(24, 1e-6))


def test_left_out_group_is_predicted_without_itself():
    x, groups = np.array([1.0, 1.0, 1.0, 1.0]), ["a", "a", "b", "b"]
    start = {"b": (0.01, 1.0, 100.0)}
    y = np.array([1.0, 1.0, 2.0, 2.0])

    def model(columns, c):
        return columns["x"] / c["b"]

    residuals = left_out_residuals(model, {"x": x}, y, groups, lambda c, t: fit_log(model, c, t, start))
    assert residuals == pytest.approx([-np.log(2)] * 2 + [np.log(2)] * 2, abs=1e-5)


def test_left_out_needs_two_groups():
    with pytest.raises(ValueError, match="two groups"):
        left_out_residuals(line, {"x": np.ones(2)}, np.ones(2), ["a", "a"], lambda c, t: None)


def test_error_measures():
    assert mape(np.zeros(3)) == 0
    assert mape(np.array([np.log(2)])) == pytest.approx(0.5)  # measured twice the prediction: off by half of it
    assert quantiles(np.linspace(0, 1, 11)) == pytest.approx((0.1, 0.5, 0.9))
