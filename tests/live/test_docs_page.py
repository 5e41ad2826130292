"""The page /docs in a real browser."""

import os
import shutil
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser import browser, errors, requested


@pytest.mark.skipif(shutil.which("chromedriver") is None, reason="there is no chromedriver on this machine")
def test_it_shows_every_operation_and_asks_nobody_else(gunicorn, tmp_path: Path) -> None:
    """There is no console error, no policy violation and no request to another host; an operation can be opened."""
    origin = f"http://127.0.0.1:{gunicorn.port}"
    with browser(tmp_path) as driver:
        driver.get(f"{origin}/docs")
        WebDriverWait(driver, 30).until(lambda page: len(page.find_elements(By.CLASS_NAME, "opblock")) >= 20)
        driver.find_element(By.CSS_SELECTOR, "#operations-deletions-delete_chat button").click()
        WebDriverWait(driver, 30).until(lambda page: "active_connections" in page.page_source)
        if "SCREENSHOTS" in os.environ:
            driver.save_screenshot(f"{os.environ['SCREENSHOTS']}/docs.png")
        assert errors(driver) == []
        addresses = requested(driver)
    assert f"{origin}/openapi.json" in addresses
    outside = [address for address in addresses if not address.startswith((origin, "data:", "blob:", "chrome"))]
    assert outside == []
