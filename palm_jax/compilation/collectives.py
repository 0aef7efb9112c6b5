"""Collectives of a compiled step, read from its text (HLO)."""

from __future__ import annotations

import collections
import math
import re

_COLLECTIVES = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute')
_ITEM_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's16': 2, 'u16': 2, 'f32': 4, 's32': 4, 'u32': 4}
_ITEM_BYTES |= {'f64': 8, 's64': 8, 'u64': 8}


def collectives_of(hlo: str) -> dict[str, tuple[int, float]]:
    """Return (calls per step, bytes that a device sends per call) of the collectives of a compiled program.

    They are by kind and shape: that of the whole array, of a reduce-scatter before it is cut. With n devices
    in a ring a device sends (n - 1) / n of the array in an all-gather or a reduce-scatter, and twice that in an
    all-reduce, which is one after the other; (n - 1) / n is taken as 1.

    The body of a loop counts as often as the constant in its condition says. The TPU compiler writes a reduce-scatter
    as a fusion of an all-reduce and the slice of its result that a device keeps.
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

    def visit(computation: str, times: int, is_cut: bool = False) -> None:
        for line in computations.get(computation, ()):
            kind = re.search(rf' ({"|".join(_COLLECTIVES)})(-start)?\(', line)
            if kind:
                shape = line.partition('=')[2].partition(kind[0])[0].strip()
                name = 'reduce-scatter' if is_cut and kind[1] == 'all-reduce' else kind[1]
                size = _bytes(shape, kind[2] is not None) * _sent(name, kind[1], line)
                key = f'{name} {re.sub(r"{[^}]*}", "", shape)}'[:90]
                if kind[1] == 'reduce-scatter':  # whose shape is that of a part
                    key += f' × {_sent(name, kind[1], line)}'
                before = found.get(key, (0, size))[0]
                found[key] = (before + times, size)
            loop = re.search(r'while\(.*condition=%?([\w.-]+), body=%?([\w.-]+)', line)
            if loop:
                limits = re.findall(r'constant\((\d+)\)', '\n'.join(computations[loop[1]]))
                visit(loop[2], times * max(map(int, limits), default=1))
            for called in re.findall(r'(?:to_apply|calls|called_computations=\{)=?%?([\w.-]+)', line):
                if not kind:
                    visit(called, times, is_cut=' fusion(' in line and _is_cut(computations[called]))
            for branches in re.findall(r'branch_computations=\{([^}]*)\}', line):
                for branch in branches.split(','):
                    visit(branch.strip().lstrip('%'), times)

    visit(entry, 1)
    return found


def _is_cut(fusion: list[str]) -> bool:
    """Return whether the result of a fusion is a slice of an all-reduce in it."""
    return any(' all-reduce(' in line for line in fusion) and any(' dynamic-slice(' in line for line in fusion)


def _sent(name: str, opcode: str, line: str) -> int:
    """Return how often the bytes of its result a device sends in a collective."""
    if name == 'all-reduce':
        return 2
    if opcode != 'reduce-scatter':
        return 1
    # Its result is a part of what is sent, one of as many as there are devices in a group: {{0,1},{2,3}} or [2,2]<=[4].
    groups = re.search(r'replica_groups=(?:\{\{([\d,]*)\}|\[\d+,(\d+)\])', line)
    if groups is None:
        return 1
    return int(groups[2]) if groups[2] else len(groups[1].split(','))


def _bytes(shape: str, is_start: bool) -> float:
    """Return the bytes of an HLO shape; an asynchronous start has a pair of operand and result, whose result counts."""
    arrays = re.findall(r'(\w+)\[([\d,]*)\]', shape)
    sizes = [_ITEM_BYTES.get(kind, 4) * math.prod(int(n) for n in dims.split(',') if n) for kind, dims in arrays]
    if is_start and len(sizes) > 1:
        return float(max(sizes))
    return float(sum(sizes))
