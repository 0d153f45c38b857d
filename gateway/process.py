"""What a process does to itself once it has started."""

from __future__ import annotations

import ctypes
import gc

_GC_THRESHOLD = 20_000


def settle_memory() -> None:
    """Give back what only the start needed, and keep what stays out of the collector's way.

    Importing and loading leave some 10 MB of freed pages with the allocator and half a million
    objects that every full collection would walk through again.
    """
    gc.collect()
    gc.freeze()
    # What a turn leaves behind is freed by counting; cycles are rare, so look for them rarely.
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    # Only glibc knows the call; elsewhere the allocator decides by itself.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
