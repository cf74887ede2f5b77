"""The page at `/docs`: every route, to read and to try, by Swagger UI, whose files the server has itself."""

import base64
import hashlib
import re

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html

_POLICY = (
    "default-src 'none'; script-src 'self' '{digest}'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def routes() -> APIRouter:
    """The page; what it is made of is served as the parts of the first page are."""
    router = APIRouter(include_in_schema=False)
    page = bytes(
        get_swagger_ui_html(
            openapi_url="openapi.json",
            title="softpatch: routes",
            swagger_js_url="page/swagger-ui-bundle.js",
            swagger_css_url="page/swagger-ui.css",
            swagger_favicon_url="page/swagger-icon.png",
        ).body
    )
    (inline,) = re.findall(rb"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = f"sha256-{base64.b64encode(hashlib.sha256(inline).digest()).decode()}"
    headers = {"Content-Security-Policy": _POLICY.format(digest=digest)}

    @router.get("/docs")
    async def reference() -> Response:
        """The page."""
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    return router
