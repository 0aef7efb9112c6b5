"""Errors in OpenAI's shape, whoever raised them, and how the API's description tells of them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from palm_jax.errors import UserError
from palm_jax.serving import protocol

DOCUMENTED = {
    status: {'model': protocol.ErrorBody, 'description': description}
    for status, description in {
        400: 'What was asked is wrong; the message says where',
        401: 'The key is missing or wrong',
        404: 'There is no such model',
        408: 'The body came too slowly',
        413: 'The body is too large',
        429: 'Too many requests wait; Retry-After says when to come again',
        500: 'The server failed',
        503: 'The server is about to stop',
        504: 'The answer took too long',
    }.items()
}


class Failure(Exception):
    """An error to be answered in OpenAI's shape."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None, **headers: str):
        super().__init__(message)
        kinds = {401: 'authentication_error', 429: 'rate_limit_error', 404: 'not_found_error'}
        kind = kinds.get(status, 'invalid_request_error' if status < 500 else 'server_error')
        self.status = status
        self.body = {'error': {'message': message, 'type': kind, 'param': param, 'code': code}}
        self.headers = {name.replace('_', '-'): value for name, value in headers.items()}

    def response(self) -> JSONResponse:
        """What is sent."""
        return JSONResponse(self.body, self.status, self.headers)


def handle(app: FastAPI) -> None:
    """Answers all errors in OpenAI's shape, what is invalid with 400 as there."""

    @app.exception_handler(Failure)
    async def failure(_: Request, error: Failure) -> JSONResponse:
        return error.response()

    @app.exception_handler(UserError)
    async def user_error(_: Request, error: UserError) -> JSONResponse:
        return Failure(400, str(error)).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first['loc'] == ('body',) and 'json' not in request.headers.get('content-type', ''):
            return Failure(400, 'Send JSON, with the header Content-Type: application/json.').response()
        place = '.'.join(str(part) for part in first['loc'] if part != 'body') or 'body'
        return Failure(400, f'{place}: {first["msg"]}', param=place).response()

    @app.exception_handler(HTTPException)
    async def of_the_framework(_: Request, error: HTTPException) -> JSONResponse:
        return Failure(error.status_code, str(error.detail), **(error.headers or {})).response()

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return Failure(500, f'The server failed: {type(error).__name__}.').response()

    _document_400_instead_of_422(app)


def _document_400_instead_of_422(app: FastAPI) -> None:
    original = app.openapi

    def openapi() -> dict[str, Any]:
        document = original()
        for path in document['paths'].values():
            for operation in path.values():
                operation['responses'].pop('422', None)
        for name in ('HTTPValidationError', 'ValidationError'):
            document['components']['schemas'].pop(name, None)
        return document

    app.openapi = openapi
