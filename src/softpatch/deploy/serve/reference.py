"""The page at `/docs`: every route, to read and to try, by Swagger UI, whose files the server has itself."""

import base64
import hashlib
import re
from importlib.resources import files

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html

from softpatch.deploy.serve.request_errors import RequestError

_POLICY = (
    "default-src 'none'; script-src 'self' '{digest}'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PARTS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}


def routes() -> APIRouter:
    """The page and what it is made of."""
    router = APIRouter(include_in_schema=False)
    script, style, icon = (f"docs/{name}" for name in _PARTS)
    page = bytes(
        get_swagger_ui_html(
            openapi_url="openapi.json",
            title="softpatch: routes",
            swagger_js_url=script,
            swagger_css_url=style,
            swagger_favicon_url=icon,
        ).body
    )
    (inline,) = re.findall(rb"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = f"sha256-{base64.b64encode(hashlib.sha256(inline).digest()).decode()}"
    headers = {"Content-Security-Policy": _POLICY.format(digest=digest)}

    @router.get("/docs")
    async def reference() -> Response:
        """The page."""
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    @router.get("/docs/{name}")
    async def part(name: str) -> Response:
        """A style, a script or a picture of it."""
        if name not in _PARTS:
            raise RequestError(404, f"the page has no part {name[:60]!r}")
        content = files("fastapi_offline").joinpath("static", name).read_bytes()
        return Response(content, media_type=_PARTS[name])

    return router
