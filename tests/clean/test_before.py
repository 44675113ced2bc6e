"""Which pictures are kept as they came, and that they are the right ones."""

from __future__ import annotations

import numpy as np

from openus.clean.before import SHOWN, SIDE, Before, shares, thumbnail
from openus.decode import decode_image


def test_sixty_of_many_files_or_several_of_few() -> None:
    many = shares([f"{n}.png" for n in range(500)], seed=1)
    assert len(many) == SHOWN and set(many.values()) == {1}
    assert shares([f"{n}.png" for n in range(499, -1, -1)], seed=1) == many
    assert shares([f"{n}.png" for n in range(500)], seed=2) != many
    assert shares(["a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4", "f.mp4", "g.mp4"], 1)["a.mp4"] == 9
    assert shares([], 1) == {}


def offered(order: list[int], most: int) -> dict[int, bytes]:
    before = Before({"clip": most}, seed=3)
    for n in order:
        before.offer(f"k{n}", "clip", np.full((40, 50), n, np.uint8))
    return {int(key[1:]): data for key, data in before.kept.items()}


def test_the_choice_in_a_clip_does_not_depend_on_how_it_is_read() -> None:
    found = offered(list(range(100)), 5)
    assert len(found) == 5 and sorted(found) != list(range(5))
    assert offered(list(range(99, -1, -1)), 5) == found
    assert all(np.abs(decode_image(data).astype(int) - n).max() <= 2 for n, data in found.items())
    assert len(offered([4, 9], 5)) == 2


def test_files_that_are_not_shown_keep_nothing() -> None:
    before = Before({"clip": 5}, 0)
    before.offer("k", "other", np.zeros((4, 4), np.uint8))
    assert before.kept == {}


def test_small_and_in_colour() -> None:
    colour = np.zeros((600, 900, 3), np.uint8)
    colour[..., 0] = 200
    small = decode_image(thumbnail(colour))
    assert small.shape == (187, SIDE, 3) and abs(int(small[90, 90, 0]) - 200) < 4 and small[90, 90, 2] < 4
    assert decode_image(thumbnail(np.full((30, 20), 9, np.uint8))).shape == (30, 20)
