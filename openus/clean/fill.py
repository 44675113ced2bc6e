"""What masked pixels become."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from openus.decode.frame import Pixels

_RIM = np.ones(
    (7, 7), np.uint8
)  # pixels so near to the outside may be black themselves: sectors are cut generously


def fill(
    pixels: Pixels, mask: Pixels, how: Literal["local", "inpaint"] = "local", inside: Pixels | None = None
) -> Pixels:
    """Replace the masked (non-zero) pixels of uint8 [H, W] by what lies round them, none of it from outside of the
    sector, where there is no tissue (`inside`: uint8 [H, W], 0 there; None: there is no outside).

    local:   each becomes the mean of the unmasked pixels in the smallest window (9, 17, 33, …) that holds
             enough of them: smooth, visibly not tissue, invented by nobody.
    inpaint: A. Telea, "An image inpainting technique based on the fast marching method", JGT 9 (2004) 23.
    """
    x, y, w, h = cv2.boundingRect(mask)
    if w == 0:
        return pixels
    out = pixels.copy()
    reach = 16
    near = np.s_[max(0, y - reach) : y + h + reach, max(0, x - reach) : x + w + reach]
    part, hidden = out[near], mask[near] > 0
    unknown = hidden
    if inside is not None:
        tissue = cv2.erode(inside[near], _RIM, borderType=cv2.BORDER_CONSTANT, borderValue=[0])
        unknown = hidden | (np.asarray(tissue) == 0)
    if how == "inpaint":
        filled = cv2.inpaint(np.ascontiguousarray(part), unknown.astype(np.uint8), 3, cv2.INPAINT_TELEA)
        part[hidden] = np.asarray(filled, np.uint8)[hidden]
        return out
    known = (~unknown).astype(np.float32)
    values = part.astype(np.float32) * known
    size, missing = 9, hidden.copy()
    while missing.any():
        weight = cv2.blur(known, (size, size), borderType=cv2.BORDER_CONSTANT)
        total = cv2.blur(values, (size, size), borderType=cv2.BORDER_CONSTANT)
        wide = size > 2 * max(part.shape)
        ready = missing & ((weight > 0.15) | wide)
        part[ready] = np.rint(total[ready] / np.maximum(weight[ready], 1e-6)).astype(np.uint8)
        missing &= ~ready
        size = 2 * size - 1
    return out
