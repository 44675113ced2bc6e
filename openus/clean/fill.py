"""What masked pixels become."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from openus.decode.frame import Pixels


def fill(pixels: Pixels, mask: Pixels, how: Literal["local", "inpaint"] = "local") -> Pixels:
    """Replace the masked (non-zero) pixels of uint8 [H, W].

    local:   each becomes the mean of the unmasked pixels in the smallest window (9, 17, 33, …) that holds
             enough of them: smooth, visibly not tissue, invented by nobody.
    inpaint: A. Telea, "An image inpainting technique based on the fast marching method", JGT 9 (2004) 23.
    """
    x, y, w, h = cv2.boundingRect(mask)
    if w == 0:
        return pixels
    out = pixels.copy()
    if how == "inpaint":
        return np.asarray(cv2.inpaint(out, mask, 3, cv2.INPAINT_TELEA), np.uint8)
    reach = 16
    x0, y0, x1, y1 = max(0, x - reach), max(0, y - reach), x + w + reach, y + h + reach
    part, hidden = out[y0:y1, x0:x1], mask[y0:y1, x0:x1] > 0
    known = (~hidden).astype(np.float32)
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
