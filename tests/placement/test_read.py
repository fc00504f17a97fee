"""Files of routing: every form is read, and what is wrong with one is told in a sentence."""

import json
import sys

import numpy as np
import pytest

from perfplan.catalog.files import packaged_root
from perfplan.errors import PerfplanError
from perfplan.placement.given import read_placement, read_slots
from perfplan.placement.outputs import slots, written
from perfplan.placement.read import read_routing
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
    ("t.parquet", "no table", "parquet"),
    ("t.txt", "", ".csv, .npy, .parquet or .json"),
])  # fmt: skip
def test_bad_files_are_one_sentence(tmp_path, name, text, words):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(PerfplanError, match=words):
        read_routing(path, 4)


@pytest.mark.parametrize("form, suffix", [("csv", "csv"), ("sglang", "json"), ("vllm", "json"), ("exflow", "csv")])
@pytest.mark.parametrize("layers, all_layers", [([0, 1], 2), ([1, 3], 4)])
def test_a_placement_written_is_read_again(tmp_path, form, suffix, layers, all_layers):
    placed, path = np.array([[0, 1, 1, 0], [1, 0, 0, 1]]), tmp_path / f"placed.{suffix}"
    path.write_text(written(form, slots(placed), 2, layers, all_layers))
    assert (read_placement(path, layers, 4, 2) == placed).all()
    assert (read_slots(path, layers, 4, 2) == slots(placed)).all()


def test_arrays_and_published_placements_are_read(tmp_path):
    placed, path = np.array([[0, 1, 1, 0], [1, 0, 0, 1]]), tmp_path / "placed.npy"
    np.save(path, placed)
    assert (read_placement(path, [0, 1], 4, 2) == placed).all()
    published = packaged_root() / "measurements" / "placement" / "moe_exflow_mixtral_placement.csv"
    for gpus in (4, 8):
        table = read_placement(published, range(32), 8, gpus)
        assert (np.sort(table, axis=1) == np.arange(8) * gpus // 8).all()


@pytest.mark.parametrize("name, text, words", [
    ("p.csv", "0,1,1,0\n1,0,0,9\n", "gpu 9"),
    ("p.csv", "0,1,1\n1,0,0\n", "2 x 3"),
    ("p.csv", "0,1,1,0\n1,0\n", "row per layer"),
    ("p.csv", "expert,gpu\n0,1\n", "columns"),
    ("p.json", "{}", "physical_to_logical_map"),
    ("p.json", '{"physical_to_logical_map": [[0, 1, 2, 3], [0, 1, 2, 2]]}', "no slot of expert 3"),
    ("p.json", '{"physical_to_logical_map": [[0, 1, 2, 3], [0, 1, 2, 7]]}', "expert 7"),
    ("p.json", '{"physical_to_logical_map": [[0, 1, 2, 3]]}', "2 layers"),
    ("p.json", '{"physical_to_logical_map": [[0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 0, 1]]}', "replicas"),
])  # fmt: skip
def test_bad_placements_are_one_sentence(tmp_path, name, text, words):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(PerfplanError, match=words):
        read_placement(path, [0, 1], 4, 2)


def test_forms_of_engines():
    table = slots(np.array([[0, 1, 1, 0]]))
    devices = json.loads(written("vllm", table, 2, [3], 4))
    assert devices["moe_layer_count"] == 1 and devices["layer_list"][0]["layer_id"] == 0  # counts routed layers
    assert devices["layer_list"][0]["device_list"][1] == {"device_id": 1, "device_expert": [1, 2]}
    assert written("exflow", table, 2, [3], 4) == "0,1,1,0\n"
    assert list(json.loads(written("sglang", table, 2, [1], 2))) == ["physical_to_logical_map"]  # SGLang takes no more
    assert "[[0, 1, 2, 3], [0, 3, 1, 2]]" in written("sglang", table, 2, [1], 2)
    with pytest.raises(PerfplanError, match="twice on GPU 0"):
        written("vllm", np.array([[0, 0, 1, 0]]), 2, [0], 1)


def test_parquet_says_what_csv_says(tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    wide, long, lists = (tmp_path / f"{name}.parquet" for name in ("wide", "long", "lists"))
    pd.DataFrame(TRACE, columns=["a", "b"]).to_parquet(wide)
    token, layer = np.divmod(np.arange(8), 2)
    pd.DataFrame({"token": token, "layer": layer, "expert": TRACE.ravel()}).to_parquet(long)
    pd.DataFrame({"a": [[0, 1], [1, 2]], "b": [[2, 3], [3, 0]]}).to_parquet(lists)
    for path in (wide, long):
        assert (read_routing(path, 4).trace[:, :, 0] == TRACE).all()
    assert read_routing(lists, 4).trace.shape == (2, 2, 2)
    pd.DataFrame({"a": [[0, 1], [1]], "b": [[2, 3], [3, 0]]}).to_parquet(lists)
    with pytest.raises(PerfplanError, match="ragged"):
        read_routing(lists, 4)


def test_parquet_without_pyarrow_is_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / "trace.parquet"
    path.write_bytes(b"PAR1")
    for name in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PerfplanError, match="needs pyarrow"):
        read_routing(path, 4)


def test_loads_as_sglang_records_them(tmp_path):
    path = tmp_path / "loads.json"
    path.write_text(json.dumps({"logical_count": [[[0, 0], [3, 5]], [[0, 0], [1, 1]]]}))
    assert read_routing(path, 2).loads.tolist() == [[4, 6]]  # layer 0 has no experts
    path.write_text("{}")
    with pytest.raises(PerfplanError, match="logical_count"):
        read_routing(path, 2)


def test_a_float_is_no_expert():
    with pytest.raises(PerfplanError, match="whole"):
        from_trace(np.array([[0.5, 1.0]]), 2, "trace")
