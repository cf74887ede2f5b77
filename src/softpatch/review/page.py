"""HTML pages that open from a USB stick: one file, its styles, scripts and data inside, nothing fetched from anywhere.

Text is escaped by Jinja2. Data for scripts is JSON in an element of its own, where nothing in it can end the element.
A content security policy allows the page's own scripts, by their digests, and nothing else.
"""

import base64
import hashlib
import json
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from softpatch import __version__
from softpatch.atomic import check_can_write, replacing
from softpatch.errors import InputError

REPORT = "report.html"
"""The page that reports are written to, in a folder of results."""
_POLICY = "default-src 'none'; img-src data: 'self' file:; style-src 'unsafe-inline'"
_BEGINNING = b"<!doctype html>"
_GENERATOR = b'<meta name="generator" content="softpatch">'
_IN_JSON = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def write_page(
    path: Path,
    template: str,
    *,
    styles: tuple[str, ...] = (),
    scripts: tuple[str, ...] = (),
    data: Any = None,
    **values: Any,
) -> None:
    """Write a page, whole or not at all.

    `template`, `styles` and `scripts` are names of files in `review/pages/`; the template extends `base.html` and takes
    `values`, among them the page's `title`. The styles come after those of all pages; the scripts find `data` in the
    element `#data`.
    """
    page = render_page(template, styles=styles, scripts=scripts, data=data, **values)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render_page(
    template: str,
    *,
    styles: tuple[str, ...] = (),
    scripts: tuple[str, ...] = (),
    data: Any = None,
    **values: Any,
) -> str:
    """The page as text; see `write_page`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("softpatch.review", "pages"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["text"] = visible_text
    code = [_file(name) for name in scripts]
    digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in code]
    return environment.get_template(template).render(
        **values,
        version=__version__,
        date=datetime.now(UTC).date().isoformat(),
        policy=f"{_POLICY}; script-src {_sources(digests)}",
        style=Markup("".join(_file(name) for name in ("style.css", *styles))),
        scripts=[Markup(each) for each in code],
        data=Markup(data_in_page(data)),
    )


def check_can_replace_page(path: Path) -> None:
    """Raise `InputError` where a page cannot be written, or a file lies that `write_page` did not write."""
    check_can_write(path)
    if not path.exists():
        return
    with path.open("rb") as file:
        beginning = file.read(1000)
    if not beginning.startswith(_BEGINNING) or _GENERATOR not in beginning:
        raise InputError(f"{path} exists and is no page that softpatch wrote; choose another folder, or move it away")


def data_in_page(data: Any) -> str:
    """JSON that may stand in an HTML element: no character of it can end the element or begin another.

    >>> data_in_page({"path": "</script>"})
    '{"path": "\\\\u003c/script\\\\u003e"}'
    """
    text = json.dumps(data, allow_nan=False)
    return "".join(_IN_JSON.get(character, character) for character in text)


def visible_text(text: str) -> str:
    """Text with every character that would not be seen, or would turn the direction of writing, spelt out.

    >>> visible_text("a\\u202eb\\n.png")
    'a\\\\u202eb\\\\n.png'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _sources(digests: list[str]) -> str:
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"


def _file(name: str) -> str:
    return files("softpatch.review").joinpath("pages", name).read_text(encoding="utf-8")
