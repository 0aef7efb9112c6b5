"""The programs, each of which parses flags and makes one call. `palm-jax <program>` starts them."""
