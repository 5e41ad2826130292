"""A headless Chromium for tests of a page, with the page's console messages and its requests."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

_OPTIONS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,1600"
)


@contextmanager
def browser(profile: Path, *more: str) -> Iterator[Chrome]:
    """Run a browser with an empty profile."""
    options = ChromeOptions()
    for option in [*_OPTIONS.split(), f"--user-data-dir={profile}", *more]:
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def errors(driver: Chrome) -> list[Any]:
    """Return the warnings and errors of the page's console; policy violations are among them."""
    return [entry for entry in driver.get_log("browser") if entry["level"] in {"WARNING", "SEVERE"}]


def requested(driver: Chrome) -> list[str]:
    """Return the addresses that were requested since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
