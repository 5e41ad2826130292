"""The chat page without a mouse, on a phone, and in the dark."""

from collections.abc import Callable

from selenium.webdriver.common.keys import Keys

from tests.page.window import PHONE, Tenant, Window, complaints
from tests.realtime.sockets import Peer


class TestReach:
    def test_without_a_mouse(self, window: Window) -> None:
        """One can create, open, write two lines, and delete with Tab and Enter alone; the focus is never lost."""
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
        window.wait_for("#gone-title", "Deleted")
        window.wait(lambda: window.driver.switch_to.active_element.text == "Deleted")
        window.tab_to_button("Back to the list")
        window.press(Keys.ENTER)
        window.wait_for("#no-chats")

    def test_on_a_phone(self, new_window: Callable[..., Window], tenant: Tenant) -> None:
        """One column, nothing wider than the screen; the back button leads to the list, and the dialog fits."""
        chat_id = tenant.chat("Where is my parcel, and who has signed for it at the door this time?", "Well?")
        tenant.post(chat_id, "It left the depot this morning and arrives today before 18:00.", "W" * 200, sender="bot")
        window = new_window(size=PHONE)

        def fits() -> bool:
            return window.driver.execute_script("""
              const parts = document.querySelectorAll("html, #side, #chats, #scroller, #deletion");
              return [...parts].every((part) => part.scrollWidth <= part.clientWidth);
            """)

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
        window.click("#chats a")
        window.is_live()
        with Peer(tenant.service, chat_id, tenant.access):
            window.click("#delete")
            window.wait_for("#deletion-buttons .danger", "Delete 4 messages")
            window.shot("phone-delete")
            window.click("#deletion-buttons .danger")
            window.wait_for("#deletion", "1 other connection")
            assert fits()
            window.shot("phone-409")
            window.click("#deletion-buttons .danger")
        window.wait_for("#gone-title", "Deleted")
        window.shot("phone-deleted")
        assert complaints(window, 404, 409) == []  # it may just have requested the connections

    def test_in_the_dark(self, window: Window, tenant: Tenant) -> None:
        """The page follows the browser's colour scheme."""
        chat_id = tenant.chat("Where is my parcel?", "Where is my parcel?")
        window.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        )
        window.open(f"#chat={chat_id}")
        window.is_live()
        window.shot("dark")
        background = window.driver.execute_script("return getComputedStyle(document.documentElement).backgroundColor")
        assert background == "rgb(22, 25, 23)"
