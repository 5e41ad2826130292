"""Deleting a chat in the page: the confirmation, what can go wrong, and the receipt."""

from pathlib import Path
from typing import Any

import requests
from selenium.webdriver.common.keys import Keys

from chat_service.repository.database import Database
from chat_service.repository.holds import Holds
from tests.page.window import Tenant, Window, complaints
from tests.realtime.sockets import Peer


class TestDelete:
    def ask(self, window: Window, chat_id: str) -> None:
        window.open(f"#chat={chat_id}")
        window.is_live()
        window.click("#delete")
        window.wait_for("#deletion-buttons .danger", "Delete")

    def confirm(self, window: Window) -> None:
        window.click("#deletion-buttons .danger")

    def receipt(self, tenant: Tenant, chat_id: str) -> Any:
        url = f"http://127.0.0.1:{tenant.service.port}/api/v1/deletions/{chat_id}"
        return requests.get(url, headers=tenant.access.headers, timeout=30).json()

    def test_it_names_what_will_be_lost_and_shows_the_receipt(self, window: Window, tenant: Tenant) -> None:
        """The page's own connection does not block the delete."""
        tenant.chat("Another chat")
        chat_id = tenant.chat("Where is my parcel?", "one", "two", "three")
        self.ask(window, chat_id)
        window.shot("delete-dialog")
        dialog = window.wait_for("#deletion").text
        assert "Where is my parcel?" in dialog
        assert "3 messages (" in dialog
        assert "cannot be undone" in dialog
        assert window.driver.switch_to.active_element.text == "Cancel"
        self.confirm(window)
        window.wait_for("#gone-title", "Deleted")
        assert "3 messages, all removed" in window.wait_for("#gone .receipt", chat_id).text
        assert len(window.texts(".receipt")) == 1
        assert window.driver.switch_to.active_element.text == "Deleted"
        window.shot("deleted")
        assert window.texts("#chats a b") == ["Another chat"]
        assert self.receipt(tenant, chat_id)["message_count"] == 3
        assert complaints(window, 404, 409) == []  # it may just have requested the connections

    def test_a_cancelled_delete_deletes_nothing(self, window: Window, tenant: Tenant) -> None:
        """Cancelled with Escape; the conversation goes on."""
        chat_id = tenant.chat("Kept", "one")
        self.ask(window, chat_id)
        window.press(Keys.ESCAPE)
        window.wait(lambda: not window.find("#deletion").is_displayed())
        window.say("still here")
        window.wait_for("#messages li", "still here")
        assert tenant.contents(chat_id) == ["one", "still here"]

    def test_a_held_chat_cannot_be_deleted(self, window: Window, tenant: Tenant, database: Database) -> None:
        """The page says so before a delete is tried, and offers to move the chat to the trash, where it stays."""
        chat_id = tenant.chat("Evidence", "one")
        hold = Holds(database).place(tenant.access.tenant_id, "n", [chat_id], "key")
        window.open(f"#chat={chat_id}")
        window.is_live()
        window.click("#delete")
        window.wait_for("#deletion-title", "This chat cannot be deleted")
        assert window.texts("#deletion-buttons button") == ["Close", "Move to trash"]
        assert hold.id not in window.find("#deletion").text, "this key has no scope for holds"
        window.shot("held")
        window.click("#deletion-buttons .primary")
        window.wait_for("#gone-title", "trash")
        assert complaints(window, 404, 409) == []

    def test_while_others_are_connected_it_waits_for_them(self, window: Window, tenant: Tenant) -> None:
        """The page says how many are connected, and deletes once they have left."""
        chat_id = tenant.chat("Busy", "one")
        with Peer(tenant.service, chat_id, tenant.access), Peer(tenant.service, chat_id, tenant.access):
            self.ask(window, chat_id)
            self.confirm(window)
            window.wait_for("#deletion", "2 other connections to this chat are open, so nothing was deleted")
            window.shot("delete-409")
            assert tenant.contents(chat_id) == ["one"]
        window.wait(lambda: tenant.send("GET", f"/{chat_id}/connections").json()["items"] == [])
        window.click("#deletion-buttons .primary")
        window.wait_for("#gone-title", "Deleted")
        assert complaints(window, 404, 409) == []  # it may just have requested the connections

    def test_while_others_are_connected_cancel_reconnects(self, window: Window, tenant: Tenant) -> None:
        chat_id = tenant.chat("Busy", "one")
        with Peer(tenant.service, chat_id, tenant.access) as peer:
            self.ask(window, chat_id)
            self.confirm(window)
            window.wait_for("#deletion", "1 other connection to this chat is open")
            window.press(Keys.ESCAPE)
            window.is_live()
            window.say("back")
            assert peer.contents(1) == ["back"]

    def test_while_others_are_connected_evict(self, window: Window, new_window, tenant: Tenant) -> None:
        """The other window is disconnected, and shows the receipt."""
        chat_id = tenant.chat("Busy", "one")
        other = new_window()
        other.open(f"#key={tenant.access.key}")
        other.click("#chats a", "Busy")
        other.is_live()
        self.ask(window, chat_id)
        self.confirm(window)
        window.wait_for("#deletion", "1 other connection to this chat is open")
        self.confirm(window)
        window.wait_for("#gone-title", "Deleted")
        other.wait_for("#gone-title", "deleted by somebody else")
        other.wait_for("#gone .receipt", "1 message, all removed")
        assert other.texts("#chats li") == []
        other.shot("deleted-by-others")
        assert complaints(window, 404, 409) + complaints(other, 404) == []

    def test_a_chat_that_has_changed_is_confirmed_again(self, window: Window, tenant: Tenant) -> None:
        """412: no message is deleted that the dialog did not count."""
        chat_id = tenant.chat("Growing", "one")
        self.ask(window, chat_id)
        tenant.post(chat_id, "two", "three")
        self.confirm(window)
        window.wait_for("#deletion-note", "The chat has changed")
        window.wait_for("#deletion-buttons .danger", "Delete 3 messages")
        window.shot("delete-412")
        assert tenant.contents(chat_id) == ["one", "two", "three"]
        self.confirm(window)
        window.wait_for("#gone-title", "Deleted")
        assert self.receipt(tenant, chat_id)["message_count"] == 3
        assert complaints(window, 409, 412) == []

    def test_a_lost_answer_is_requested_again(self, window: Window, tenant: Tenant) -> None:
        """With the same Idempotency-Key: the answer is the delete's 200, not a 404."""
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
        window.click("#deletion-buttons .primary")
        window.wait_for("#gone-title", "Deleted")

    def test_a_large_chat_shows_the_progress_of_its_removal(self, window: Window, tenant: Tenant) -> None:
        chat_id = tenant.chat("Large", *map(str, range(60)))
        self.ask(window, chat_id)
        self.confirm(window)
        assert "60 messages still to remove; nobody can read them" in window.wait_for("#gone .receipt").text

    def test_from_the_list_while_another_is_open(self, window: Window, tenant: Tenant) -> None:
        """The open conversation stays as it is."""
        other = tenant.chat("Other", "one")
        chat_id = tenant.chat("Open", "one")
        window.open(f"#chat={chat_id}")
        window.is_live()
        window.find("#chats li:nth-child(2) button").send_keys(Keys.ENTER)
        window.click("#deletion-buttons .danger", "Delete 1 message")
        window.wait_for("#deletion-title", "Deleted")
        window.press(Keys.ENTER)
        window.say("still here")
        window.wait_for("#messages li", "still here")
        assert tenant.send("GET", f"/{other}").status_code == 404

    def test_the_export_is_offered_first(self, window: Window, tenant: Tenant, tmp_path: Path) -> None:
        chat_id = tenant.chat("Kept", "one", "two")
        window.driver.execute_cdp_cmd(
            "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
        )
        self.ask(window, chat_id)
        window.click("#deletion-export button[data-format=ndjson]")
        file = tmp_path / f"chat-{chat_id}.ndjson"
        window.wait(file.exists)
        assert file.read_bytes() == tenant.send("GET", f"/{chat_id}/export?format=ndjson").content
