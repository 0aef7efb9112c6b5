"""A loaded configuration: which binding of a name holds, which are in use, and what they build."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import gin

from palm_jax.configuration import gin_adapter
from palm_jax.configuration.statements import Macro, Reference, Statement, held
from palm_jax.errors import UserError, closest

# Functions besides the root whose arguments programs read from a configuration.
_READ_BY_PROGRAM = ('repeat.over_seeds', 'predictor.for_run')
_CALL_TRACE = re.compile(r'\n?\s*In call to configurable.*', re.DOTALL)


@dataclasses.dataclass
class Configuration:
    """A loaded configuration.

    Attributes:
      statements: all bindings in the order in which they were read; the last of a name holds.
      text: gin text of the bindings in use, which builds the same again; empty before `build`.
    """

    statements: tuple[Statement, ...]
    text: str = dataclasses.field(default='', init=False)
    _read_by_program: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict, init=False, repr=False)

    @property
    def effective(self) -> dict[str, Statement]:
        """The binding that holds, by name."""
        return {statement.name: statement for statement in self.statements}

    def arguments_of(self, function: str) -> dict[str, Any]:
        """Return the arguments of a function that programs call besides the root; empty if none is bound or built."""
        return self._read_by_program.get(function, {})

    def build(self, root: str) -> dict[str, Any]:
        """Build everything that the root function needs.

        Returns:
          The arguments of the root function.

        Raises:
          UserError: nothing uses a binding, a parameter has no value, or a part refuses one.
        """
        try:
            arguments = gin.get_bindings(root)
            self._read_by_program = {name: gin.get_bindings(name) for name in _READ_BY_PROGRAM if self._binds(name)}
        except (UserError, ValueError) as error:
            raise UserError(self.located(_CALL_TRACE.sub('', str(error)).strip())) from None
        except TypeError as error:
            raise UserError(_missing(str(error))) from None
        self._refuse_unused(root)
        self.text = self._text_in_use(root)
        return arguments

    def located(self, message: str) -> str:
        """Return a part's message about its value, with the location of the value's binding before it.

        Messages begin with what they are about: a macro, or a parameter as `Architecture.head_dim`.
        """
        subject = re.match(r'[\w.]+', message)
        for name, statement in self.effective.items():
            if subject and (name == subject[0] or name.endswith(f'.{subject[0]}')):
                while isinstance(statement.value, Macro) and statement.value.name in self.effective:
                    statement = self.effective[statement.value.name]
                return f'{statement.location}: {message}'
        return message

    def _binds(self, function: str) -> bool:
        selector = gin_adapter.selector(function)
        return any(gin_adapter.selector(s.selector) == selector for s in self.effective.values() if not s.is_macro)

    def _text_in_use(self, root: str) -> str:
        """Return gin's text of all bindings but those of replaced parts."""
        operative = _operative(root)
        dead = self._replaced(operative) - operative
        living = [s for s in self.effective.values() if not s.is_macro and gin_adapter.selector(s.selector) not in dead]
        macros = set().union(*map(self._macros_below, living))
        return gin_adapter.text(lambda scope, name: name not in dead and (name != 'gin.macro' or scope in macros))

    def _refuse_unused(self, root: str) -> None:
        """Refuse a binding that reached nothing; those of a replaced part may stay in its file."""
        operative = _operative(root)
        replaced = self._replaced(operative)
        reached: set[str] = set()
        for statement in self.effective.values():
            if statement.is_macro:
                continue
            selector = gin_adapter.selector(statement.selector)
            if selector in operative:
                reached |= self._macros_below(statement)
            elif statement.is_given or selector not in replaced:
                names = sorted(gin_adapter.short(name) for name in operative if not name.startswith('gin.'))
                raise UserError(
                    f'{statement.location}: {statement.name} has no effect: nothing here uses {statement.selector}.\n'
                    f'In use: {", ".join(names)}.'
                )
        for statement in self.effective.values():
            if statement.is_macro and statement.is_given and statement.name not in reached:
                why = self._why_unused(statement.name) or (
                    f'nothing in use reads it.{closest(statement.name, reached)}\nIn use: {", ".join(sorted(reached))}.'
                )
                raise UserError(f'{statement.location}: {statement.name} has no effect: {why}')

    def _why_unused(self, macro: str) -> str:
        """Return why the part that reads a macro is not in use; empty if no binding names that part."""
        effective = self.effective
        readers = [s for s in effective.values() if not s.is_macro and Macro(macro) in held(s.value, Macro)]
        parts = {gin_adapter.selector(s.selector): s.selector for s in readers}
        for statement in reversed(self.statements):
            for reference in held(statement.value, Reference):
                part, now = parts.get(gin_adapter.selector(reference.name)), effective[statement.name]
                if part is None or not statement.is_macro:
                    continue
                named = f'it is for {part}, which {statement.name} names in {statement.location}'
                if now is not statement:
                    return f'{named}, and {now.location} replaces that.'
                return f'{named}, and this kind of task does not read {statement.name}. Leave the method out.'
        return ''

    def _replaced(self, operative: set[str]) -> set[str]:
        """Return the selectors of parts that later bindings replaced, and of all that only those parts refer to.

        A reference counts as replaced if a later binding of the same name overrode it, or if the
        statement that holds it is dead itself: it binds a replaced part that nothing called, or a
        macro that only dead statements read. As one replaced part can make the statements of the
        next one dead (a head's data, the data's table), the set grows until it is a fixpoint.

        Args:
          operative: selectors that were called; a part that is in use elsewhere keeps its statements alive.
        """
        effective = self.effective
        referring = [(s, effective[s.name] is not s, r.name) for s in self.statements for r in held(s.value, Reference)]
        readers: dict[str, list[Statement]] = {}
        for statement in effective.values():
            for macro in held(statement.value, Macro):
                readers.setdefault(macro.name, []).append(statement)
        replaced: set[str] = set()

        def is_dead(statement: Statement) -> bool:
            if statement.is_macro:
                return statement.name in readers and all(map(is_dead, readers[statement.name]))
            return gin_adapter.selector(statement.selector) in replaced - operative

        while True:
            found = {gin_adapter.selector(name) for s, is_overridden, name in referring if is_overridden or is_dead(s)}
            if found <= replaced:
                return replaced
            replaced |= found

    def _macros_below(self, statement: Statement) -> set[str]:
        """Return the macros that a binding reads, directly or through other macros."""
        names = {macro.name for macro in held(statement.value, Macro)}
        nested = [self._macros_below(self.effective[name]) for name in names if name in self.effective]
        return names.union(*nested)


def _operative(root: str) -> set[str]:
    """Return the selectors of all that was called, of the root and of what the program calls itself."""
    return gin_adapter.called() | {gin_adapter.selector(name) for name in (root, *_READ_BY_PROGRAM)}


def _missing(message: str) -> str:
    """Return Python's message about a missing argument, with the binding that gives it."""
    names = re.findall(r"'(\w+)'", message.split('positional argument')[-1].partition('\n')[0])
    function = re.search(r"In call to configurable '([\w.]+)'", message)
    complaint = _CALL_TRACE.sub('', message).strip()
    owner = function[1] if function else complaint
    wanted = ', '.join(f'{owner}.{name}' for name in names)
    return f'{complaint}\nBind what is missing: {wanted or owner} = ...'
