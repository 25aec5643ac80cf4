"""Operations, one a file, each with its plain-PyTorch twin: the twin is the reference of the kernel.

Imports nothing of ``harness``. Triton kernels are compiled at their first launch, never at import.
"""
