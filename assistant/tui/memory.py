"""Giving freed memory back to the system.

A turn on the screen is thousands of small objects. When they go, the C library keeps their room in case it is needed again, scattered
between what stays, and takes new room for what comes: over hundreds of turns the program grows although nothing is kept.
"""

from __future__ import annotations

import ctypes
import gc


def give_back() -> None:
    """Free what only refers to itself, and return every free page; where the C library has no such call it decides by itself."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
