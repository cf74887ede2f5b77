"""Pages in a real browser: headless Chromium, driven by Playwright; the tests skip where either is absent."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str | None:
    """Where the browser is: $SOFTPATCH_CHROMIUM, or what the system calls chromium or Chrome."""
    names = ("chromium", "google-chrome", "chrome")
    return os.environ.get("SOFTPATCH_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright's Python package is not installed")
    executable = chromium()
    if executable is None:
        pytest.skip("there is no Chromium or Chrome; $SOFTPATCH_CHROMIUM may name one")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(OPTIONS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Callable[..., "Page"]]:
    """Open a file in a window of its own; what it asks the network for, and what it complains of, fails the test."""
    contexts, complaints = [], []

    def watch(page: "Page") -> None:
        page.on("request", lambda it: it.url.startswith(("file:", "data:", "blob:")) or complaints.append(it.url))
        page.on("console", lambda it: it.type in ("error", "warning") and complaints.append(it.text))
        page.on("pageerror", lambda it: complaints.append(str(it)))

    def opened(path: Path, **options: object) -> "Page":
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        context.set_default_timeout(10_000)
        context.on("page", watch)
        page = context.new_page()
        page.goto(path.absolute().as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
