"""Memory for pictures, kept between one file and the next."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_TRIM, _MMAP = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
_LARGEST = 32 << 20  # bytes of a block that is kept; what is larger goes back at once
_KEPT = 128 << 20


@cache
def keep_freed_memory() -> None:
    """Let glibc keep freed blocks of up to 32 MiB, 128 MiB in all, for the pictures to come; nothing elsewhere.

    By default it gives blocks of a few megabytes back to the kernel, which hands them out again page by page, each
    cleared: for a colour picture of 958 x 534 pixels that took nearly as long as all the rest of a build.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_MMAP, _LARGEST)
        mallopt(_TRIM, _KEPT)
