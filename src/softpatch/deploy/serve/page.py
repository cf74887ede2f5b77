"""The page at `/`: a few files, served as they are; all else it asks of `/v1`."""

from importlib.resources import files

from fastapi import APIRouter, Response

from softpatch.deploy.serve.request_errors import RequestError

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = ("softpatch.deploy", "pages/serve.html", "text/html; charset=utf-8")
_PARTS = {
    "style.css": ("softpatch.review", "pages/style.css", "text/css"),
    "report.css": ("softpatch.review", "pages/report.css", "text/css"),
    "elements.js": ("softpatch.review", "pages/elements.js", "text/javascript"),
    "serve.css": ("softpatch.deploy", "pages/serve.css", "text/css"),
    "serve.js": ("softpatch.deploy", "pages/serve.js", "text/javascript"),
    "swagger-ui.css": ("fastapi_offline", "static/swagger-ui.css", "text/css"),
    "swagger-ui-bundle.js": ("fastapi_offline", "static/swagger-ui-bundle.js", "text/javascript"),
    "swagger-icon.png": ("fastapi_offline", "static/favicon.png", "image/png"),
    "serve_report.js": ("softpatch.deploy", "pages/serve_report.js", "text/javascript"),
}


def routes() -> APIRouter:
    """The page and what it is made of."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page() -> Response:
        """The page."""
        return _served(*_PAGE)

    @router.get("/page/{name}")
    async def part(name: str) -> Response:
        """A style or a script of it."""
        if name not in _PARTS:
            raise RequestError(404, f"the page has no part {name[:60]!r}")
        return _served(*_PARTS[name])

    return router


def _served(package: str, path: str, media_type: str) -> Response:
    content = files(package).joinpath(path).read_bytes()
    headers = {"Content-Security-Policy": _POLICY, "Permissions-Policy": "camera=(self)"}
    return Response(content, media_type=media_type, headers=headers)
