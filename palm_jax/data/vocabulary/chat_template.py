"""Chat templates: the Jinja of a tokenizer, which writes messages as its base was trained to read them.

It runs in Jinja's sandbox and with what Transformers offers there: `raise_exception`, `strftime_now`, `tojson`, loop
controls and `{% generation %}` around replies. https://huggingface.co/docs/transformers/chat_templating
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from palm_jax.errors import UserError

Message = Mapping[str, str]  # {'role', 'content'}
Span = tuple[int, int]  # of characters, the end not included
_GENERATION = re.compile(r'\{%[-+]?\s*generation\s*[-+]?%\}')
_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # Unicode's noncharacters, which no text holds


class ChatTemplate:
    """A template in Jinja, compiled at its first use.

    Args:
      text: the template.
      special_tokens: tokens that it may name, `bos_token` and others.
      added_tokens: tokens that stand for themselves in a text; one of them ends a turn.
    """

    def __init__(self, text: str, special_tokens: Mapping[str, str], added_tokens: Collection[str]):
        self.text, self._special_tokens, self._added_tokens = text, dict(special_tokens), added_tokens

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """Return messages as one text.

        Args:
          messages: {'role', 'content'} of each, in order.
          add_generation_prompt: whether the text ends where the reply to the last message begins.

        Raises:
          UserError: if the template is not valid Jinja, refuses the messages, or tries what the sandbox forbids.
        """
        return self._render(messages, add_generation_prompt, ('', ''))

    def replies(self, messages: Sequence[Message], wanted: Collection[int]) -> tuple[str, list[Span]] | None:
        """Return messages as one text, and where in it some replies are, each with the token that ends it.

        They are between `{% generation %}` and `{% endgeneration %}`. In a template without, a reply begins where the
        prompt before it ends.

        Args:
          messages: {'role', 'content'} of each, in order.
          wanted: indices of the replies.

        Returns:
          The text and (first character, end) of each reply; None if the template writes a reply otherwise once other
          messages follow, so that one text cannot hold all of them.

        Raises:
          UserError: see `render`.
        """
        if _GENERATION.search(self.text):
            text, spans = self._marked(messages)
            assistants = [n for n, message in enumerate(messages) if message['role'] == 'assistant']
            if len(spans) == len(assistants):
                return text, [span for n, span in zip(assistants, spans, strict=True) if n in wanted]
            if set(assistants) == set(wanted):
                return text, spans
        text, spans = self.render(messages), []
        for n in sorted(wanted):
            until = self.render(messages[: n + 1])
            start = _common_length(self.render(messages[:n], add_generation_prompt=True), until)
            end = until.rfind(self.end, start) if self.end else -1
            end = len(until.rstrip()) if end < 0 else end + len(self.end or '')
            if text[:end] != until[:end]:
                return None
            spans.append((start, end))
        return text, spans

    @functools.cached_property
    def end(self) -> str | None:
        """Token that ends a reply; None if other text does."""
        after = self._after_a_reply
        found = [(after.index(token), -len(token), token) for token in self._added_tokens if token and token in after]
        return min(found)[2] if found else None

    @functools.cached_property
    def stop(self) -> tuple[str, ...]:
        """Strings that end a reply besides EOS: the token of the template, or what comes before the next message."""
        end = self.end or self._after_a_reply.strip()
        return () if not end or end == self._special_tokens.get('eos_token') else (end,)

    @functools.cached_property
    def _after_a_reply(self) -> str:
        """The text between a reply and the message after it."""
        reply, question = 'This is a reply.', 'Is this a question?'
        turns = [('user', 'Is this the first question?'), ('assistant', reply), ('user', question)]
        try:
            text = self.render([{'role': role, 'content': content} for role, content in turns])
        except UserError:
            return ''
        return text.rpartition(reply)[2].partition(question)[0] if reply in text else ''

    def _marked(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """Return the text, and where its blocks of `{% generation %}` are."""
        used = {c for message in messages for c in message['content']}
        begin, end, *_ = (mark for mark in _MARKS if mark not in used)
        marked = self._render(messages, False, (begin, end))
        spans, length, start = [], 0, 0
        for part in re.split(f'([{begin}{end}])', marked):
            if part == begin:
                start = length
            elif part == end:
                spans.append((start, length))
            else:
                length += len(part)
        return marked.replace(begin, '').replace(end, ''), spans

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool, marks: tuple[str, str]) -> str:
        known = 'developer' in self.text
        plain = [{'role': m['role'], 'content': m['content']} for m in messages]
        for message in plain:
            message['role'] = 'system' if message['role'] == 'developer' and not known else message['role']
        try:
            return self._compiled.render(
                messages=plain,
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                generation_marks=marks,
                **self._special_tokens,
            )
        except UserError:
            raise
        except Exception as error:  # whatever its expressions raise
            reason = str(error) or type(error).__name__
            raise UserError(f"The base's chat template refuses the messages: {reason}") from None

    @functools.cached_property
    def _compiled(self) -> Any:
        try:
            from jinja2 import TemplateSyntaxError
        except ImportError:
            raise UserError('Chat templates need Jinja: pip install "palm_jax[hf]"') from None
        try:
            return _environment().from_string(self.text)
        except TemplateSyntaxError as error:
            raise UserError(
                f"The base's chat template, line {error.lineno}, is not valid Jinja: {error.message}"
            ) from None


def _common_length(one: str, other: str) -> int:
    """Return the number of characters with which both texts begin."""
    differing = (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


@functools.cache
def _environment() -> Any:
    """Return Jinja's sandbox with what templates of Transformers use."""
    import jinja2
    from jinja2 import ext, nodes, sandbox

    class Generation(ext.Extension):
        """`{% generation %}`: its text, between the marks that the renderer passes."""

        tags = {'generation'}  # noqa: RUF012 - Jinja's attribute

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
            call = self.call_method('_mark', [nodes.ContextReference()])
            return nodes.CallBlock(call, [], [], body).set_lineno(line)

        def _mark(self, context: Any, caller: Any) -> str:
            begin, end = context['generation_marks']
            return f'{begin}{caller()}{end}'

    class Namespace(jinja2.utils.Namespace):
        """Jinja's namespace without names that begin with an underscore."""

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith('_'):
                raise jinja2.exceptions.SecurityError(f'a namespace must not have the attribute {name!r}')
            super().__setitem__(name, value)

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    def strftime_now(form: str) -> str:
        return datetime.datetime.now().strftime(form)

    def make_dict(*values: Any, **named: Any) -> dict[Any, Any]:
        return dict(*values, **named)

    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters['tojson'] = tojson
    environment.globals |= {
        'raise_exception': raise_exception, 'strftime_now': strftime_now, 'dict': make_dict, 'namespace': Namespace
    }  # fmt: skip
    return environment
