"""A headless Chromium for pages, driven by Playwright: where it is, and how it is started."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_OPTIONS = (
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


@contextmanager
def running_browser(*more_options: str) -> Iterator["Browser"]:
    """Start the browser, and end it with the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=[*_OPTIONS, *more_options])
        yield browser
        browser.close()


def wait_until(page: "Page", condition: str, *, seconds: float = 30) -> Any:
    """Wait until a JavaScript expression is true on a page, and give its value.

    Playwright's own `wait_for_function` asks again by `eval` in the page, which the pages' security policy forbids.
    """
    end = time.monotonic() + seconds
    while not (value := page.evaluate(condition)):
        if time.monotonic() > end:
            raise TimeoutError(f"not true after {seconds:g} s: {condition}")
        page.wait_for_timeout(20)
    return value
