"""The page follows the log, and so shows at once what others do; and a delete is bound to the downloaded copy."""

import hashlib
from collections.abc import Callable

import pytest
import requests

from chat_service.repository.database import Database
from tests.numbering import wait_for_head
from tests.page.window import PHONE, Tenant, Window, complaints

pytestmark = pytest.mark.usefixtures("sequencer")


def send(tenant: Tenant, method: str, path: str) -> None:
    url = f"{tenant.service.url}{path}"
    assert requests.request(method, url, headers=tenant.access.headers, timeout=30).status_code == 200


def test_every_window_is_updated_at_once(window: Window, new_window: Callable[..., Window], tenant: Tenant) -> None:
    """One window's list and trash, and the other's open chat, follow without a reload."""
    chat_id, other_id = tenant.chat("Parcels", "one"), tenant.chat("Other", "one")
    window.open()
    window.wait(lambda: window.texts("#chats a b") == ["Other", "Parcels"])
    window.click("#trash summary")
    phone = new_window(size=PHONE)
    phone.open(f"#key={tenant.access.key}")
    phone.open(f"#chat={chat_id}")
    phone.is_live()
    send(tenant, "POST", f"/chats/{chat_id}/trash?on_active=evict")
    phone.wait_for("#gone-title", "moved to the trash by somebody else")
    window.wait(lambda: window.texts("#trash-list b") == ["Parcels"])
    assert window.texts("#chats a b") == ["Other"]
    send(tenant, "POST", f"/trash/{chat_id}/restore")
    window.wait(lambda: window.texts("#trash-list b") == [])
    window.wait(lambda: window.texts("#chats a b") == ["Other", "Parcels"])
    phone.is_live()
    phone.wait(lambda: phone.texts("#messages .content") == ["one"])
    send(tenant, "POST", f"/chats/{other_id}/trash")
    window.wait(lambda: window.texts("#trash-list b") == ["Other"])
    phone.open(f"#chat={other_id}")
    phone.wait_for("#gone-restore button", "Restore")
    send(tenant, "DELETE", f"/trash/{other_id}")
    phone.wait_for("#gone-title", "This chat was deleted")
    phone.wait_for("#gone-receipt", other_id)
    window.wait(lambda: window.texts("#trash-list b") == [])
    assert complaints(window) == []


def test_a_window_that_was_hidden_shows_what_it_missed(window: Window, tenant: Tenant) -> None:
    """It has no connection while it is hidden, and then continues where it was."""
    chat_id = tenant.chat("Parcels", "one")
    window.open()
    window.wait_for("#chats a", "Parcels")
    window.click("#trash summary")
    shown = window.driver.current_window_handle
    window.driver.switch_to.new_window("tab")
    send(tenant, "POST", f"/chats/{chat_id}/trash")
    window.driver.close()
    window.driver.switch_to.window(shown)
    window.wait(lambda: window.texts("#trash-list b") == ["Parcels"])


def test_a_delete_is_bound_to_the_downloaded_copy(window: Window, tenant: Tenant, database: Database) -> None:
    """A chat that has changed since the copy is not deleted; the receipt has the digest of the copy."""
    chat_id = tenant.chat("Parcels", "one", "two")
    window.open(f"#chat={chat_id}")
    window.is_live()
    window.click("#delete")
    window.click("#deletion-export button", "NDJSON")
    window.wait_for("#deletion-note", "You have saved a copy")
    window.shot("copy-kept")
    tenant.post(chat_id, "three")
    window.click("#deletion-buttons .danger", "for good")
    window.wait_for("#deletion-note", "The chat has changed in the meantime.")
    assert len(tenant.contents(chat_id)) == 3
    window.click("#deletion-export button", "NDJSON")
    window.wait_for("#deletion-note", "You have saved a copy")
    digest = hashlib.sha256(tenant.send("GET", f"/{chat_id}/export?format=ndjson").content).hexdigest()
    window.click("#deletion-buttons .danger", "Delete 3 messages for good")
    window.wait_for("#gone-title", "Deleted")
    window.wait_for("#gone-receipt", digest)
    wait_for_head(database, tenant.access.tenant_id, 2)
    window.wait_for("#gone-receipt", digest)
    window.shot("receipt-with-copy")
    assert window.find("#gone-title").text == "Deleted"
    assert complaints(window, 412) == []
