"""The C library's heap: told to keep what a busy process frees, because a fresh page costs more than the copy into it, and to let go when idle."""

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 256 << 20
_LARGEST_IN_HEAP = 32 << 20
"""glibc takes no more; larger blocks come from the system and go back to it at once."""


def keep() -> None:
    """Keep freed memory for the next batch or answer. Does nothing where the C library is another one."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGEST_IN_HEAP)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back() -> None:
    """Give freed memory back to the system."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
