"""Pages in a real browser: headless Chromium, driven by Playwright; the tests skip where either is absent."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from browser import chromium, running_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
    if chromium() is None:
        pytest.skip("there is no Chromium or Chrome; $SOFTPATCH_CHROMIUM may name one")
    with running_browser() as browser:
        yield browser


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Callable[..., "Page"]]:
    """Open a file in a window of its own; what it asks the network for, and what it complains of, fails the test."""
    contexts, complaints = [], []

    def watch(page: "Page") -> None:
        page.on("request", lambda it: it.url.startswith(("file:", "data:", "blob:")) or complaints.append(it.url))
        page.on("console", lambda it: it.type in ("error", "warning") and complaints.append(it.text))
        page.on("pageerror", lambda it: complaints.append(str(it)))

    def opened(path: Path, *, script: str = "", **options: object) -> "Page":
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        context.set_default_timeout(10_000)
        context.add_init_script(script)  # runs before the page's own
        context.on("page", watch)
        page = context.new_page()
        page.goto(path.absolute().as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
