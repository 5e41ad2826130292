"""A headless Chromium for tests that look at a page, and everything it said and asked for."""

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
    """Return what the page's console has that is worse than a remark; policy violations are among it."""
    return [entry for entry in driver.get_log("browser") if entry["level"] in {"WARNING", "SEVERE"}]


def requested(driver: Chrome) -> list[str]:
    """Return the addresses that were asked for since the last call."""
    found = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [one["params"]["request"]["url"] for one in found if one["method"] == "Network.requestWillBeSent"]
