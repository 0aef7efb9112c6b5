"""palm-jax checkpoint ls|show|diff|convert|average PATH ...

What is in checkpoints, without the devices they were made on:

  ls RUN               the checkpoints of a MODEL_DIR: step, size, whether their checksums hold, what they are of
  show PATH            every array of one: shape, type, mean and spread
  diff PATH PATH       two compared, array by array
  convert PATH NEW     the parameters alone, in --dtype=bfloat16 or float32, as the same step of a MODEL_DIR NEW
  average PATH... NEW  the mean of the parameters of several, as the newest of their steps in a MODEL_DIR NEW

PATH is a step's folder or a MODEL_DIR, whose best or newest step is taken. What NEW holds is a base to start from
(INITIAL_CHECKPOINT_PATH); its optimizer begins anew.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
from tqdm import tqdm

from palm_jax.errors import UserError
from palm_jax.training import integrity
from palm_jax.training.pretrained import ABOUT, BEST, STATE, VOCABULARY_FILES, read_about, step_directory

Arrays = dict[str, np.ndarray]
_DTYPES = {'bfloat16': ml_dtypes.bfloat16, 'float32': np.float32}


def main(arguments: Sequence[str]) -> int:
    """One of five."""
    parser = argparse.ArgumentParser(
        prog='palm-jax checkpoint',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest='command', required=True)
    for name, paths in (('ls', 1), ('show', 1), ('diff', 2), ('convert', 2), ('average', '+')):
        command = commands.add_parser(name)
        command.add_argument('paths', nargs=paths)
        if name == 'convert':
            command.add_argument('--dtype', choices=_DTYPES, default='bfloat16')
    options = parser.parse_args(arguments)
    logging.getLogger('absl').setLevel(logging.ERROR)  # Orbax misses a file that these checkpoints do not need
    if options.command == 'ls':
        print(ls(Path(options.paths[0])))
    elif options.command == 'show':
        print(show(_step(options.paths[0])))
    elif options.command == 'diff':
        print(diff(*map(_step, options.paths)))
    else:
        *given, new = options.paths
        if not given:
            raise UserError('average PATH... NEW: at least one checkpoint, and the folder of the new one.')
        steps = [_step(path) for path in given]
        arrays = parameters(steps[0]) if len(steps) == 1 else average(steps)
        if options.command == 'convert':
            arrays = {name: array.astype(_DTYPES[options.dtype]) for name, array in arrays.items()}
        newest = max(steps, key=lambda step: int(step.name))
        print(f'checkpoint  {write(arrays, newest, Path(new))}')
    return 0


def _step(path: str) -> Path:
    return step_directory(path, 'PATH')


def ls(model_dir: Path) -> str:
    """A line a checkpoint."""
    roots = [root for root in (model_dir / 'checkpoints', model_dir / BEST, model_dir) if root.is_dir()]
    steps = [step for root in roots for step in root.iterdir() if step.name.isdigit()]
    if not steps:
        raise UserError(f'{model_dir} holds no checkpoint: it is no MODEL_DIR.')
    lines = []
    for step in sorted(steps, key=lambda path: (path.parent, int(path.name))):
        size = sum(path.stat().st_size for path in step.rglob('*') if path.is_file())
        problem = integrity.problem(step)
        state = problem or ('checksums hold' if integrity.is_sealed(step) else 'no checksums')
        about = {} if problem else read_about(step)
        best = about.get('best')
        of = [f'vocabulary {about["vocabulary"]}'] if 'vocabulary' in about else []
        of += [f'on the base {about["base"]}'] if about.get('base') else []
        of += [f'{best["measure"]} {best["value"]:.4g}'] if best else []
        lines.append(f'{step}  {size / 2**20:,.1f} MiB  {state}  {", ".join(of)}'.rstrip())
    return '\n'.join(lines)


def show(step: Path) -> str:
    """A line an array, those of the parameters first."""
    arrays = read(step)
    ordered = sorted(arrays, key=lambda name: (not name.startswith('params/'), not name.startswith('frozen/'), name))
    width = max(map(len, arrays))
    lines = [f'{step}: {sum(a.size for a in arrays.values()):,} numbers in {len(arrays)} arrays']
    for name in ordered:
        array = arrays[name]
        wide = array.astype(np.float64)
        shape = ' × '.join(map(str, array.shape)) or 'one number'
        lines.append(f'{name:<{width}}  {shape:<24} {array.dtype!s:<9} {wide.mean():>11.4g} ± {wide.std():.4g}')
    return '\n'.join(lines)


def diff(one: Path, other: Path) -> str:
    """What two have in common, what differs, and by how much."""
    a, b = read(one), read(other)
    lines = [f'- {name}: only in {one}' for name in sorted(a.keys() - b.keys())]
    lines += [f'+ {name}: only in {other}' for name in sorted(b.keys() - a.keys())]
    same = 0
    for name in sorted(a.keys() & b.keys()):
        if a[name].shape != b[name].shape:
            lines.append(f'! {name}: {a[name].shape} and {b[name].shape}')
        elif a[name].tobytes() == b[name].tobytes() and a[name].dtype == b[name].dtype:
            same += 1
        else:
            left, right = a[name].astype(np.float64), b[name].astype(np.float64)
            most, norm = np.abs(left - right).max(), np.linalg.norm(left - right) / max(np.linalg.norm(left), 1e-30)
            lines.append(f'~ {name}: differs by at most {most:.4g}, {norm:.2%} of its norm')
    lines.append(f'{same} of {len(a.keys() | b.keys())} arrays are the same, bit for bit')
    return '\n'.join(lines)


def average(steps: Sequence[Path]) -> Arrays:
    """The mean of the parameters of several checkpoints, in float64 and back.

    Raises:
      UserError: they are not of one shape, or not of one vocabulary.
    """
    first, *others = steps
    arrays = parameters(first)
    total = {name: array.astype(np.float64) for name, array in arrays.items()}
    for step in tqdm(others, desc='averaging', unit=' checkpoints', leave=False):
        if read_about(step).get('vocabulary') != read_about(first).get('vocabulary'):
            raise UserError(f'{step} and {first} have other vocabularies; their mean means nothing.')
        more = parameters(step)
        shapes = [{name: array.shape for name, array in of.items()} for of in (total, more)]
        wrong = {name for name, _ in shapes[0].items() ^ shapes[1].items()}
        if wrong:
            raise UserError(f'{step} and {first} are of other models: {", ".join(sorted(wrong)[:5])}.')
        for name, array in more.items():
            total[name] += array
    return {name: (array / len(steps)).astype(arrays[name].dtype) for name, array in total.items()}


def parameters(step: Path) -> Arrays:
    """The trained and the frozen parameters by path, `params/...` and `frozen/...`."""
    return {name: array for name, array in read(step).items() if name.startswith(('params/', 'frozen/'))}


def read(step: Path) -> Arrays:
    """Every array of a checkpoint by path, on the host.

    Raises:
      UserError: it is damaged.
    """
    integrity.check(step)
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    folder = (step / STATE).absolute()
    metadata = checkpointer.metadata(folder).item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
    tree = checkpointer.restore(folder, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf) for path, leaf in leaves}


def write(arrays: Arrays, like: Path, model_dir: Path) -> Path:
    """A step of its own in a new MODEL_DIR, with what `like` says of itself and its run's vocabulary.

    Raises:
      UserError: the folder holds a checkpoint already.
    """
    step = model_dir / 'checkpoints' / like.name
    if step.exists():
        raise UserError(f'{step} exists; name another folder.')
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, last = name.split('/')
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[last] = array
    handlers = {STATE: ocp.PyTreeCheckpointHandler(), ABOUT: ocp.JsonCheckpointHandler()}
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers))
    items = {STATE: ocp.args.PyTreeSave(tree), ABOUT: ocp.args.JsonSave(read_about(like))}
    checkpointer.save(step.absolute(), args=ocp.args.Composite(**items))
    integrity.seal(step)
    for name in VOCABULARY_FILES:
        if (like.parents[1] / name).is_file():
            shutil.copy(like.parents[1] / name, model_dir / name)
    return step
