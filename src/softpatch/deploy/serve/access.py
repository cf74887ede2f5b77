"""The door of the server: who may ask, what every answer says to browsers, and what is noted of each request."""

import hmac
import time
import traceback
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from softpatch.deploy.serve.log import log
from softpatch.deploy.serve.metrics import Metrics
from softpatch.deploy.serve.request_errors import RequestError
from softpatch.deploy.serve.settings import ServeSettings

_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
_OPEN = ("/", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready")
_OPEN_BELOW = "/page/"


class Access:
    """An application behind its door."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever happens, and note it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0
        noted: dict[str, Any] = {}
        scope.setdefault("state", {})["noted"] = noted

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            error = refused(Headers(scope=scope), scope["path"], scope["method"], self._settings)
            if error is not None:
                await answer_of(error)(scope, receive, send_noted)
            else:
                await self._app(scope, receive, send_noted)
        except Exception as problem:
            log("error", error=repr(problem), trace=traceback.format_exc())
            if not status:
                await answer_of(RequestError(500, "the server failed; its log says why"))(scope, receive, send_noted)
        finally:
            self._note(scope, status, time.perf_counter() - began, noted)

    def _note(self, scope: MutableMapping[str, Any], status: int, seconds: float, noted: dict[str, Any]) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        log("request", method=scope["method"], route=route, status=status, ms=round(1000 * seconds, 1), **noted)


def refused(headers: Headers, path: str, method: str, settings: ServeSettings) -> RequestError | None:
    """Why a request is not let in, by its headers; None where it is.

    A server for this computer alone answers to its names alone: a page from elsewhere whose own name was made to lead
    here would else read answers (DNS rebinding). Nor may such a page send anything.
    """
    if settings.is_loopback and _without_port(headers.get("host", "")) not in (*_LOCAL, settings.host):
        return RequestError(421, f"this server answers to {', '.join(_LOCAL)} alone")
    if method != "GET" and headers.get("sec-fetch-site", "none") in ("cross-site", "same-site"):
        return RequestError(403, "pages of other sites may not send anything here")
    if settings.token is None or path in _OPEN or (path.startswith(_OPEN_BELOW) and method == "GET"):
        return None
    kind, _, given = headers.get("authorization", "").partition(" ")
    is_known = hmac.compare_digest(given.strip().encode(), settings.token.encode())
    if kind.lower() == "bearer" and is_known:
        return None
    return RequestError(401, "this server needs its token, in the header Authorization: Bearer TOKEN", closes=True)


def answer_of(error: RequestError) -> JSONResponse:
    """The answer that tells a client of an error."""
    return JSONResponse({"error": error.message}, error.status, headers=error.headers)


def _without_port(host: str) -> str:
    name, _, port = host.rpartition(":")
    return (name if port.isdecimal() and name else host).lower()
