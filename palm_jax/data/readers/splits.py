"""Train and validation splits of texts that come without one."""

from __future__ import annotations

import hashlib


def is_held_out(text: str, one_in: int) -> bool:
    """Return whether a text belongs to the validation split, one in `one_in` by hash: equal texts stay together."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) % one_in == 0
