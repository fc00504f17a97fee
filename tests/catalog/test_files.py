"""Bad catalog files and names: one clear sentence each, of the right kind, naming the file."""

import json
from pathlib import Path

import pytest

from perfplan.catalog import Catalog, files
from perfplan.errors import BadQuantity, CatalogError, DuplicateId, MissingField, PerfplanError, UnknownName

GOOD = """name: Test chip
vendor: Test
family: test
memory: 10 GB
memory_bandwidth: 1 TB/s
peak: {bf16: 100 TFLOP/s}
sources: {memory: a, memory_bandwidth: a, peak.bf16: a}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "accelerators").mkdir()
    return tmp_path


def write(folder: Path, text: str, name: str = "chip.yaml") -> Path:
    path = folder / "accelerators" / name
    path.write_text(text)
    return path


def load(folder: Path, name: str = "chip"):
    return Catalog([folder]).accelerator(name)


def test_a_file_whose_id_is_not_its_name_is_pointed_out(folder):
    write(folder, f"id: other\n{GOOD}")
    assert load(folder, "other").memory == 1e10
    with pytest.raises(UnknownName, match=r"no accelerator 'chip'; .*chip\.yaml holds 'other'"):
        load(folder)


def test_a_good_file_loads_in_si(folder):
    write(folder, GOOD)
    chip = load(folder)
    assert (chip.memory, chip.memory_bandwidth, chip.peak["bf16"]) == (1e10, 1e12, 1e14)
    assert chip.price_per_hour is None, "unknown stays unknown"


@pytest.mark.parametrize(("change", "error", "hint"), [
    (("memory: 10 GB", "memory: 10"), BadQuantity, "no unit"),
    (("memory: 10 GB", "memory: 10 GB/s"), BadQuantity, "not in B"),
    (("memory: 10 GB", "memory: 10 gb"), BadQuantity, "bits"),
    (("memory: 10 GB", "memory: -10 GB"), BadQuantity, "negative"),
    (("memory: 10 GB", "memory: .nan"), BadQuantity, "nan"),
    (("memory: 10 GB", "memory: 1 B"), BadQuantity, "absurd"),
    (("memory: 10 GB", "memory: 9000000 TB"), BadQuantity, "absurd"),
    (("memory: 10 GB", "memory: [10 GB]"), BadQuantity, "not a quantity"),
    (("memory: 10 GB\n", ""), MissingField, "memory is missing"),
    (("memory: 10 GB", "memory: 10 GB\nmemry: 2 GB"), UnknownName, "did you mean memory"),
    (("memory: 10 GB", "memory: 10 GB\nmemory: 20 GB"), DuplicateId, "'memory' stands twice (line 5)"),
    (("100 TFLOP/s", "100 TFLOP/s sparse"), BadQuantity, "dense figure"),
    (("100 TFLOP/s", "100 TMAC/s"), BadQuantity, "1 MAC = 2 FLOP"),
    (("100 TFLOP/s", "1e30 TFLOP/s"), BadQuantity, "absurd"),
    (("{bf16: 100 TFLOP/s}", "{bf17: 100 TFLOP/s}"), CatalogError, "'bf17' is not a dtype"),
    (("{bf16: 100 TFLOP/s}", "100 TFLOP/s"), CatalogError, "peak"),
    (("memory: a, ", ""), CatalogError, "no source is given for memory"),
    (("name: Test chip", "name: &x Test chip"), CatalogError, "anchors and aliases"),
    (("name: Test chip", "name: !!python/object/apply:os.system [ls]"), CatalogError, "not valid YAML"),
    (("name: Test chip", "name: [unclosed"), CatalogError, "not valid YAML"),
    (("name: Test chip", "name: Test\n---\nname: other"), CatalogError, "not valid YAML"),
    (("name: Test chip", "<<: {name: x}\nname: y"), UnknownName, "<<"),
])
def test_bad_files(folder, change, error, hint):
    path = write(folder, GOOD.replace(*change))
    with pytest.raises(error) as caught:
        load(folder)
    message = str(caught.value)
    assert type(caught.value) is error, message
    assert hint in message
    assert str(path) in message
    assert "\n" not in message and "pydantic" not in message


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "42", "null"])
def test_what_is_no_mapping(folder, text):
    write(folder, text)
    with pytest.raises(CatalogError, match="mapping of fields"):
        load(folder)


def test_yaml_bombs(folder):
    bomb = "a: &a [x, x]\n" + "\n".join(f"{c}: &{c} [*{p}, *{p}]" for p, c in zip("abcdefgh", "bcdefghi", strict=True))
    write(folder, bomb)
    with pytest.raises(CatalogError, match="anchors and aliases"):
        load(folder)
    write(folder, "name: " + "[" * 5000 + "]" * 5000)
    with pytest.raises(CatalogError, match="levels deep|nesting depth"):  # by the reader or by libyaml
        load(folder)
    write(folder, "name: " + "x" * (files.MAX_BYTES + 1))
    with pytest.raises(CatalogError, match="larger than"):
        load(folder)


def test_bytes_that_are_no_text(folder):
    (folder / "accelerators" / "chip.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(CatalogError, match="UTF-8"):
        load(folder)


def test_duplicate_ids_in_one_folder(folder):
    write(folder, "id: chip\n" + GOOD, "one.yaml")
    write(folder, GOOD)
    with pytest.raises(DuplicateId, match=r"one\.yaml.*chip\.yaml|chip\.yaml.*one\.yaml"):
        load(folder)


def test_a_user_folder_overrides_a_shipped_id(folder):
    write(folder, GOOD, "h100-sxm.yaml")
    assert load(folder, "h100-sxm").memory == 1e10
    assert Catalog([folder]).cluster("dgx-h100").accelerator.memory == 1e10
    assert Catalog().accelerator("h100-sxm").memory == 80 * 2**30


def test_a_user_file_may_state_its_id(folder):
    write(folder, "id: mine\n" + GOOD, "whatever.yaml")
    assert load(folder, "mine").id == "mine"
    assert "mine" in Catalog([folder]).ids("accelerator")


def test_borrowing_in_a_circle_is_an_error(folder):
    write(folder, GOOD + "borrow: other\n")
    write(folder, GOOD + "borrow: chip\n", "other.yaml")
    with pytest.raises(CatalogError, match="circle"):
        load(folder)


def test_unknown_names_offer_the_nearest():
    with pytest.raises(UnknownName, match="did you mean dgx-h100"):
        Catalog().cluster("dgx-h10")
    with pytest.raises(UnknownName, match="did you mean .*fp8"):
        Catalog().recipe("fp-8")
    with pytest.raises(UnknownName, match="catalog of 'chip'"):
        Catalog().ids("chip")


@pytest.mark.parametrize("name", ["../recipes/bf16", "/etc/passwd", "", "a/b", "x" * 300, "h100\0", "%s{0}"])
def test_hostile_names_are_unknown(name):
    with pytest.raises(PerfplanError) as caught:
        Catalog().accelerator(name)
    assert isinstance(caught.value, UnknownName)


def test_folders_that_are_no_catalog(tmp_path):
    with pytest.raises(CatalogError, match="is not a folder"):
        Catalog([tmp_path / "none"])
    with pytest.raises(CatalogError, match="none of the folders"):
        Catalog([tmp_path])


@pytest.mark.parametrize(("text", "hint"), [
    ("{", "not JSON"), ("[" * 100_000, "nested too deep"), ("[1]", "config.json"),
    (json.dumps({"a": 1}), "config.json"),
])
def test_config_json_that_is_not_a_model(tmp_path, text, hint):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(PerfplanError) as caught:
        Catalog().model(str(path))
    assert hint in str(caught.value)
    with pytest.raises(CatalogError, match="cannot be read"):
        Catalog().model(str(tmp_path / "absent.json"))
