"""Back-translation (Sennrich et al., arXiv 1511.06709): into another language and back, by runs or other programs."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from palm_jax.api.trained_model import TrainedModel
from palm_jax.errors import UserError
from palm_jax.synthesis.maker import Maker, Sampling, of_run, usable

_LAST_LINES = 5  # of what a failing command says


class Translator(Protocol):
    """One direction of a translation."""

    @property
    def is_random(self) -> bool:
        """Whether another copy may be another text."""

    def translate(self, texts: Sequence[str], copy: int, first: int) -> list[str]:
        """Return a translation of each text; none of the texts is empty."""

    def depends_on(self) -> object:
        """Return what the translations depend on; see `Maker.depends_on`."""


@dataclasses.dataclass(frozen=True)
class RunTranslator:
    """A run that was trained from text to text.

    Attributes:
      model: its model.
      sampling: random choices.
    """

    model: TrainedModel
    sampling: Sampling = Sampling()

    @property
    def is_random(self) -> bool:
        """Whether the temperature is above 0."""
        return self.sampling.temperature > 0

    def translate(self, texts: Sequence[str], copy: int, first: int) -> list[str]:
        """Return what the model generates for each text."""
        return self.model.generate(list(texts), self.sampling.sampler(self.model, copy), first)

    def depends_on(self) -> object:
        """Return checkpoint and configuration by content, and the random choices."""
        return of_run(self.model) | dataclasses.asdict(self.sampling)


@dataclasses.dataclass(frozen=True)
class CommandTranslator:
    """Another program, which is started once for many texts.

    It reads a line per text and writes a line for each, in the same order: from its standard input to its standard
    output, or between the files that `{input}` and `{output}` in the template stand for. Each line of a text with
    several is translated by itself.

    Attributes:
      template: command line, `apertium eng-spa` or `translate --from={input} --to={output}`; no shell reads it.
    """

    template: str

    is_random = False

    def translate(self, texts: Sequence[str], copy: int, first: int) -> list[str]:
        """Return the translations.

        Raises:
          UserError: the command is not there or fails, or writes another number of lines.
        """
        del copy, first
        parts = [[line.strip() for line in text.replace('\r', '\n').split('\n')] for text in texts]
        lines = [line for of_text in parts for line in of_text if line]
        translated = iter(self._run(lines))
        return ['\n'.join(next(translated) if line else '' for line in of_text) for of_text in parts]

    def depends_on(self) -> object:
        """Return the template."""
        return self.template

    @property
    def _flag(self) -> str:
        """The flag as a shell reads it, for messages."""
        return f'--through_command={shlex.quote(self.template)}'

    def _run(self, lines: Sequence[str]) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            given, made = Path(folder) / 'input.txt', Path(folder) / 'output.txt'
            content = ''.join(f'{line}\n' for line in lines)
            given.write_text(content, encoding='utf-8', newline='\n')
            try:
                words = [
                    word.replace('{input}', str(given)).replace('{output}', str(made))
                    for word in shlex.split(self.template)
                ]
                with given.open('rb') as stream:
                    done = subprocess.run(words, stdin=stream, capture_output=True, check=False)
            except (ValueError, IndexError) as error:  # an unbalanced quotation mark; nothing at all
                raise UserError(f'{self._flag} is not a command line: {error}.') from None
            except OSError as error:
                raise UserError(
                    f'{self._flag}: {words[0]} cannot be started: {error.strerror}. Install it, '
                    'or write its whole path.'
                ) from None
            if done.returncode:
                said = done.stderr.decode(errors='replace').strip().splitlines()[-_LAST_LINES:]
                raise UserError(
                    f'{self._flag} ended with code {done.returncode}: '
                    + ('\n  '.join(['', *said]) if said else 'it said nothing.')
                )
            written = made.read_bytes() if made.exists() else done.stdout
        return self._lines(written, len(lines))

    def _lines(self, written: bytes, count: int) -> list[str]:
        try:
            lines = written.decode('utf-8').replace('\r\n', '\n').removesuffix('\n').split('\n')
        except UnicodeDecodeError as error:
            raise UserError(f'{self._flag} has not written UTF-8: {error}.') from None
        if len(lines) != count:
            raise UserError(
                f'{self._flag} has written {len(lines):,} lines for {count:,}; it must write '
                'one for each, in the same order.'
            )
        return [line.strip() for line in lines]


@dataclasses.dataclass(frozen=True)
class BackTranslation(Maker):
    """Translates each text by several translators, one after another, back into its own language.

    Attributes:
      translators: translators in order; there and back are two.
    """

    translators: Sequence[Translator]

    name = 'back-translation'

    @property
    def is_random(self):
        """Whether one of the translators samples."""
        return any(translator.is_random for translator in self.translators)

    def make(self, rows, texts, copy, first):
        """Return the texts after all translations; one that a translator makes nothing of is empty."""
        del rows
        current = list(texts)
        for translator in self.translators:
            left = [number for number, text in enumerate(current) if text.strip()]
            # Choices depend on the number of a text among all: in the place of an empty one stands another.
            given = [text if text.strip() else current[left[0]] for text in current] if left else []
            translated = translator.translate(given, copy, first) if left else []
            current = [usable(translated[n]) if text.strip() else '' for n, text in enumerate(current)]
        return current

    def depends_on(self):
        """Return what every translator depends on."""
        return [translator.depends_on() for translator in self.translators]
