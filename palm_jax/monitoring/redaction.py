"""Redaction hooks: functions that texts pass before they are kept."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable

from palm_jax.errors import UserError

_PATTERNS = (
    (re.compile(r'\b(?:\d{1,3}\.){3}\d{1,3}\b'), '[ip]'),
    (re.compile(r'[\w.+-]+@[\w-]+(?:\.[\w-]+)+'), '[email]'),
    (re.compile(r'\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,4})?\b'), '[iban]'),
    (re.compile(r'(?<![\w.])(?:\d[ -]?){13,19}(?!\w)'), '[card]'),
    (re.compile(r'(?<![\w.])\+?\(?\d{1,4}\)?(?:[ ./-]?\(?\d{2,4}\)?){2,5}(?!\w)'), '[phone]'),
)


def mask(text: str) -> str:
    """Return a text with e-mail addresses, IBANs, numbers of cards and phones, and IP addresses replaced by their kind.

    It is a first line of defence: names and addresses remain. A hook of your own may call a library for them.
    """
    for pattern, kind in _PATTERNS:
        text = pattern.sub(kind, text)
    return text


def load_hook(name: str) -> Callable[[str], str] | None:
    """Return the redaction hook of a name: `none`, `mask`, or `module:function` of your own.

    Raises:
      UserError: there is no such function.
    """
    if name in ('none', 'mask'):
        return mask if name == 'mask' else None
    module, colon, function = name.partition(':')
    if not colon:
        raise UserError(f"--redact={name}: write 'mask', 'none', or module:function, which is imported and called.")
    try:
        hook = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f'--redact={name}: {error}.') from None
    if not callable(hook):
        raise UserError(f'--redact={name} is not a function.')
    return hook
