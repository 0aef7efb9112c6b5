"""Errors in the format of OpenAI's API, whoever raised them, and their description in the OpenAPI document."""

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
        400: 'The request is invalid; the message says where',
        401: 'The API key is missing or wrong',
        404: 'The model does not exist',
        408: 'The body arrived too slowly',
        413: 'The body is too large',
        429: 'Too many queued requests; Retry-After says when to retry',
        500: 'The server failed',
        503: 'The server is shutting down',
        504: 'Generating the answer took too long',
    }.items()
}


class Failure(Exception):
    """An error response in the format of OpenAI's API.

    Args:
      status: HTTP status.
      message: text for the user.
      code: machine-readable code.
      param: field of the request that is wrong.
      headers: headers of the response, with _ for -.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None, **headers: str):
        super().__init__(message)
        types = {401: 'authentication_error', 429: 'rate_limit_error', 404: 'not_found_error'}
        error_type = types.get(status, 'invalid_request_error' if status < 500 else 'server_error')
        self.status = status
        self.body = {'error': {'message': message, 'type': error_type, 'param': param, 'code': code}}
        self.headers = {name.replace('_', '-'): value for name, value in headers.items()}

    def response(self) -> JSONResponse:
        """Return the HTTP response."""
        return JSONResponse(self.body, self.status, self.headers)


def handle(app: FastAPI) -> None:
    """Let an application answer all errors in the format of OpenAI's API, and invalid requests with 400 as it does."""

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
        field = '.'.join(str(part) for part in first['loc'] if part != 'body') or 'body'
        return Failure(400, f'{field}: {first["msg"]}', param=field).response()

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

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to change the schema
