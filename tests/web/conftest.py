"""A headless Chromium with the widget on a plain page; its files come straight from the tree, nothing listens on a port."""

from __future__ import annotations

import mimetypes
import os
import shutil
from pathlib import Path

import pytest

from tests.web.server_words import answer

ROOT = Path(__file__).parents[2]
ORIGIN = "http://widget.test"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# ComfyUI serves a pack's web folder below /extensions/<pack> and its own modules below /scripts.
FOLDERS = {"/extensions/grounded-dreamer/": ROOT / "web", "/tests/": Path(__file__).parent}
HOST = "export {{ {0} }} from '/tests/host.mjs';"
MODULES = {"app": "app", "api": "api", "utils": "applyTextReplacements"}


def chromium() -> str | None:
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="the widget's tests need the Python package playwright")
    executable = chromium()
    if not executable:
        pytest.skip("the widget's tests need Chromium: apt-get install chromium, or name one in CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, headless=True, args=FLAGS)
        yield browser
        browser.close()


def serve(route) -> None:
    path = route.request.url.removeprefix(ORIGIN).partition("?")[0]
    if path.startswith("/scripts/"):
        name = MODULES[path.removeprefix("/scripts/").removesuffix(".js")]
        return route.fulfill(body=HOST.format(name), content_type="text/javascript")
    for prefix, folder in FOLDERS.items():
        file = folder / path.removeprefix(prefix)
        if path.startswith(prefix) and file.is_file():
            kind = "text/javascript" if file.suffix == ".mjs" else mimetypes.guess_type(file.name)[0]
            return route.fulfill(body=file.read_bytes(), content_type=kind)
    return route.fulfill(status=404, body="")


class Watched:
    """A page that every test opens anew; in one process, since starting one takes longer than most tests."""

    def __init__(self, browser, base):
        self.errors: list[str] = []
        self.page = browser.new_context(viewport={"width": 520, "height": 520}).new_page()
        self.page.set_default_timeout(180_000)  # ends a test that hangs; no slow machine comes near it
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.route("**/*", serve)
        self.page.expose_function("wordsOnTheServer", lambda body: answer(base, body))

    def open(self):
        self.page.emulate_media(reduced_motion="no-preference")
        self.page.mouse.move(0, 0)
        self.page.goto(f"{ORIGIN}/tests/page.html")
        self.page.wait_for_function("window.ready")
        return self.page


@pytest.fixture(scope="session")
def watched(browser, tmp_path_factory):
    return Watched(browser, tmp_path_factory.mktemp("comfy"))


@pytest.fixture
def page(watched):
    """The page with no node on it yet; any error on it fails the test."""
    watched.errors.clear()
    yield watched.open()
    assert not watched.errors


@pytest.fixture(scope="module")
def modules(watched):
    """A page whose modules are called and whose document is left alone."""
    return watched.open()
