"""Keep freed memory for the next step of a network on the CPU."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of returning each to the kernel; elsewhere nothing.

    A step's feature maps are the same size every time. By default each is mapped anew and every
    page of it faults again, which takes longer than the arithmetic of a spectral network.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
