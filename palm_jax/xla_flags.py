"""The flags of XLA for GPUs that are worth a trial, by version of jaxlib.

XLA ends a process that sets a flag which it does not know, so a flag has the versions that were found to know it. None
is set by this package: each stays off until a measurement in BENCHMARKS.md shows that it helps. `palm-jax doctor`
prints the table, and `tools/gpu_suite.py` tries the flags.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Version = tuple[int, int]  # 0.11 is (0, 11)


class XlaFlag(NamedTuple):
    """A flag of XLA.

    Attributes:
      setting: flag with its value, as in the environment variable XLA_FLAGS.
      jaxlib: the first version of jaxlib that knows it, and the first of which it is not known.
      purpose: what it changes.
      program: the program that it is tried with: `train`, a train step, or `decode`, an answer.
    """

    setting: str
    jaxlib: tuple[Version, Version]
    purpose: str
    program: Literal['train', 'decode'] = 'train'


_KNOWN = (0, 10), (0, 13)
FLAGS = (
    XlaFlag('--xla_gpu_enable_latency_hiding_scheduler=true', _KNOWN, 'collectives while kernels run; several GPUs'),
    XlaFlag('--xla_gpu_enable_cublaslt=true', _KNOWN, 'matmuls by cuBLASLt'),
    XlaFlag('--xla_gpu_enable_triton_gemm=false', _KNOWN, 'matmuls by cuBLAS alone; compiles faster'),
    XlaFlag('--xla_gpu_enable_command_buffer=', _KNOWN, 'no command buffers in training; decoding needs them'),
    XlaFlag('--xla_gpu_enable_while_loop_double_buffering=true', _KNOWN, 'two iterations of a loop overlap'),
    XlaFlag(
        '--xla_gpu_exclude_nondeterministic_ops=true',
        _KNOWN,
        'a run that was killed continues bit for bit; excludes the backward pass of cuDNN attention',
    ),
    XlaFlag(
        '--xla_gpu_enable_command_buffer=FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,CONDITIONAL,WHILE',
        _KNOWN,
        'an answer with its loop over tokens is one command buffer',
        'decode',
    ),
)


def known_to(version: str) -> tuple[XlaFlag, ...]:
    """Return the flags that a version of jaxlib knows.

    Args:
      version: version of jaxlib, such as `0.11.2`.
    """
    numbers = re.match(r'(\d+)\.(\d+)', version)
    if numbers is None:
        return ()
    installed = int(numbers[1]), int(numbers[2])
    return tuple(flag for flag in FLAGS if flag.jaxlib[0] <= installed < flag.jaxlib[1])
