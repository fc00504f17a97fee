"""Files of routing: every form is read, and what is wrong with one is told in a sentence."""

import numpy as np
import pytest

from perfplan.errors import PerfplanError
from perfplan.placement.outputs import slots, written
from perfplan.placement.read import read_placement, read_routing
from perfplan.placement.routing import from_trace

TRACE = np.array([[0, 1], [2, 3], [0, 3], [1, 1]])


def test_all_forms_of_a_trace_say_the_same(tmp_path):
    wide, long, array = tmp_path / "wide.csv", tmp_path / "long.csv", tmp_path / "trace.npy"
    wide.write_text("\n".join(",".join(map(str, row)) for row in TRACE))
    rows = [f"{token},{layer},{TRACE[token, layer]}" for token in range(4) for layer in range(2)]
    long.write_text("token,layer,expert\n" + "\n".join(rows[::-1]))
    np.save(array, TRACE)
    for path in (wide, long, array):
        routing = read_routing(path, 4)
        assert (routing.trace[:, :, 0] == TRACE).all()
        assert routing.loads.tolist() == [[2, 1, 1, 0], [0, 2, 0, 2]]
        assert routing.transitions[0, 0].tolist() == [0, 1, 0, 1]


def test_several_picks_share_the_transitions(tmp_path):
    path = tmp_path / "picks.csv"
    path.write_text("a,b\n0 1,2 3\n1 2,3 0\n")
    routing = read_routing(path, 4)
    assert routing.loads.sum(axis=1).tolist() == [4, 4] and routing.transitions.sum() == 4


def test_counts_and_loads(tmp_path):
    counts, loads = tmp_path / "counts.csv", tmp_path / "loads.csv"
    counts.write_text("layer,from_expert,to_expert,tokens\n0,0,1,5\n0,1,0,7\n")
    loads.write_text("layer,expert,load\n0,0,5\n0,1,7\n1,0,6\n1,1,6\n")
    assert read_routing(counts).loads.tolist() == [[5, 7], [7, 5]]
    assert read_routing(loads).transitions is None


@pytest.mark.parametrize("name, text, words", [
    ("t.csv", "0,1\n2,9\n", "expert 9"),
    ("t.csv", "0,1\n2\n", "ragged"),
    ("t.csv", "0,1\n2,x\n", "line 2"),
    ("t.csv", "", "empty"),
    ("t.csv", "a,b\n", "no tokens"),
    ("t.csv", "token,layer,expert\n0,0,1\n0,1,1\n1,0,2\n", "ragged"),
    ("t.csv", "layer,expert,load\n0,0,5\n0,1,5\n1,0,50\n1,1,5\n", "sum to"),
    ("t.csv", "layer,expert,load\n0,0,-5\n", "not below 0"),
    ("t.csv", "layer,expert,load\n0,0,nan\n", "finite"),
    ("t.csv", "layer,from_expert,to_expert,tokens\n0,0,7,5\n", "0 to 3"),
    ("t.csv", "layer,from_expert,to_expert,tokens\n1,0,1,5\n", "layer 0"),
    ("t.npy", "no array", "NumPy"),
    ("t.txt", "", ".csv, .npy or .parquet"),
])  # fmt: skip
def test_bad_files_are_one_sentence(tmp_path, name, text, words):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(PerfplanError, match=words):
        read_routing(path, 4)


@pytest.mark.parametrize("form, suffix", [("csv", "csv"), ("sglang", "json")])
def test_a_placement_written_is_read_again(tmp_path, form, suffix):
    placed, path = np.array([[0, 1, 1, 0], [1, 0, 0, 1]]), tmp_path / f"placed.{suffix}"
    path.write_text(written(form, slots(placed, 2), 2, [0, 1], 2))
    assert (read_placement(path, 2, 4, 2) == placed).all()


def test_forms_of_engines():
    table = slots(np.array([[0, 1, 1, 0]]), 2)
    assert '"device_expert": [1, 2]' in written("vllm", table, 2, [3], 4)
    assert written("exflow", table, 2, [3], 4) == "0,1,1,0\n"
    assert "[[0, 1, 2, 3], [0, 3, 1, 2]]" in written("sglang", table, 2, [1], 2)


def test_a_float_is_no_expert():
    with pytest.raises(PerfplanError, match="whole"):
        from_trace(np.array([[0.5, 1.0]]), 2, "trace")
