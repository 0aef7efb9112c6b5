"""Collectives of a compiled step, read from its text (HLO)."""

from __future__ import annotations

import collections
import math
import re

_COLLECTIVES = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
_ITEM_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2, 'f32': 4, 's32': 4, 'u32': 4}
_ITEM_BYTES |= {'f64': 8, 's64': 8, 'u64': 8}


def collectives_of(hlo: str) -> dict[str, tuple[int, float]]:
    """Return (calls per step, result bytes per device) of the collectives of a compiled program, by kind and shape.

    The body of a loop counts as often as the constant in its condition says.
    """
    computations: dict[str, list[str]] = collections.defaultdict(list)
    name, entry = '', ''
    for line in hlo.splitlines():
        header = re.match(r'(ENTRY )?%?([\w.-]+) .*\{$', line)
        if header and not line.startswith(' '):
            name = header[2]
            entry = name if header[1] else entry
        elif line.strip() and line != '}':
            computations[name].append(line.strip())
    found: dict[str, tuple[int, float]] = {}

    def visit(computation: str, times: int) -> None:
        for line in computations.get(computation, ()):
            kind = re.search(rf' ({"|".join(_COLLECTIVES)})(-start)?\(', line)
            if kind:
                shape = line.partition('=')[2].partition(kind[0])[0].strip()
                size = _bytes(shape, kind[2] is not None)
                key = f'{kind[1]} {re.sub(r"{[^}]*}", "", shape)}'[:90]
                before = found.get(key, (0, size))[0]
                found[key] = (before + times, size)
            loop = re.search(r'while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)', line)
            if loop:
                limits = re.findall(r'constant\((\d+)\)', '\n'.join(computations[loop[1]]))
                visit(loop[2], times * max(map(int, limits), default=1))
            for called in re.findall(r'(?:to_apply|calls|called_computations=\{)=?%?([\w.-]+)', line):
                if not kind:
                    visit(called, times)
            for branches in re.findall(r'branch_computations=\{([^}]*)\}', line):
                for branch in branches.split(','):
                    visit(branch.strip().lstrip('%'), times)

    visit(entry, 1)
    return found


def _bytes(shape: str, is_start: bool) -> float:
    """Return the bytes of an HLO shape; an asynchronous start has a pair of operand and result, whose result counts."""
    arrays = re.findall(r'(\w+)\[([\d,]*)\]', shape)
    sizes = [_ITEM_BYTES.get(kind, 4) * math.prod(int(n) for n in dims.split(',') if n) for kind, dims in arrays]
    if is_start and len(sizes) > 1:
        return float(max(sizes))
    return float(sum(sizes))
