"""What a person does in a browser window on the chat page, and what the same tenant does elsewhere."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import requests
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.browser import errors
from tests.client import CHATS, TenantAccess
from tests.forked import ForkedGunicorn

WAIT_SECONDS = 20
PHONE = (390, 844)
DESKTOP = (1280, 800)

VISIBLE = """
return [...document.querySelectorAll(arguments[0])].find((element) =>
    element.checkVisibility({ visibilityProperty: true }) && element.innerText.includes(arguments[1])) ?? null
"""
"""One call: chromedriver's own look at an element takes it several, each of them as long."""


class Window:
    """A browser window on the page, and what a person does in it."""

    def __init__(self, driver: Chrome, origin: str) -> None:
        self.driver = driver
        self.origin = origin

    def open(self, fragment: str = "") -> None:
        self.driver.get(f"{self.origin}/{fragment}")
        # The driver may return before the page has read its address, which the next `open` would then replace.
        self.wait(lambda: self.driver.find_elements(By.CSS_SELECTOR, "#app:not([hidden]), #entrance:not([hidden])"))

    def find(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def texts(self, css: str) -> list[str]:
        return self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map((found) => found.textContent)", css
        )

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Wait until the condition holds, and return its value; elements that the page replaces are looked up again."""
        replaced = [StaleElementReferenceException]
        wait = WebDriverWait(self.driver, WAIT_SECONDS, poll_frequency=0.1, ignored_exceptions=replaced)
        return wait.until(lambda _: condition())

    def wait_for(self, css: str, text: str = "") -> WebElement:
        """Wait until an element with this text is visible, and return it."""
        return self.wait(lambda: self._visible(css, text))

    def click(self, css: str, text: str = "") -> None:
        """Click on an element once one with this text is visible."""

        def clicked() -> bool:
            element = self._visible(css, text)
            if element is None:
                return False
            element.click()
            return True

        self.wait(clicked)

    def _visible(self, css: str, text: str) -> WebElement | None:
        return self.driver.execute_script(VISIBLE, css, text)

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def tab_to(self, is_target: Callable[[WebElement], bool]) -> None:
        """Press Tab until the focus is on the target."""
        for _ in range(60):
            if is_target(self.driver.switch_to.active_element):
                return
            self.press(Keys.TAB)
        pytest.fail("It cannot be reached with Tab.")

    def tab_to_button(self, text: str) -> None:
        self.tab_to(lambda element: element.text.startswith(text))

    def say(self, text: str) -> None:
        self.find("#text").click()
        # As an input method does it: chromedriver has no keys for characters beyond U+FFFF.
        self.driver.execute_cdp_cmd("Input.insertText", {"text": text})
        self.press(Keys.ENTER)

    def is_live(self) -> None:
        self.wait_for("#state", "Live")

    def shot(self, name: str) -> None:
        if "SCREENSHOTS" in os.environ:
            self.driver.save_screenshot(f"{os.environ['SCREENSHOTS']}/{name}.png")


class Tenant:
    """A tenant that uses the service from a program, beside the browser."""

    def __init__(self, service: ForkedGunicorn, access: TenantAccess) -> None:
        self.service = service
        self.access = access

    def send(self, method: str, path: str = "", **options: Any) -> requests.Response:
        url = f"http://127.0.0.1:{self.service.port}{CHATS}{path}"
        return requests.request(method, url, headers=self.access.headers, timeout=30, **options)

    def chat(self, title: str, *contents: str) -> str:
        chat_id: str = self.send("POST", json={"title": title}).json()["id"]
        if contents:
            self.post(chat_id, *contents)
        return chat_id

    def post(self, chat_id: str, *contents: str, sender: str = "ada") -> None:
        batch = {"messages": [{"content": content, "sender_id": sender} for content in contents]}
        assert self.send("POST", f"/{chat_id}/messages", json=batch).status_code == 201

    def contents(self, chat_id: str) -> list[str]:
        return [message["content"] for message in self.send("GET", f"/{chat_id}/messages").json()["items"]]


def complaints(window: Window, *expected: int) -> list[str]:
    """Return the console's messages without those of answers with an expected status, which Chromium reports too."""
    messages = [entry["message"] for entry in errors(window.driver)]
    statuses = [f"responded with a status of {status} " for status in expected]
    return [text for text in messages if not any(status in text for status in statuses)]
