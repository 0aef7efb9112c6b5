"""Errors in the format of OpenAI's API, whoever raised them, and their description in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from palm_jax.errors import UserError
from palm_jax.serving import response_bodies
from palm_jax.serving.fields import printable

DOCUMENTED = {
    status: {'model': response_bodies.ErrorBody, 'description': description}
    for status, description in {
        400: 'The request is invalid; the message says where',
        401: 'The API key is missing or wrong',
        403: 'The Host header names another server',
        404: 'The model does not exist',
        408: 'The body arrived too slowly',
        413: 'The body is too large',
        429: 'Too many queued requests; Retry-After says when to retry',
        500: 'The server failed',
        503: 'The server is shutting down, or cannot keep feedback',
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
        message = printable(message)
        param = None if param is None else printable(param)
        super().__init__(message)
        types = {401: 'authentication_error', 403: 'permission_error', 404: 'not_found_error', 429: 'rate_limit_error'}
        error_type = types.get(status, 'invalid_request_error' if status < 500 else 'server_error')
        self.status = status
        self.body = {'error': {'message': message, 'type': error_type, 'param': param, 'code': code}}
        self.headers = {name.replace('_', '-'): value for name, value in headers.items()}

    def response(self) -> JSONResponse:
        """Return the HTTP response."""
        return JSONResponse(self.body, self.status, self.headers)


def busy() -> Failure:
    """Return the response to a request that has no place in the queue."""
    return Failure(429, 'Too many queued requests; retry later.', 'busy', Retry_After='1')


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
        return _invalid(error.errors()[0], request.headers.get('content-type', '')).response()

    @app.exception_handler(HTTPException)
    async def of_the_framework(_: Request, error: HTTPException) -> JSONResponse:
        unread = isinstance(error.__cause__, RecursionError | ValueError) and error.status_code == 400
        message = f'The body is not valid JSON: {_of_json(error.__cause__)}.' if unread else str(error.detail)
        return Failure(error.status_code, message, **(error.headers or {})).response()

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        return Failure(500, f'The server failed: {type(error).__name__}.').response()

    _document_400_instead_of_422(app)


def _of_json(error: BaseException | None) -> str:
    """Return what is wrong with JSON that Python's parser could not read."""
    if isinstance(error, RecursionError):
        return 'its objects and lists are nested too deeply'
    return 'it is not UTF-8' if isinstance(error, UnicodeDecodeError) else 'it holds a number with too many digits'


def _invalid(first: dict[str, Any], content_type: str) -> Failure:
    """Return the response to the first error of a request's body or parameters."""
    context = first.get('ctx', {})
    if first['loc'] == ('body',) and 'json' not in content_type:
        return Failure(400, 'Send JSON, with the header Content-Type: application/json.')
    if first['type'] == 'json_invalid':
        place = f'{context.get("error", first["msg"])} at character {int(first["loc"][-1]) + 1:,}'
        return Failure(400, f'The body is not valid JSON: {place}.')
    path = [*(str(part) for part in first['loc'] if part != 'body')]
    path += [context['field']] if context.get('field') else []
    field = '.'.join(part[:60] for part in path) or 'body'
    message = 'this field is required' if first['type'] == 'missing' else first['msg']
    return Failure(400, f'{field}: {message}', param=field)


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
