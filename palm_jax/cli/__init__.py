"""The programs: flags to gin to one call. `palm-jax <program>` starts each of them."""
