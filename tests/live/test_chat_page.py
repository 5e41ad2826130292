"""The chat page at `/` in a real browser, as a newcomer, a phone and somebody without a mouse use it."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from chat_service.embedded.gunicorn import EmbeddedGunicorn
from chat_service.embedded.process import free_port
from chat_service.repository.tenants import Tenants
from tests.browser import browser, errors, requested
from tests.client import CHATS, TenantAccess
from tests.conftest import MAX_BODY_BYTES
from tests.realtime.sockets import Peer

pytestmark = pytest.mark.skipif(shutil.which("chromedriver") is None, reason="there is no chromedriver on this machine")

WAIT_SECONDS = 20
PHONE = (390, 844)
DESKTOP = (1280, 800)


@pytest.fixture(scope="module")
def service(mongod, real_database) -> Iterator[EmbeddedGunicorn]:
    """The service with its page, two workers."""
    del real_database  # its collections are in place
    limits = {"MAX_BODY_BYTES": str(MAX_BODY_BYTES), "DELETE_INLINE_LIMIT": "50"}
    with EmbeddedGunicorn(mongod.uri, free_port(), CHAT_PAGE="on", **limits) as running:
        yield running


class Window:
    """A browser window on the page, and what a person does in it."""

    def __init__(self, driver: Chrome, origin: str) -> None:
        self.driver = driver
        self.origin = origin

    def open(self, fragment: str = "") -> None:
        self.driver.get(f"{self.origin}/{fragment}")

    def find(self, css: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def texts(self, css: str) -> list[str]:
        return self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map((found) => found.textContent)", css
        )

    def wait(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, WAIT_SECONDS, poll_frequency=0.05).until(lambda _: condition())

    def wait_for(self, css: str, text: str = "") -> WebElement:
        """Wait until an element is to be seen, with this in its text."""
        return self.wait(
            lambda: next(
                (one for one in self.driver.find_elements(By.CSS_SELECTOR, css) if one.is_displayed() and text in one.text),
                None,
            )
        )

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def tab_to(self, wanted: Callable[[WebElement], bool]) -> None:
        """Press Tab until the focus is on what is wanted."""
        for _ in range(60):
            if wanted(self.driver.switch_to.active_element):
                return
            self.press(Keys.TAB)
        pytest.fail("It cannot be reached with Tab.")

    def tab_to_button(self, text: str) -> None:
        self.tab_to(lambda element: element.text.startswith(text))

    def say(self, text: str) -> None:
        self.find("#text").send_keys(text, Keys.ENTER)

    def is_live(self) -> None:
        self.wait_for("#state", "Live")

    def shot(self, name: str) -> None:
        if "SCREENSHOTS" in os.environ:
            self.driver.save_screenshot(f"{os.environ['SCREENSHOTS']}/{name}.png")


class Tenant:
    """Somebody with a key, a browser, and other programs."""

    def __init__(self, service: EmbeddedGunicorn, access: TenantAccess) -> None:
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


@pytest.fixture
def tenant(service: EmbeddedGunicorn, live) -> Tenant:
    return Tenant(service, live[1]())


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Chrome]]:
    """Browsers by number, with an empty tab each time; starting one takes longer than most tests."""
    started: list[Chrome] = []
    with ExitStack() as closing:

        def get(number: int) -> Chrome:
            if number == len(started):
                started.append(closing.enter_context(browser(tmp_path_factory.mktemp("profile"))))
            driver = started[number]
            used = driver.current_window_handle
            driver.switch_to.new_window("tab")
            fresh = driver.current_window_handle
            driver.switch_to.window(used)
            driver.close()
            driver.switch_to.window(fresh)
            for kind in ("browser", "performance"):
                driver.get_log(kind)
            return driver

        yield get


@pytest.fixture
def new_window(service: EmbeddedGunicorn, drivers: Callable[[int], Chrome]) -> Iterator[Callable[..., Window]]:
    """Open browser windows; at the end none has asked another host for anything."""
    windows: list[Window] = []

    def make(*, size: tuple[int, int] = DESKTOP) -> Window:
        driver = drivers(len(windows))
        # A window cannot be as narrow as a phone, what it shows can.
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        windows.append(Window(driver, f"http://127.0.0.1:{service.port}"))
        return windows[-1]

    yield make
    for window in windows:
        outside = [url for url in requested(window.driver) if not url.startswith((window.origin, "blob:", "chrome"))]
        assert [url for url in outside if not url.startswith("data:")] == []


@pytest.fixture
def window(new_window: Callable[..., Window], tenant: Tenant) -> Window:
    """A window that was opened with the line that `make run` prints."""
    found = new_window()
    found.open(f"#key={tenant.access.key}")
    return found


def complaints(window: Window, *expected: int) -> list[str]:
    """Return what the console says, but for answers with a status that was expected: Chromium reports each of them."""
    told = [entry["message"] for entry in errors(window.driver)]
    return [text for text in told if not any(f"responded with a status of {status} " in text for status in expected)]


class TestKey:
    def test_it_is_taken_from_the_fragment_and_out_of_the_address(self, window: Window, tenant: Tenant) -> None:
        """It is in no request but as a header, and a reload still has it."""
        chat_id = tenant.chat("A chat")
        window.open(f"#key={tenant.access.key}")
        window.wait_for("#chats a", "A chat").click()
        window.is_live()
        assert window.driver.current_url == f"{window.origin}/#chat={chat_id}"
        window.driver.refresh()
        window.is_live()
        assert all(tenant.access.key not in url for url in requested(window.driver))
        assert complaints(window) == []

    def test_without_one_it_asks(self, new_window: Callable[..., Window], tenant: Tenant) -> None:
        """A wrong one is told in the service's words, with the id of the request."""
        tenant.chat("A chat")
        window = new_window()
        window.open()
        window.wait_for("#key").send_keys("wrong", Keys.ENTER)
        assert "(Request " in window.wait_for("#key-error", "API key").text
        window.shot("key")
        window.find("#key").send_keys(tenant.access.key, Keys.ENTER)
        window.wait_for("#chats a", "A chat")
        window.find("#leave").click()
        window.wait_for("#key")
        window.driver.refresh()
        window.wait_for("#key")
        assert complaints(window, 401) == []

    def test_a_revoked_one_is_asked_for_again(self, window: Window, tenant: Tenant, database) -> None:
        tenant.chat("A chat")
        window.open(f"#key={tenant.access.key}")
        window.wait_for("#chats a").click()
        window.is_live()
        window.driver.execute_async_script("setTimeout(arguments[0], 2500)")  # else it may be the ticket that was late
        Tenants(database).revoke_key(tenant.access.tenant_id, tenant.access.key_id)
        window.wait_for("#key-error", "revoked")


class TestTalk:
    def test_two_windows_and_a_program(self, window: Window, new_window: Callable[..., Window], tenant: Tenant) -> None:
        """Everybody reads everything once and in order, also what looks like HTML; the list follows."""
        chat_id = tenant.chat("Parcels", "Where is my parcel?")
        other = new_window()
        for one in (window, other):
            one.open(f"#key={tenant.access.key}")
            one.wait_for("#chats a", "Parcels").click()
            one.is_live()
        window.say("hello from <b>one</b> 🎉")
        other.wait_for("#messages li", "hello from <b>one</b> 🎉")
        other.say("hello from two")
        tenant.post(chat_id, "hello from a program")
        expected = ["Where is my parcel?", "hello from <b>one</b> 🎉", "hello from two", "hello from a program"]
        for one in (window, other):
            one.wait(lambda one=one: sorted(one.texts("#messages .content")) == sorted(expected))
            assert one.texts("#messages .content") == tenant.contents(chat_id)
            assert one.texts("#pending li") == []
            one.wait_for("#chats a", "4 messages")
            one.wait_for("#present-count", "2 connected")
        assert len(window.driver.find_elements(By.CSS_SELECTOR, ".message.own")) == 1
        window.shot("talk")
        assert complaints(window) + complaints(other) == []

    def test_changes_and_removals_are_seen(self, window: Window, tenant: Tenant) -> None:
        chat_id = tenant.chat("Old title", "one", "two", "three")
        window.open(f"#chat={chat_id}")
        window.is_live()
        tenant.send("PATCH", f"/{chat_id}", json={"title": "New title"})
        tenant.send("PATCH", f"/{chat_id}/messages/2", json={"content": "zwei"})
        tenant.send("DELETE", f"/{chat_id}/messages/1")
        window.wait(lambda: window.texts("#messages .content") == ["zwei", "three"])
        window.wait_for("#title", "New title")
        window.wait_for("#messages .about", "edited")
        tenant.send("DELETE", f"/{chat_id}/messages")
        window.wait_for("#no-messages")

    def test_older_messages_come_when_scrolled_to(self, window: Window, tenant: Tenant) -> None:
        """And what is in view stays there."""
        chat_id = tenant.chat("Long", *[f"message {number}" for number in range(1, 121)])
        window.open(f"#chat={chat_id}")
        window.is_live()
        assert len(window.texts("#messages li")) == 50
        window.driver.execute_script("document.getElementById('scroller').scrollTop = 0")
        window.wait(lambda: len(window.texts("#messages li")) == 100)
        assert window.driver.execute_script("return document.getElementById('scroller').scrollTop") > 500
        window.driver.execute_script("document.getElementById('scroller').scrollTop = 0")
        window.wait(lambda: window.texts("#messages .content")[0] == "message 1")
        assert window.texts("#messages .content") == [f"message {number}" for number in range(1, 121)]
        tenant.post(chat_id, "new")
        window.wait_for("#newest").click()
        window.wait_for("#messages li:last-child", "new")

    def test_what_cannot_be_posted_is_said_and_can_be_discarded(self, window: Window, tenant: Tenant, database) -> None:
        """Too long for a connection, and a key that may only read."""
        chat_id = tenant.chat("Short")
        window.open(f"#chat={chat_id}")
        window.is_live()
        fill = "const text = document.getElementById('text'); text.value = '🎉'.repeat(16000);"
        window.driver.execute_script(f"{fill} document.getElementById('composer').requestSubmit()")
        window.is_live()
        window.driver.execute_script(f"{fill} text.value += text.value; document.getElementById('composer').requestSubmit()")
        window.wait_for("#pending .about", "longer than")
        window.find("#pending button").click()
        assert window.texts("#pending li") == []

        key, _ = Tenants(database).create_key(tenant.access.tenant_id, "reader", ["read"])
        window.open(f"#key={key}")
        window.wait_for("#chats a").click()
        window.is_live()
        window.say("hello")
        window.wait_for("#pending .about", "Not sent")
        tenant.post(chat_id, "heard")
        window.wait_for("#messages li", "heard")


class TestInterruptions:
    def test_what_was_missed_and_what_was_written_meanwhile(self, window: Window, tenant: Tenant, database) -> None:
        """The network goes away: own messages wait, those of others come afterwards, each once and in order."""
        chat_id = tenant.chat("Parcels", "before")
        window.open(f"#chat={chat_id}")
        window.is_live()
        online = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        window.driver.execute_cdp_cmd("Network.enable", {})
        window.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {**online, "offline": True})
        database.presence.delete_many({})  # the worker finds the lease gone, and closes with 1012
        window.wait_for("#state", "Trying again")
        window.say("mine")
        window.wait_for("#pending .about", "Waiting for the connection")
        window.shot("waiting")
        tenant.post(chat_id, "missed one", "missed two")
        window.driver.execute_cdp_cmd("Network.emulateNetworkConditions", online)
        window.is_live()
        expected = ["before", "missed one", "missed two", "mine"]
        window.wait(lambda: window.texts("#messages .content") == expected)
        window.wait(lambda: window.texts("#pending li") == [])
        assert tenant.contents(chat_id) == expected

    def test_a_message_whose_answer_was_lost_is_posted_once(self, window: Window, tenant: Tenant) -> None:
        """It is sent again under its name."""
        chat_id = tenant.chat("Parcels", "before")
        window.open(f"#chat={chat_id}")
        window.is_live()
        window.driver.execute_script("""
          const send = WebSocket.prototype.send;
          WebSocket.prototype.send = function (text) {
            WebSocket.prototype.send = send;
            this.send(text);
            this.onmessage = null;
            this.close();
          };
        """)
        window.say("mine")
        window.wait(lambda: window.texts("#pending li") == [] and len(window.texts("#messages li")) == 2)
        window.is_live()
        assert window.texts("#messages .content") == tenant.contents(chat_id) == ["before", "mine"]


class TestDelete:
    def ask(self, window: Window, chat_id: str) -> None:
        window.open(f"#chat={chat_id}")
        window.is_live()
        window.find("#delete").click()
        window.wait_for("#deletion-buttons .danger", "Delete")

    def confirm(self, window: Window) -> None:
        window.find("#deletion-buttons .danger").click()

    def receipt(self, tenant: Tenant, chat_id: str) -> Any:
        url = f"http://127.0.0.1:{tenant.service.port}/api/v1/deletions/{chat_id}"
        return requests.get(url, headers=tenant.access.headers, timeout=30).json()

    def test_it_names_what_will_be_lost_and_shows_the_receipt(self, window: Window, tenant: Tenant) -> None:
        """This page's own connection does not stand in the way."""
        tenant.chat("Another chat")
        chat_id = tenant.chat("Where is my parcel?", "one", "two", "three")
        self.ask(window, chat_id)
        window.shot("delete-dialog")
        asked = window.wait_for("#deletion").text
        assert "Where is my parcel?" in asked
        assert "3 messages (" in asked
        assert "cannot be undone" in asked
        assert window.driver.switch_to.active_element.text == "Cancel"
        self.confirm(window)
        window.wait_for("#deletion-title", "Deleted")
        window.wait_for("#deletion .receipt", "all removed")
        window.shot("deleted-dialog")
        window.press(Keys.ENTER)
        window.wait_for("#gone-title", "This chat is deleted")
        assert "3 messages, all removed" in window.wait_for("#gone .receipt", chat_id).text
        window.shot("deleted")
        assert window.texts("#chats a b") == ["Another chat"]
        assert self.receipt(tenant, chat_id)["message_count"] == 3
        assert complaints(window, 409) == []

    def test_no_means_no(self, window: Window, tenant: Tenant) -> None:
        """By Escape too; the conversation goes on."""
        chat_id = tenant.chat("Kept", "one")
        self.ask(window, chat_id)
        window.press(Keys.ESCAPE)
        window.wait(lambda: not window.find("#deletion").is_displayed())
        window.say("still here")
        window.wait_for("#messages li", "still here")
        assert tenant.contents(chat_id) == ["one", "still here"]

    def test_while_others_are_connected_409_then_wait(self, window: Window, tenant: Tenant) -> None:
        """It names how many, and deletes when they have left."""
        chat_id = tenant.chat("Busy", "one")
        with Peer(tenant.service, chat_id, tenant.access), Peer(tenant.service, chat_id, tenant.access):
            self.ask(window, chat_id)
            self.confirm(window)
            window.wait_for("#deletion", "2 other connections to this chat are live, so nothing was deleted")
            window.shot("delete-409")
            assert tenant.contents(chat_id) == ["one"]
        window.wait(lambda: tenant.send("GET", f"/{chat_id}/connections").json()["items"] == [])
        window.find("#deletion-buttons .primary").click()
        window.wait_for("#deletion-title", "Deleted")
        assert complaints(window, 409) == []

    def test_while_others_are_connected_cancel_reconnects(self, window: Window, tenant: Tenant) -> None:
        chat_id = tenant.chat("Busy", "one")
        with Peer(tenant.service, chat_id, tenant.access) as peer:
            self.ask(window, chat_id)
            self.confirm(window)
            window.wait_for("#deletion", "1 other connection to this chat is live")
            window.press(Keys.ESCAPE)
            window.is_live()
            window.say("back")
            assert peer.contents(1) == ["back"]

    def test_while_others_are_connected_evict(self, window: Window, new_window, tenant: Tenant) -> None:
        """They are told, in the other window with the receipt."""
        chat_id = tenant.chat("Busy", "one")
        other = new_window()
        other.open(f"#key={tenant.access.key}")
        other.wait_for("#chats a", "Busy").click()
        other.is_live()
        self.ask(window, chat_id)
        self.confirm(window)
        window.wait_for("#deletion", "1 other connection to this chat is live")
        self.confirm(window)
        window.wait_for("#deletion-title", "Deleted")
        other.wait_for("#gone-title", "deleted by somebody else")
        other.wait_for("#gone .receipt", "1 message, all removed")
        assert other.texts("#chats li") == []
        other.shot("deleted-by-others")
        assert complaints(window, 409) + complaints(other) == []

    def test_what_arrived_since_is_asked_about_again(self, window: Window, tenant: Tenant) -> None:
        """412: nothing goes that was not named."""
        chat_id = tenant.chat("Growing", "one")
        self.ask(window, chat_id)
        tenant.post(chat_id, "two", "three")
        self.confirm(window)
        window.wait_for("#deletion-note", "The chat has changed")
        window.wait_for("#deletion-buttons .danger", "Delete 3 messages")
        window.shot("delete-412")
        assert tenant.contents(chat_id) == ["one", "two", "three"]
        self.confirm(window)
        window.wait_for("#deletion-title", "Deleted")
        assert self.receipt(tenant, chat_id)["message_count"] == 3
        assert complaints(window, 409, 412) == []

    def test_a_lost_answer_is_asked_for_again(self, window: Window, tenant: Tenant) -> None:
        """With the same Idempotency-Key: it says that it was deleted, not that there is nothing."""
        chat_id = tenant.chat("Lost", "one")
        self.ask(window, chat_id)
        window.driver.execute_script("""
          const ask = window.fetch;
          window.fetch = async (path, options) => {
            const answer = await ask(path, options);
            if (options.method !== "DELETE" || !answer.ok) return answer;
            window.fetch = ask;
            throw new TypeError("lost");
          };
        """)
        self.confirm(window)
        window.wait_for("#deletion", "did not answer")
        assert tenant.send("GET", f"/{chat_id}").status_code == 404
        window.find("#deletion-buttons .primary").click()
        window.wait_for("#deletion-title", "Deleted")

    def test_a_large_chat_shows_how_far_the_removal_is(self, window: Window, tenant: Tenant) -> None:
        chat_id = tenant.chat("Large", *map(str, range(60)))
        self.ask(window, chat_id)
        self.confirm(window)
        assert "60 messages to go; none can be read" in window.wait_for("#deletion .receipt").text

    def test_from_the_list_while_another_is_open(self, window: Window, tenant: Tenant) -> None:
        """The conversation stays as it is."""
        other = tenant.chat("Other", "one")
        chat_id = tenant.chat("Open", "one")
        window.open(f"#chat={chat_id}")
        window.is_live()
        window.find("#chats li:nth-child(2) button").send_keys(Keys.ENTER)
        window.wait_for("#deletion-buttons .danger", "Delete 1 message").click()
        window.wait_for("#deletion-title", "Deleted")
        window.press(Keys.ENTER)
        window.say("still here")
        window.wait_for("#messages li", "still here")
        assert tenant.send("GET", f"/{other}").status_code == 404

    def test_the_export_is_offered_first(self, window: Window, tenant: Tenant, tmp_path: Path) -> None:
        chat_id = tenant.chat("Kept", "one", "two")
        window.driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
        self.ask(window, chat_id)
        window.wait_for("#deletion-export button[data-format=ndjson]").click()
        file = tmp_path / f"chat-{chat_id}.ndjson"
        window.wait(file.exists)
        assert file.read_bytes() == tenant.send("GET", f"/{chat_id}/export?format=ndjson").content


class TestReach:
    def test_without_a_mouse(self, window: Window, tenant: Tenant) -> None:
        """Create, open, write two lines, and delete by Tab and Enter alone; the focus is never lost."""
        window.wait_for("#no-chats")
        window.tab_to(lambda element: element.get_attribute("id") == "new-title")
        window.press("By keyboard", Keys.ENTER)
        window.is_live()
        assert window.driver.switch_to.active_element.get_attribute("id") == "text"
        window.press("one", Keys.SHIFT, Keys.ENTER, Keys.NULL, "two", Keys.ENTER)
        window.wait(lambda: window.texts("#messages .content") == ["one\ntwo"])
        window.driver.execute_script("document.getElementById('text').blur()")
        window.tab_to_button("Delete…")
        window.press(Keys.ENTER)
        window.wait_for("#deletion-buttons .danger", "Delete 1 message")
        window.tab_to_button("Delete 1 message")
        window.press(Keys.ENTER)
        window.wait_for("#deletion-title", "Deleted")
        window.wait(lambda: window.driver.switch_to.active_element.text == "Close")
        window.press(Keys.ENTER)
        window.wait_for("#gone-title", "This chat is deleted")
        window.tab_to_button("Back to the list")
        window.press(Keys.ENTER)
        window.wait_for("#no-chats")

    def test_on_a_phone(self, new_window: Callable[..., Window], tenant: Tenant) -> None:
        """One column, nothing beside the screen, the list by the back button, the dialog within reach."""
        chat_id = tenant.chat("Where is my parcel, and who has signed for it at the door this time?", "Where is my parcel?")
        tenant.post(chat_id, "It left the depot this morning and arrives today before 18:00.", "W" * 200, sender="bot")
        window = new_window(size=PHONE)

        def fits() -> bool:
            return window.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")

        window.open(f"#key={tenant.access.key}")
        link = window.wait_for("#chats a")
        assert fits()
        assert not window.find("#content").is_displayed()
        window.shot("phone-list")
        link.click()
        window.is_live()
        window.say("Thank you! 🎉")
        window.wait_for("#messages li", "Thank you")
        assert fits()
        assert not window.find("#side").is_displayed()
        window.shot("phone-chat")
        window.driver.back()
        window.wait_for("#chats a").click()
        window.is_live()
        with Peer(tenant.service, chat_id, tenant.access):
            window.find("#delete").click()
            window.wait_for("#deletion-buttons .danger", "Delete 4 messages")
            window.shot("phone-delete")
            window.find("#deletion-buttons .danger").click()
            window.wait_for("#deletion", "1 other connection")
            assert fits()
            window.shot("phone-409")
            window.find("#deletion-buttons .danger").click()
        window.wait_for("#deletion-title", "Deleted")
        window.shot("phone-deleted")
        assert complaints(window, 409) == []

    def test_in_the_dark(self, window: Window, tenant: Tenant) -> None:
        """By the reader's own setting."""
        chat_id = tenant.chat("Where is my parcel?", "Where is my parcel?")
        window.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        )
        window.open(f"#chat={chat_id}")
        window.is_live()
        window.shot("dark")
        ground = window.driver.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
        assert ground == "rgb(22, 25, 23)"
