"""palm-jax lm-eval run --model=palm_jax --model_args model_dir=runs/tiny --tasks=...: lm-evaluation-harness."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from palm_jax.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Start the harness's own command line with this package's model registered."""
    try:
        from lm_eval.__main__ import cli_evaluate
        from lm_eval.api.registry import register_model

        from palm_jax.exchange.lm_eval import PalmJax
    except ImportError as error:
        raise UserError(f'{error.name or error} is not installed: pip install "palm_jax[eval]"') from error
    register_model('palm_jax')(PalmJax)
    sys.argv = ['palm-jax lm-eval', *arguments]  # where the harness reads its arguments
    cli_evaluate()
    return 0
