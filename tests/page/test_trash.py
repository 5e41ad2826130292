"""The trash in the page: how chats get there, what the page says, and how they are restored."""

from collections.abc import Callable

import requests

from chat_service.repository.api_keys import ApiKeys
from tests.page.window import PHONE, Tenant, Window, complaints


def open_and_trash(window: Window, chat_id: str) -> None:
    window.open(f"#chat={chat_id}")
    window.is_live()
    window.click("#delete")
    window.click("#deletion-buttons .primary", "Move to trash")
    window.wait_for("#gone-title", "Moved to the trash")


class TestTrash:
    def test_a_chat_goes_there_and_comes_back(self, window: Window, tenant: Tenant) -> None:
        """The page says until when it can be restored, and one click brings everything back."""
        chat_id = tenant.chat("Where is my parcel?", "one", "two")
        open_and_trash(window, chat_id)
        assert "can be restored until" in window.find("#gone-text").text
        assert window.driver.switch_to.active_element.text == "Moved to the trash"
        window.shot("trashed")
        assert window.texts("#chats a b") == []
        window.click("#gone-restore button", "Restore")
        window.is_live()
        window.wait(lambda: window.texts("#messages .content") == ["one", "two"])
        window.wait(lambda: window.texts("#chats a b") == ["Where is my parcel?"])
        window.say("three")
        window.wait(lambda: tenant.contents(chat_id) == ["one", "two", "three"])
        assert complaints(window, 409) == []

    def test_the_list_restores_and_deletes_for_good(self, window: Window, tenant: Tenant) -> None:
        kept, gone = tenant.chat("Kept", "one"), tenant.chat("Gone", "one", "two")
        for chat_id in (kept, gone):
            open_and_trash(window, chat_id)
        window.click("#trash summary")
        window.wait(lambda: window.texts("#trash-list b") == ["Gone", "Kept"])
        window.shot("trash-list")
        window.click("#trash-list li:nth-child(1) .danger-quiet", "Delete for good")
        window.wait_for("#deletion-title", "Delete this chat for good?")
        assert "cannot be undone" in window.find("#deletion-text").text
        window.click("#deletion-buttons .danger", "Delete 2 messages")
        window.wait_for("#deletion-title", "Deleted")
        window.click("#deletion-buttons button", "Close")
        window.wait(lambda: window.texts("#trash-list b") == ["Kept"])
        window.click("#trash-list .primary", "Restore")
        window.is_live()
        window.wait(lambda: window.texts("#trash-list b") == [])
        assert window.texts("#chats a b") == ["Kept"]
        assert tenant.contents(kept) == ["one"]
        assert complaints(window, 404, 409) == []

    def test_a_chat_that_was_restored_meanwhile_is_not_called_deleted(self, window: Window, tenant: Tenant) -> None:
        """404: the page says that nothing was deleted, and the chat is there."""
        chat_id = tenant.chat("Parcels", "one")
        open_and_trash(window, chat_id)
        window.driver.refresh()
        window.click("#trash summary")
        window.click("#trash-list .danger-quiet", "Delete for good")
        window.wait_for("#deletion-buttons .danger", "Delete 1 message")
        url = f"{tenant.service.url}/trash/{chat_id}/restore"
        assert requests.post(url, headers=tenant.access.headers, timeout=30).status_code == 200
        window.click("#deletion-buttons .danger")
        window.wait_for("#deletion-title", "Nothing was deleted")
        assert window.texts("#deletion-buttons button") == ["Cancel"]
        assert tenant.contents(chat_id) == ["one"]

    def test_a_chat_trashed_from_the_list_is_shown_in_the_trash(self, window: Window, tenant: Tenant) -> None:
        """The focus moves to the trash, because the chat's row is gone."""
        tenant.chat("Parcels", "one")
        window.wait_for("#chats a", "Parcels")
        window.driver.execute_script("document.querySelector('#chats li button').click()")
        window.click("#deletion-buttons .primary", "Move to trash")
        window.wait(lambda: window.texts("#trash-list b") == ["Parcels"])
        assert window.driver.switch_to.active_element.text.endswith("Trash")

    def test_others_see_that_the_chat_is_in_the_trash(
        self, window: Window, new_window: Callable[..., Window], tenant: Tenant
    ) -> None:
        """The socket's frame is that of a delete, yet the page says that it was the trash, and can restore the chat."""
        chat_id = tenant.chat("Parcels", "one")
        other = new_window(size=PHONE)
        other.open(f"#key={tenant.access.key}")
        other.open(f"#chat={chat_id}")
        other.is_live()
        window.open(f"#chat={chat_id}")
        window.is_live()
        window.click("#delete")
        window.click("#deletion-buttons .primary", "Move to trash")
        window.wait_for("#deletion-title", "Others are connected")
        window.click("#deletion-buttons .danger", "Disconnect them and move to trash")
        window.wait_for("#gone-title", "Moved to the trash")
        other.wait_for("#gone-title", "moved to the trash by somebody else")
        other.shot("trashed-by-others-phone")
        other.click("#gone-restore button", "Restore")
        other.is_live()
        assert tenant.contents(chat_id) == ["one"]

    def test_an_address_of_a_chat_in_the_trash(self, window: Window, tenant: Tenant) -> None:
        chat_id = tenant.chat("Parcels", "one")
        open_and_trash(window, chat_id)
        window.driver.refresh()
        window.wait_for("#gone-title", "This chat is in the trash")
        window.wait_for("#gone-restore button", "Restore")

    def test_a_key_that_may_only_read_sees_the_trash(self, window: Window, tenant: Tenant, database) -> None:
        """It is offered neither a restore nor a delete."""
        chat_id = tenant.chat("Parcels", "one")
        open_and_trash(window, chat_id)
        reader, _ = ApiKeys(database).create(tenant.access.tenant_id, "reader", ("read",))
        window.open(f"#key={reader}")
        window.wait_for("#may", "may read.")
        window.click("#trash summary")
        window.wait(lambda: window.texts("#trash-list b") == ["Parcels"])
        buttons = window.driver.find_elements("css selector", "#trash-list button")
        assert not [button for button in buttons if button.is_displayed()]
