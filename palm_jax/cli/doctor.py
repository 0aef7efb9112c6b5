"""palm-jax doctor: check the installation, and print the commands that fix it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from packaging.requirements import Requirement

from palm_jax import xla_flags
from palm_jax.cache_directory import cache_dir
from palm_jax.cli.parser import Parser
from palm_jax.wording import counted

_NIGHTLIES = {'seqio-nightly': 'seqio==0.0.20', 'tfds-nightly': 'tensorflow-datasets==4.9.10'}


def main(arguments: Sequence[str]) -> int:
    """Print the findings; return 1 if something that every run needs is missing or broken."""
    parser = Parser(prog='palm-jax doctor', description='Checks this installation and prints the commands that fix it.')
    parser.parse_args(arguments)
    problems = 0
    print(f'python {platform.python_version()} on {platform.platform()}')
    for ok, finding, fix in (*_packages(), *_conflicts(), *_extras(), *_devices()):
        print(f'  {"✓" if ok else ("·" if ok is None else "✗")} {finding}' + (f'\n      fix: {fix}' if fix else ''))
        problems += ok is False
    print(_xla_flags())
    print(f'cache  {cache_dir()}  (vocabularies, tokens, compiled programs; set PALM_JAX_CACHE to move it)')
    print('no problems found' if not problems else counted(problems, 'problem'))
    return 1 if problems else 0


def _xla_flags() -> str:
    """Return the table of XLA's flags for GPUs, and what the environment sets."""
    version = importlib.metadata.version('jaxlib')
    flags = xla_flags.known_to(version)
    lines = [f'XLA    flags for GPUs that jaxlib {version} knows; none is set by default, see docs/accelerators.md']
    lines += [f'  · {flag.setting}\n      {flag.purpose}' for flag in flags]
    if not flags:
        lines = [f'XLA    no flags are known to be safe with jaxlib {version}; none is set']
    return '\n'.join([*lines, f'  XLA_FLAGS is {os.environ.get("XLA_FLAGS") or "not set"}'])


def _packages() -> Iterator[tuple[bool | None, str, str]]:
    """Check every requirement of palm_jax: installed, with a supported version."""
    try:
        requirements = importlib.metadata.requires('palm_jax') or []
    except importlib.metadata.PackageNotFoundError:
        yield False, 'palm_jax is not installed', 'pip install .'
        return
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None:
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield False, f'{requirement.name} is missing', f'pip install "{requirement}"'
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        bounds = '' if fits else f', but palm_jax requires {requirement.specifier}'
        yield fits, f'{requirement.name} {version}{bounds}', '' if fits else f'pip install "{requirement}"'


def _conflicts() -> Iterator[tuple[bool | None, str, str]]:
    """Check for nightly builds, which t5 requires and which overwrite files of the releases."""
    for nightly, release in _NIGHTLIES.items():
        try:
            version = importlib.metadata.version(nightly)
        except importlib.metadata.PackageNotFoundError:
            continue
        yield (
            False,
            f'{nightly} {version} overwrites files of {release}, or the other way round',
            f'pip uninstall -y {nightly} && pip install --force-reinstall --no-deps {release}',
        )


def _extras() -> Iterator[tuple[bool | None, str, str]]:
    """List optional packages, with the command that installs the missing ones."""
    for name, module, use, command in (
        ('wandb', 'wandb', 'logging to Weights & Biases', 'pip install "palm_jax[wandb]"'),
        ('t5', 't5', 'the T5 tasks and preprocessors', 'pip install --no-deps t5==0.9.4'),
        ('fastapi', 'fastapi', 'palm-jax serve', 'pip install "palm_jax[serve]"'),
        ('transformers', 'transformers', 'palm-jax export and import', 'pip install "palm_jax[hf]"'),
        ('lm-eval', 'lm_eval', 'lm-evaluation-harness', 'pip install "palm_jax[eval]"'),
        ('torch', 'torch', 'the comparisons with PyTorch peers', 'pip install "palm_jax[peers]"'),
    ):
        found = importlib.util.find_spec(module) is not None
        yield (
            (True if found else None),
            f'{name}: {"installed" if found else f"not installed, only needed for {use}"}',
            ('' if found else command),
        )


def _devices() -> Iterator[tuple[bool | None, str, str]]:
    """Check the devices of jax; a GPU that only the driver sees is a problem."""
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        yield False, f'jax finds no device: {error}', 'JAX_PLATFORMS=cpu, or reinstall jax for this machine'
        return
    yield True, f'{len(devices)} × {devices[0].device_kind} ({devices[0].platform})', ''
    if devices[0].platform == 'cpu' and shutil.which('nvidia-smi'):
        listing = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True, check=False)
        if listing.returncode == 0:
            yield False, f'jax does not see {listing.stdout.strip()}', 'pip install "jax[cuda13]"'
