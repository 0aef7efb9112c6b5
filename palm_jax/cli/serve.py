"""palm-jax serve --model=runs/tiny [--model=intents=runs/finetuned]"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence

from palm_jax.cli import command_line
from palm_jax.errors import UserError


def main(arguments: Sequence[str]) -> int:
    """Flags to one call."""
    parser = argparse.ArgumentParser(
        prog='palm-jax serve',
        description='Serves trained models over HTTP, by the API that OpenAI clients speak. /docs describes it.',
        epilog='--gin.NAME=value overrides a macro of the runs, e.g. --gin.DECODING_WEIGHTS=int8',
        allow_abbrev=False,
    )
    parser.add_argument('--model', action='append', required=True, help='[NAME=]MODEL_DIR; may be given several times')
    parser.add_argument('--host', default='127.0.0.1', help='0.0.0.0 listens to other machines, too')
    parser.add_argument('--port', type=int, default=8000, help='0 takes any that is free')
    parser.add_argument('--slots', type=int, default=8, help='texts of a model that are written together')
    parser.add_argument('--max_waiting', type=int, default=64, help='requests that wait for a place; one more gets 429')
    parser.add_argument('--max_tokens', type=int, default=4096, help='of an answer at most')
    parser.add_argument('--seconds', type=float, default=300, help='that an answer may take')
    parser.add_argument('--body_bytes', type=int, default=4 << 20, help='of a request')
    rest, flags = command_line.split_flags(arguments)
    options = parser.parse_args(rest)
    try:
        import uvicorn

        from palm_jax.serving import app, models
        from palm_jax.serving.limits import Limits
    except ImportError as error:
        raise UserError(f'{error.name} is not installed: pip install "palm_jax[serve]"') from None
    from palm_jax.inference.engine import Engine

    served = models.load(options.model, flags)
    engine = Engine(options.places, options.max_waiting)
    models.fill(engine, served)
    limits = Limits(
        body_bytes=options.body_bytes,
        max_tokens=options.max_tokens,
        seconds=options.seconds,
        token=os.environ.get('PALM_JAX_TOKEN') or None,
    )
    listening = _listening(options.host, options.port)
    address = f'http://{options.host}:{listening.getsockname()[1]}'
    for name, one in served.items():
        print(f'serving    {name} ({one.kind}): {one.model.checkpoint}')
    print(f'chat page  {address}/    API  {address}/docs')
    key = 'of PALM_JAX_TOKEN' if limits.token else 'none; set PALM_JAX_TOKEN to ask for one'
    print(f'key        {key}', flush=True)
    config = uvicorn.Config(
        app.create_app(served, engine, limits),
        log_level='warning',
        timeout_graceful_shutdown=int(options.seconds) + 1,
    )
    uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens; of port 0 on any free one."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise UserError(f'--host={host} --port={port}: {error}. Another one: --port=8001') from None
