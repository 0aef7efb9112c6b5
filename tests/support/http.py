"""Requests to servers of the tests, without the 20 ms that httpx takes to read the certificates of all authorities."""

import functools

import httpx

get, post, stream = (functools.partial(function, verify=False) for function in (httpx.get, httpx.post, httpx.stream))
