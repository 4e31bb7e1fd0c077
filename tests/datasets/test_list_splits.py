"""Parts of a list for cross-fitting."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.list_splits import split_fold, split_in_order


@pytest.mark.parametrize("count, parts", [(9, 3), (72, 5), (7, 7)])
def test_parts_of_single_images_are_dealt_in_the_order_of_a_permutation(count, parts):
    dealt = np.random.default_rng(parts).permutation(count) % parts  # the parts of runs made before groups were known
    for number in range(parts):
        assert split_fold(range(count), f"{number + 1}/{parts}") == (dealt == number).tolist()


def test_groups_stay_whole_and_parts_are_of_nearly_equal_size():
    groups = [group for group, size in enumerate((5, 1, 3, 1, 1, 4, 2, 3)) for _ in range(size)]
    parts = np.array([split_fold(groups, f"{number}/4") for number in range(1, 5)])
    assert (parts.sum(0) == 1).all() and parts.sum(1).tolist() == [5, 5, 5, 5]
    for group in set(groups):
        assert parts[:, np.array(groups) == group].any(1).sum() == 1


@pytest.mark.parametrize(
    "count, sizes", [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1]), (5, [3, 1, 1]), (20, [14, 3, 3])]
)
def test_every_part_of_a_row_has_an_item_while_there_are_enough(count: int, sizes: list[int]):
    parts = split_in_order(count, (0.7, 0.15, 0.15))
    assert parts == sorted(parts, key=("train", "val", "test").index)
    assert [parts.count(name) for name in ("train", "val", "test")] == sizes
