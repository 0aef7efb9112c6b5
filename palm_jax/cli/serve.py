"""palm-jax serve --model=runs/tiny [--model=intents=runs/finetuned]"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import socket
from collections.abc import Sequence
from typing import Annotated

from palm_jax.bounds import Above, AtLeast, AtMost, Below
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, file_name, number, positive
from palm_jax.configuration.flags import split_flags
from palm_jax.errors import UserError
from palm_jax.wording import without_passwords

_OTHER_FILES = 256  # what the process opens beside connections


def main(arguments: Sequence[str]) -> int:
    """Serve models until a signal."""
    rest, flags = split_flags(arguments)
    options = _parser().parse_args(rest)
    try:
        from palm_jax.serving import app, connections, hosts, models, routing
        from palm_jax.serving.limits import Limits
        from palm_jax.serving.switching import Switcher
    except ImportError as error:
        raise UserError(f'{error.name} is not installed: pip install "palm_jax[serve]"') from None
    from palm_jax.inference.engine import Engine
    from palm_jax.monitoring import content_filter, redaction
    from palm_jax.monitoring.audit_log import AuditLog
    from palm_jax.monitoring.content_filter import ContentFilter
    from palm_jax.monitoring.request_database import check_connection
    from palm_jax.monitoring.request_log import RequestLog

    hook = redaction.load_hook(options.redact) if options.keep else None
    if options.keep:
        check_connection(options.keep)  # models take minutes to load
    loader = models.Loader(flags, options.trust_modules)
    rules = content_filter.load(options.rules, loader.scorer) if options.rules else ()
    served = models.load(options.model, loader)
    tests = routing.load_tests(options.ab_test, options.ab_share or 0.5, served, loader)
    engine = Engine(
        options.slots,
        options.max_waiting,
        prefix_cache_bytes=options.prefix_cache_bytes,
        prefill_chunk=options.prefill_chunk,
    )
    load = lambda *model: dataclasses.replace(loader, bases={})(*model)  # noqa: E731 - nothing is kept of former ones
    switcher = Switcher(served, load, options.reload_seconds, engine)
    models.fill(engine, served, [test.model for test in tests.values()])
    listening = _listening(options.host, options.port)
    audit = AuditLog(options.audit) if options.audit else None
    log = RequestLog(options.keep, hook, options.keep_days) if options.keep else None  # now that nothing is refused
    address, port, *_ = listening.getsockname()
    limits = Limits(
        body_bytes=options.body_bytes,
        max_tokens=options.max_tokens,
        seconds=options.seconds,
        token=_token(),
        hosts=hosts.hosts_of(options.host, address, options.allowed_host),
        max_connections=_max_connections(options.max_connections),
    )
    shown = f'[{options.host}]' if ':' in options.host else options.host
    url = f'http://{shown}:{port}'
    loader.bases.clear()  # of a model that is replaced, nothing must be kept
    print(*(f'serving    {n} ({m.predictor.kind}): {m.model.checkpoint}' for n, m in served.items()), sep='\n')
    print(f'chat page  {url}/    API  {url}/docs')
    key = 'from PALM_JAX_TOKEN' if limits.token else 'none; set PALM_JAX_TOKEN to require one'
    print(f'API key    {key}', flush=True)
    if log is not None:
        print(
            f'keeping    requests and feedback for {options.keep_days:g} days: {without_passwords(options.keep)}',
            flush=True,
        )
    for name, test in tests.items():
        print(f'A/B test   {name}: {test.share:.0%} of requests are answered by {test.model.directory}', flush=True)
    if rules:
        print(f'rules      {", ".join(rule.name for rule in rules)}; audit log: {options.audit or "none"}', flush=True)
    switching = switcher if switcher.is_needed else None
    application = app.create_app(
        routing.Models(served, tests), engine, limits, log, switching, ContentFilter(rules, audit)
    )
    server = connections.create_server(application, limits)
    connections.run(server, listening, [contextlib.closing(opened) for opened in (log, audit) if opened is not None])
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog='palm-jax serve',
        description='Serves trained models over HTTP with an API for OpenAI clients, which /docs describes.',
        epilog='--gin.NAME=value overrides a macro of the runs, e.g. --gin.DECODING_WEIGHTS=int8',
        example='palm-jax serve --model=runs/tiny',
        takes_bindings=True,
    )
    parser.add_argument('--model', action='append', required=True, help='[NAME=]MODEL_DIR; may be given several times')
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on; 0.0.0.0 accepts other machines')
    parser.add_argument(
        '--port',
        type=number(Annotated[int, AtLeast(0), AtMost(65535)]),
        default=8000,
        help='port to listen on; 0 takes any free one',
    )
    parser.add_argument(
        '--slots', type=positive, default=8, help='maximum number of sequences generated in parallel per model'
    )
    parser.add_argument(
        '--allowed_host',
        action='append',
        default=[],
        help='further name of this server in the Host header, such as that of a proxy; may be given several times; '
        '*.NAME accepts all names below, * any; default: none',
    )
    parser.add_argument(
        '--max_waiting', type=positive, default=64, help='maximum number of queued texts; further requests get 429'
    )
    parser.add_argument('--max_tokens', type=positive, default=4096, help='maximum completion tokens')
    parser.add_argument(
        '--seconds', type=number(Annotated[float, Above(0)]), default=300, help='request timeout in seconds'
    )
    parser.add_argument('--body_bytes', type=positive, default=4 << 20, help='maximum request body size in bytes')
    parser.add_argument(
        '--max_connections',
        type=positive,
        default=1024,
        help='maximum number of open connections; further ones get 429',
    )
    parser.add_argument(
        '--prefix_cache_bytes',
        type=number(Annotated[int, AtLeast(0)]),
        default=256 << 20,
        help='maximum size in bytes of the keys and values that are kept of the beginnings of prompts, so that what '
        'requests share (a system prompt) is read once; 0 keeps none',
    )
    parser.add_argument(
        '--prefill_chunk',
        type=number(Annotated[int, AtLeast(0)]),
        default=512,
        help='maximum number of prompt tokens of a model that are read at once; a long prompt is read in pieces of as '
        'many, between which the answers to other requests go on; 0 reads whole prompts',
    )
    _add_operation(parser)
    command_line.add_trust(parser)
    return parser


def _add_operation(parser: Parser) -> None:
    """Add the flags of what is kept, refused and compared while the server runs."""
    parser.add_argument(
        '--keep',
        metavar='FILE',
        type=_place,
        help='.db file (SQLite), or postgresql://user@host/name, that keeps requests and answers and takes feedback to '
        'them at /v1/feedback; default: nothing is kept',
    )
    parser.add_argument(
        '--keep_days',
        type=number(Annotated[float, Above(0)]),
        default=30,
        needs='--keep',
        help='days after which what is kept is deleted',
    )
    parser.add_argument(
        '--redact',
        default='mask',
        needs='--keep',
        help='what texts pass before they are kept: mask replaces e-mail addresses and numbers of cards, accounts and '
        'phones, none keeps texts as they are, module:function is imported and called',
    )
    parser.add_argument(
        '--rules',
        metavar='FILE',
        type=file_name('.json'),
        help='.json file of rules about what is asked and written: words, patterns, scores of models; default: none',
    )
    parser.add_argument(
        '--audit',
        metavar='FILE',
        type=file_name('.jsonl'),
        needs='--rules',
        help='.jsonl file to which every text that a rule applies to is appended, by its hash; default: none',
    )
    parser.add_argument(
        '--ab_test',
        action='append',
        default=[],
        metavar='NAME=MODEL_DIR',
        help='second model for a share of the requests to a served model, one per name; compare them with palm-jax '
        'ab-test; default: none',
    )
    parser.add_argument(
        '--ab_share',
        type=number(Annotated[float, Above(0), Below(1)]),
        needs='--ab_test',
        help='share of requests that the second models of --ab_test answer; default: 0.5',
    )
    parser.add_argument(
        '--reload_seconds',
        type=number(Annotated[float, Above(0)]),
        default=10,
        help='seconds between looks at registries, whose new champions replace the served ones',
    )


def _place(text: str) -> str:
    """Return the name of a database, see `request_database.check_place`."""
    from palm_jax.monitoring.request_database import check_place

    try:
        return check_place(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _token() -> str | None:
    """Return the API key that clients must send, if there is one."""
    token = os.environ.get('PALM_JAX_TOKEN', '').strip()
    if not (token.isascii() and token.isprintable()):
        raise UserError('PALM_JAX_TOKEN has characters that a header cannot hold: use letters and digits.')
    return token or None


def _max_connections(wanted: int) -> int:
    """Let the process have as many connections open as wanted, and return how many it may have."""
    try:
        import resource
    except ImportError:  # not on this system
        return wanted
    needed = 2 * wanted + _OTHER_FILES  # refusals are connections, too
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if soft < needed:
            most = max((soft - _OTHER_FILES) // 2, 1)
            print(f'note       at most {most:,} connections: this system allows {soft:,} open files')
            return most
    return wanted


def _listening(host: str, port: int) -> socket.socket:
    """Return a listening socket."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise UserError(f'--host={host} --port={port}: {error}. Try another port: --port=8001') from None
