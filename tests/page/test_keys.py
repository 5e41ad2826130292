"""How the page uses an API key: it offers what the key may do, and says what is wrong with a bad key."""

from pathlib import Path

import pytest

from chat_service.repository.api_keys import ApiKeys
from tests.page.window import Tenant, Window, complaints


class TestWhatTheKeyMayDo:
    @pytest.mark.parametrize("scopes", [("read",), ("read", "write"), ("read", "delete")])
    def test_nothing_else_is_offered(self, window: Window, tenant: Tenant, database, scopes: tuple[str, ...]) -> None:
        """With a key that may only read, the page shows no field to write in, and no button to delete."""
        key, _ = ApiKeys(database).create(tenant.access.tenant_id, "limited", scopes)
        chat_id = tenant.chat("Look", "one")
        window.open(f"#key={key}")
        window.wait_for("#may", f"The key “limited” may {' and '.join(scopes)}.")
        window.open(f"#chat={chat_id}")
        window.wait_for("#messages li", "one")
        assert window.find("#composer").is_displayed() == window.find("#new-chat").is_displayed() == ("write" in scopes)
        assert window.find("#delete").is_displayed() == ("delete" in scopes)
        window.shot(f"key-{'-'.join(scopes)}")

    def test_a_refusal_says_that_nothing_was_deleted(self, window: Window, tenant: Tenant) -> None:
        """A key may lose a scope while the page is open; then the page offers no retry."""
        chat_id = tenant.chat("Kept", "one")
        window.open(f"#chat={chat_id}")
        window.is_live()
        window.driver.execute_script("""
          const ask = window.fetch;
          const refusal = { status: 403, code: "insufficient_scope", detail: "This API key may not delete." };
          window.fetch = (path, options) => options.method === "DELETE"
            ? Promise.resolve(new Response(JSON.stringify(refusal), { status: 403 })) : ask(path, options);
        """)
        window.click("#delete")
        window.click("#deletion-buttons .danger", "Delete 1 message")
        window.wait_for("#deletion-title", "Nothing was deleted")
        assert window.texts("#deletion-buttons button") == ["Cancel"]
        assert tenant.contents(chat_id) == ["one"]


class TestKeysAsPeopleTypeThem:
    @pytest.mark.parametrize("key", ["chat_schlüssel", "chat_💥", "two words"])
    def test_an_impossible_key_is_called_wrong(self, window: Window, tenant: Tenant, key: str) -> None:
        """The page does not blame the service for it."""
        del tenant
        window.click("#leave")
        window.wait_for("#key")
        window.driver.execute_script("document.getElementById('key').value = arguments[0]", key)
        window.click("#key-form button")
        window.wait_for("#key-error", "This API key is wrong, was revoked, or has expired.")

    def test_a_plus_sign_in_the_address_stays_one(self, window: Window) -> None:
        """The fragment is not decoded as form data, where a plus means a space."""
        key = window.driver.execute_async_script("""
          import("/page/session.js").then((session) => {
            history.replaceState(null, "", "#key=a+b%2Bc");
            session.takeKeyFromAddress();
            arguments[0](session.key());
          });
        """)
        assert key == "a+b+c"


class TestImport:
    def test_what_was_exported_comes_back(self, window: Window, tenant: Tenant, tmp_path: Path) -> None:
        """It is imported as a new chat, which is opened."""
        chat_id = tenant.chat("Exported", "one", "two")
        file = tmp_path / "chat.ndjson"
        file.write_bytes(tenant.send("GET", f"/{chat_id}/export?format=ndjson").content)
        window.open(f"#key={tenant.access.key}")
        window.wait_for("#chats a", "Exported")
        window.find("#import-file").send_keys(str(file))
        window.wait(lambda: window.texts("#messages .content") == ["one", "two"])
        assert window.texts("#chats a b") == ["Exported", "Exported"]
        assert complaints(window) == []

    def test_a_file_that_is_no_export_is_refused_with_a_reason(self, window: Window, tmp_path: Path) -> None:
        file = tmp_path / "chat.ndjson"
        file.write_text("nonsense\n")
        window.wait_for("#no-chats")
        window.find("#import-file").send_keys(str(file))
        window.wait_for("#list-error", "at least two lines")
