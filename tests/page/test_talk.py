"""The chat page: its key, conversations, and interruptions."""

from collections.abc import Callable
from datetime import timedelta

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from chat_service.repository.api_keys import ApiKeys
from tests.browser import requested
from tests.page.window import Tenant, Window, complaints


class TestKey:
    def test_it_is_taken_from_the_fragment_and_out_of_the_address(self, window: Window, tenant: Tenant) -> None:
        """Requests have it only in a header, and it outlasts a reload."""
        chat_id = tenant.chat("A chat")
        window.open(f"#key={tenant.access.key}")
        link = window.wait_for("#chats a", "A chat")
        assert window.driver.current_url == f"{window.origin}/"
        link.click()
        window.is_live()
        assert window.driver.current_url == f"{window.origin}/#chat={chat_id}"
        window.driver.refresh()
        window.is_live()
        assert all(tenant.access.key not in url for url in requested(window.driver))
        assert complaints(window) == []

    def test_without_a_key_it_asks_for_one(self, new_window: Callable[..., Window], tenant: Tenant) -> None:
        """For a wrong key it shows the service's message, with the id of the request."""
        tenant.chat("A chat")
        window = new_window()
        window.open()
        window.wait_for("#key").send_keys("wrong", Keys.ENTER)
        assert "(Request " in window.wait_for("#key-error", "This API key is wrong").text
        window.shot("key")
        window.find("#key").send_keys(tenant.access.key, Keys.ENTER)
        window.wait_for("#chats a", "A chat")
        window.click("#leave")
        window.wait_for("#key")
        window.driver.refresh()
        window.wait_for("#key")
        assert complaints(window, 401) == []

    def test_after_a_revocation_it_asks_for_a_key_again(self, window: Window, tenant: Tenant, database) -> None:
        tenant.chat("A chat")
        window.open(f"#key={tenant.access.key}")
        window.click("#chats a")
        window.is_live()
        # Else the connection's ticket may be refused instead.
        window.driver.execute_async_script("setTimeout(arguments[0], 2500)")
        ApiKeys(database).revoke(tenant.access.tenant_id, tenant.access.key_id)
        window.wait_for("#key-error", "This API key was revoked")


class TestTalk:
    def test_two_windows_and_a_program(self, window: Window, new_window: Callable[..., Window], tenant: Tenant) -> None:
        """Each window shows each message once and in order, also text that looks like HTML; the list follows."""
        chat_id = tenant.chat("Parcels", "Where is my parcel?")
        other = new_window()
        for each in (window, other):
            each.open(f"#key={tenant.access.key}")
            each.click("#chats a", "Parcels")
            each.is_live()
        window.say("hello from <b>one</b> 🎉")
        other.wait_for("#messages li", "hello from <b>one</b> 🎉")
        other.say("hello from two")
        tenant.post(chat_id, "hello from a program")
        expected = ["Where is my parcel?", "hello from <b>one</b> 🎉", "hello from two", "hello from a program"]
        for each in (window, other):
            each.wait(lambda each=each: sorted(each.texts("#messages .content")) == sorted(expected))
            assert each.texts("#messages .content") == tenant.contents(chat_id)
            assert each.texts("#pending li") == []
            each.wait_for("#chats a", "4 messages")
            each.wait_for("#present-count", "2 connected")
            each.wait(lambda each=each: all(text.startswith("guest-") for text in each.texts("#present-list li")))
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

    def test_the_expiry_of_a_chat_is_shown_and_comes(self, window: Window, tenant: Tenant, database) -> None:
        """The list shows when the chat expires, and then the page says that the chat is gone."""
        chat_id = tenant.chat("Secret", "one")
        tenant.send("PATCH", f"/{chat_id}", json={"expires_at": "9999-12-31T23:59:59Z"})
        window.open(f"#chat={chat_id}")
        window.is_live()
        window.wait_for("#chats a", "expires 31 Dec 9999")
        soon = (database.now() + timedelta(seconds=2)).isoformat()
        assert tenant.send("PATCH", f"/{chat_id}", json={"expires_at": soon}).status_code == 200
        window.wait_for("#gone-title", "This chat has expired")
        window.wait(lambda: window.texts("#chats li") == [])

    def test_older_messages_come_when_scrolled_to(self, window: Window, tenant: Tenant) -> None:
        """The messages in view stay in view."""
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
        window.click("#newest")
        window.wait_for("#messages li:last-child", "new")

    def test_a_message_that_cannot_be_posted_can_be_discarded(self, window: Window, tenant: Tenant, database) -> None:
        """The page says why: the message is too long, or the key lost the scope to write."""
        chat_id = tenant.chat("Short")
        window.open(f"#chat={chat_id}")
        window.is_live()
        fill = "const text = document.getElementById('text'); text.value = '🎉'.repeat(16000);"
        window.driver.execute_script(f"{fill} document.getElementById('composer').requestSubmit()")
        window.is_live()
        window.driver.execute_script(
            f"{fill} text.value += text.value; document.getElementById('composer').requestSubmit()"
        )
        window.wait_for("#pending .about", "too long")
        window.click("#pending button")
        assert window.texts("#pending li") == []

        key, _ = ApiKeys(database).create(tenant.access.tenant_id, "reader", ["read"])
        window.open(f"#key={key}")
        window.click("#chats a")
        window.is_live()
        window.driver.execute_script("document.getElementById('app').dataset.may = 'read write'")
        window.say("hello")
        window.wait_for("#pending .about", "Not sent")
        tenant.post(chat_id, "heard")
        window.wait_for("#messages li", "heard")


class TestInterruptions:
    def test_after_an_outage_all_messages_arrive_in_order(self, window: Window, tenant: Tenant, database) -> None:
        """During the outage own messages wait; afterwards each message is shown once, those of others first."""
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
        """It is sent again with the same client_id."""
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
