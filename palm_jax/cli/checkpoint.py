"""palm-jax checkpoint ls|show|diff|convert|average PATH ...

Inspects and converts checkpoints, without the devices they were made on:

  ls RUN               list the checkpoints of a MODEL_DIR: path, size, state of the checksums, vocabulary
  show PATH            list the arrays of a checkpoint: shape, type, mean and standard deviation
  diff PATH PATH       compare two checkpoints array by array
  convert PATH NEW     write the parameters in --dtype=bfloat16 or float32, as the same step of a new MODEL_DIR NEW
  average PATH... NEW  write the mean of several checkpoints' parameters, as the newest of their steps in NEW

PATH is a checkpoint (a step's folder), or a MODEL_DIR, which means its best checkpoint or else its newest. NEW can be
used as a base (INITIAL_CHECKPOINT_PATH); it holds no optimizer state.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
from tqdm import tqdm

from palm_jax.checkpoint_metadata import METADATA, CheckpointMetadata, read_metadata
from palm_jax.cli.parser import Parser
from palm_jax.errors import UserError
from palm_jax.run_directory import STATE, RunDirectory, find_checkpoint, write_whole
from palm_jax.training import integrity

Arrays = dict[str, np.ndarray]
_DTYPES = {'bfloat16': ml_dtypes.bfloat16, 'float32': np.float32}
_COMMANDS = (  # name, number of paths, description
    ('ls', 1, 'List the checkpoints of a MODEL_DIR.'),
    ('show', 1, 'List the arrays of a checkpoint.'),
    ('diff', 2, 'Compare two checkpoints array by array.'),
    ('convert', 2, 'Write the parameters of a checkpoint in another dtype to a new MODEL_DIR, the second path.'),
    ('average', '+', 'Write the mean of the parameters of several checkpoints to a new MODEL_DIR, the last path.'),
)


def main(arguments: Sequence[str]) -> int:
    """Runs one of the five commands."""
    parser = Parser(prog='palm-jax checkpoint', description=__doc__, example='palm-jax checkpoint ls runs/tiny')
    commands = parser.add_subparsers(dest='command', required=True, help='what to do')
    for name, paths, summary in _COMMANDS:
        command = commands.add_parser(name, description=summary, help=summary)
        command.add_argument('paths', nargs=paths, metavar='PATH', help='MODEL_DIR, or a step of its checkpoints')
        if name == 'convert':
            command.add_argument('--dtype', choices=_DTYPES, default='bfloat16', help='type to write')
    options = parser.parse_args(arguments)
    logging.getLogger('absl').setLevel(logging.ERROR)  # Orbax warns about a missing file that is not needed
    if options.command == 'ls':
        print(ls(Path(options.paths[0])))
    elif options.command == 'show':
        print(show(_step(options.paths[0])))
    elif options.command == 'diff':
        print(diff(*map(_step, options.paths)))
    else:
        *given, new = options.paths
        if not given:
            raise UserError('average PATH... NEW: name at least one checkpoint, and the new folder.')
        steps = [_step(path) for path in given]
        arrays = parameters(steps[0]) if len(steps) == 1 else average(steps)
        if options.command == 'convert':
            arrays = {name: array.astype(_DTYPES[options.dtype]) for name, array in arrays.items()}
        newest = max(steps, key=lambda checkpoint: int(checkpoint.name))
        print(f'checkpoint  {write(arrays, newest, Path(new))}')
    return 0


def _step(path: str) -> Path:
    return find_checkpoint(path, 'PATH')


def ls(model_dir: Path) -> str:
    """A table of a run's checkpoints, one per line."""
    run = RunDirectory(model_dir)
    folders = [folder for folder in (run.checkpoints, run.best_checkpoints, run.path) if folder.is_dir()]
    checkpoints = [path for folder in folders for path in folder.iterdir() if path.name.isdecimal()]
    if not checkpoints:
        raise UserError(f'{model_dir} holds no checkpoint: it is not a MODEL_DIR.')
    lines = []
    for checkpoint in sorted(checkpoints, key=lambda path: (path.parent, int(path.name))):
        size = sum(path.stat().st_size for path in checkpoint.rglob('*') if path.is_file())
        problem = integrity.problem(checkpoint)
        state = problem or ('checksums match' if integrity.has_checksums(checkpoint) else 'no checksums')
        details = '' if problem else ', '.join(_details(read_metadata(checkpoint)))
        lines.append(f'{checkpoint}  {size / 2**20:,.1f} MiB  {state}  {details}'.rstrip())
    return '\n'.join(lines)


def _details(metadata: CheckpointMetadata) -> Iterator[str]:
    if metadata.vocabulary is not None:
        yield f'vocabulary {metadata.vocabulary}'
    if metadata.base is not None:
        yield f'on the base {metadata.base}'
    if metadata.best is not None:
        yield f'{metadata.best.metric} {metadata.best.value:.4g}'


def show(checkpoint: Path) -> str:
    """A table of a checkpoint's arrays, one per line, parameters first."""
    arrays = read(checkpoint)
    ordered = sorted(arrays, key=lambda name: (not name.startswith('params/'), not name.startswith('frozen/'), name))
    width = max(map(len, arrays))
    lines = [f'{checkpoint}: {sum(a.size for a in arrays.values()):,} numbers in {len(arrays)} arrays']
    for name in ordered:
        array = arrays[name]
        wide = array.astype(np.float64)
        shape = ' × '.join(map(str, array.shape)) or 'one number'
        lines.append(f'{name:<{width}}  {shape:<24} {array.dtype!s:<9} {wide.mean():>11.4g} ± {wide.std():.4g}')
    return '\n'.join(lines)


def diff(one: Path, other: Path) -> str:
    """The differences between two checkpoints: a line for each array that differs, and the number that do not."""
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
            most = np.abs(left - right).max()
            norm = np.linalg.norm(left - right) / np.maximum(np.linalg.norm(left), 1e-30)
            lines.append(f'~ {name}: differs by at most {most:.4g}, {norm:.2%} of its norm')
    lines.append(f'{same} of {len(a.keys() | b.keys())} arrays are bit-for-bit identical')
    return '\n'.join(lines)


def average(steps: Sequence[Path]) -> Arrays:
    """The mean of the parameters of several checkpoints, computed in float64.

    Returns:
      Arrays by path, in the types of the first checkpoint.

    Raises:
      UserError: shapes or vocabularies differ.
    """
    first, *others = steps
    arrays = parameters(first)
    total = {name: array.astype(np.float64) for name, array in arrays.items()}
    for step in tqdm(others, desc='averaging', unit=' checkpoints', leave=False):
        if read_metadata(step).vocabulary != read_metadata(first).vocabulary:
            raise UserError(f'{step} and {first} have different vocabularies; their mean would be meaningless.')
        more = parameters(step)
        shapes = [{name: array.shape for name, array in of.items()} for of in (total, more)]
        wrong = {name for name, _ in shapes[0].items() ^ shapes[1].items()}
        if wrong:
            raise UserError(f'{step} and {first} are different models: {", ".join(sorted(wrong)[:5])}.')
        for name, array in more.items():
            total[name] += array
    return {name: (array / len(steps)).astype(arrays[name].dtype) for name, array in total.items()}


def parameters(step: Path) -> Arrays:
    """The trained and the frozen parameters of a checkpoint by path: `params/...` and `frozen/...`."""
    return {name: array for name, array in read(step).items() if name.startswith(('params/', 'frozen/'))}


def read(step: Path) -> Arrays:
    """Every array of a checkpoint by path, on the host.

    Raises:
      UserError: the checkpoint is damaged.
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
    """Writes parameters as a checkpoint in a new MODEL_DIR, with the step, metadata and vocabulary of another.

    Args:
      arrays: parameters by path, as `parameters` returns them.
      like: the other checkpoint.
      model_dir: directory to write to.

    Returns:
      The path of the new checkpoint.

    Raises:
      UserError: `model_dir` already holds this step.
    """
    run = RunDirectory(model_dir)
    checkpoint = run.checkpoint(int(like.name))
    if checkpoint.exists():
        raise UserError(f'{checkpoint} exists; name another folder.')
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, last = name.split('/')
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[last] = array
    handlers = {STATE: ocp.PyTreeCheckpointHandler(), METADATA: ocp.JsonCheckpointHandler()}
    checkpointer = ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers))
    metadata = dataclasses.replace(read_metadata(like), sealed=True)
    items = {STATE: ocp.args.PyTreeSave(tree), METADATA: ocp.args.JsonSave(metadata.to_json())}
    checkpointer.save(checkpoint.absolute(), args=ocp.args.Composite(**items))
    vocabulary = RunDirectory.of_checkpoint(like).vocabulary
    files = {} if vocabulary is None else {vocabulary.name: vocabulary.read_bytes()}
    integrity.seal(checkpoint, files)
    for name, content in files.items():
        write_whole(run.path / name, content)
    return checkpoint
