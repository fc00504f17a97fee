"""The grammar of layouts: everything that can be written is read back, everything else is one sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfplan.errors import BadLayout
from perfplan.training.layout import CP_KINDS, MODULES, Layout, parse_recompute, parse_tokens

DEGREE = st.integers(1, 1 << 20)
WIDTHS = st.one_of(
    st.sampled_from([(1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 0, 0)]), st.tuples(*[st.integers(0, 4096)] * 3)
)
RECOMPUTE = st.one_of(
    st.just(()), st.just(("full",)), st.sets(st.sampled_from(MODULES), min_size=1).map(lambda s: tuple(sorted(s)))
)
LAYOUTS = st.builds(
    lambda widths, **fields: Layout(
        **fields, shard_weights=widths[0], shard_gradients=widths[1], shard_optimizer=widths[2]
    ),
    WIDTHS,
    sp=st.integers(0, 1),
    cp_kind=st.sampled_from(CP_KINDS),
    recompute=RECOMPUTE,
    **dict.fromkeys(("tp", "cp", "pp", "vpp", "ep", "etp", "dp", "mbs"), DEGREE),
)


@given(LAYOUTS)
def test_what_is_written_is_read_back(layout):
    assert Layout.parse(str(layout)) == layout
    assert str(Layout.parse(str(layout))) == str(layout)


@given(LAYOUTS, st.randoms())
def test_the_order_of_tokens_is_free(layout, random):
    tokens = str(layout).split()
    random.shuffle(tokens)
    assert Layout.parse(" ".join(tokens)) == layout


def test_the_empty_layout_is_one_accelerator():
    assert Layout.parse("") == Layout()
    assert Layout().world == 1 and str(Layout()) == "tp1 sp0 cp1 pp1 vpp1 ep1 etp1 dp1 mbs1 zero0 rc=none"


@pytest.mark.parametrize(
    ("token", "widths"),
    [
        ("zero0", (1, 1, 1)),
        ("zero1", (1, 1, 0)),
        ("zero2", (1, 0, 0)),
        ("zero3", (0, 0, 0)),
        ("fsdp", (0, 0, 0)),
        ("hsdp8", (8, 8, 8)),
        ("w8-g8-o64", (8, 8, 64)),
    ],
)
def test_presets_are_three_widths(token, widths):
    layout = Layout.parse(token)
    assert (layout.shard_weights, layout.shard_gradients, layout.shard_optimizer) == widths


def test_recompute_words_and_lists():
    assert parse_recompute("none") == ()
    assert parse_recompute("selective") == ("core_attn",)
    assert parse_recompute("full") == ("full",)
    assert parse_recompute("mlp,core_attn,mlp") == ("core_attn", "mlp")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tq8", "tp"),
        ("tp", "tp"),
        ("tp0", "between 1 and"),
        ("tp-8", "not understood"),
        ("tp2.5", "not understood"),
        ("sp2", "0 or 1"),
        ("dp1048577", "1048576"),
        ("tp2 tp4", "twice"),
        ("zero1 zero3", "twice"),
        ("zero4", "zero"),
        ("cp=star", "not understood"),
        ("rc=mpl", "mlp"),
        ("rc=", "unknown module"),
        ("rc=none,mlp", "unknown module"),
        ("TP8", "not understood"),
        ("tp8,pp2", "not understood"),
        ("hsdp", "hsdp"),
        ("w8-g8", "not understood"),
        ("\u0665", "not understood"),
    ],
)
def test_other_texts_are_one_sentence_that_names_the_token(text, said):
    with pytest.raises(BadLayout) as caught:
        parse_tokens(text)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_is_a_layout_or_a_bad_layout(text):
    try:
        layout = Layout.parse(text)
    except BadLayout:
        return
    assert Layout.parse(str(layout)) == layout
