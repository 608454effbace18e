"""For the browser tests: a Chromium, and a page in it."""

import shutil

import pytest

from tests.notebooks.browser import FLAGS, SIZE, missing


@pytest.fixture(scope="module")
def chromium():
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        missing("no Chromium is installed (chromium, chromium-browser or google-chrome)")
    return found


@pytest.fixture
def page(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(30_000)
        yield page
        browser.close()
