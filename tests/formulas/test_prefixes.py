"""The closed form of shared prefixes against counting on a prefix tree."""

import random

import pytest

from perfplan.formulas.serving_bounds import group_prefix_saving


def tokens_with_prefix_tree(prompts):
    """Prompt tokens that need computing when every common prefix is computed once: the nodes of the tree."""
    return len({prompt[: i + 1] for prompt in prompts for i in range(len(prompt))})


@pytest.mark.parametrize("seed", range(5))
def test_saving_of_a_group_is_what_the_tree_saves(seed):
    chance = random.Random(seed)
    prefix = tuple(("p", i) for i in range(chance.randint(1, 40)))
    prompts = [
        prefix + tuple((member, i) for i in range(chance.randint(1, 30))) for member in range(chance.randint(2, 9))
    ]
    everything = sum(map(len, prompts))
    private = everything - len(prompts) * len(prefix)
    saved = 1 - tokens_with_prefix_tree(prompts) / everything
    assert group_prefix_saving(len(prompts), len(prefix), private) == pytest.approx(saved)
