"""Operations that are computed differently on CPUs, GPUs and TPUs, one file each.

Every file has a plain implementation that reads like the formula (`reference_*`) and the variants that a platform
computes faster. `jax.lax.platform_dependent` chooses among them when a program is lowered, so one traced program can be
compiled for a platform that is not present and exported for several; all variants are traced everywhere.
"""
