"""Whatever stands in a catalog file or a setting, the answer is an entry or one sentence, never a crash."""

import tempfile
from pathlib import Path

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perfplan.catalog import Catalog
from perfplan.errors import PerfplanError

KINDS = {"accelerator": "h100-sxm", "cluster": "dgx-h100", "recipe": "mxfp8", "framework": "fsdp", "library": "nccl"}
SHIPPED = {kind: yaml.safe_load(Catalog().source(kind, name).read_text()) for kind, name in KINDS.items()}
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12),
                    st.sampled_from(["nan", "inf", "-1", "0 B", "1e999 B", "80 GiB", "5 us", "0x10", "1_000", "12:30"]))
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner,
                                                                                          max_size=3), max_leaves=6)


def read(kind: str, text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, {"library": "libraries"}.get(kind, f"{kind}s"))
        place.mkdir()
        (place / "it.yaml").write_text(text, encoding="utf-8", errors="replace")
        one_sentence(lambda: getattr(Catalog([folder]), kind)("it"))


def one_sentence(load):
    try:
        load()
    except PerfplanError as error:
        assert "\n" not in str(error) and str(error)


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    yield path


def put(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(copy[path[0]], path[1:], new)
    return copy


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.text(max_size=200))
@example("recipe", "a: !!binary x")
@example("cluster", "? [a, b]\n: c")
@example("cluster", "? {a: b}\n: c")
@example("accelerator", "\x00")
@example("accelerator", "%YAML 9.9\n---\na: b")
def test_any_text(kind, text):
    read(kind, text)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.data(), VALUES)
def test_a_shipped_entry_with_one_value_replaced(kind, data, value):
    path = data.draw(st.sampled_from(list(leaves(SHIPPED[kind]))))
    read(kind, yaml.safe_dump(put(SHIPPED[kind], path, value), allow_unicode=True))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.data(), st.text(max_size=20))
def test_any_setting(kind, data, value):
    path = data.draw(st.sampled_from([p for p in leaves(SHIPPED[kind]) if p]))
    one_sentence(lambda: getattr(Catalog(settings=(f"{kind}.{'.'.join(map(str, path))}={value}",)), kind)(KINDS[kind]))
