"""The application: routes of the two interfaces and of the page, behind the door that `access.py` is."""

from typing import cast

from fastapi import FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from softpatch import __version__
from softpatch.deploy.serve import open_inference, page, people, reference
from softpatch.deploy.serve.access import Access, answer_of
from softpatch.deploy.serve.metrics import CONTENT_TYPE
from softpatch.deploy.serve.request_errors import RequestError
from softpatch.deploy.serve.service import Service


def application(service: Service) -> ASGIApp:
    """The ASGI application of a service that is at work."""
    app = FastAPI(title="softpatch", version=__version__, docs_url=None, redoc_url=None)
    described = [Security(HTTPBearer(auto_error=False))]  # `Access` asks for the token; this tells of it
    app.include_router(people.routes(service), dependencies=described)
    app.include_router(open_inference.routes(service), dependencies=described)
    app.include_router(page.routes())
    app.include_router(reference.routes())

    @app.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """Counters and histograms for Prometheus."""
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return Access(app, service.settings, service.metrics)


async def _on_request_error(_: Request, error: Exception) -> Response:
    return answer_of(cast(RequestError, error))


async def _on_http(_: Request, error: Exception) -> Response:
    found = cast(HTTPException, error)
    answer = answer_of(RequestError(found.status_code, str(found.detail)))
    answer.headers.update(found.headers or {})
    return answer


async def _on_values(_: Request, error: Exception) -> Response:
    first = cast(RequestValidationError, error).errors()[0]
    name = first["loc"][-1] if first["loc"] else "value"
    return answer_of(RequestError(400, f"{name} is {str(first.get('input'))[:60]!r}: {first['msg']}"))


async def _on_failure(_: Request, error: Exception) -> Response:  # noqa: ARG001  it goes on to `Access`, which logs it
    return answer_of(RequestError(500, "the server failed; its log says why"))


_HANDLERS = {
    RequestError: _on_request_error,
    HTTPException: _on_http,
    RequestValidationError: _on_values,
    Exception: _on_failure,
}
