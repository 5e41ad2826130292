"""axe-core finds no violation in the chat page, on desktop and phone, in light and dark.

Run by `make interop`, which installs axe-core.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from chat_service.page.guides import names
from tests.page.window import DESKTOP, PHONE, Tenant, Window

AXE = Path(__file__).parent.parent / "interop/node_modules/axe-core/axe.min.js"

pytestmark = pytest.mark.interop


def violations(window: Window) -> list[str]:
    """Return the violations that axe finds in what is visible, each with its element."""
    window.driver.execute_script(AXE.read_text())
    report = window.driver.execute_async_script("axe.run().then(arguments[0])")
    return [f"{violation['id']}: {node['html']}" for violation in report["violations"] for node in violation["nodes"]]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wrong(
    new_window: Callable[..., Window], tenant: Tenant, size: tuple[int, int], scheme: str
) -> None:
    """In the view that asks for a key, the list, a chat, the delete dialog, and after a delete."""
    chat_id = tenant.chat("Parcels", "Where is my parcel?")
    window = new_window(size=size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    window.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    by_view = {}
    window.open()
    by_view["entrance"] = violations(window)
    window.driver.refresh()
    window.open(f"#key={tenant.access.key}")
    window.driver.refresh()
    window.wait_for("#chats a", "Parcels")
    by_view["list"] = violations(window)
    window.open(f"#chat={chat_id}")
    window.is_live()
    window.wait(lambda: window.texts("#messages .content"))
    by_view["chat"] = violations(window)
    window.click("#delete")
    window.wait_for("#deletion-buttons .danger", "Delete 1 message")
    by_view["dialog"] = violations(window)
    window.click("#deletion-buttons .danger", "Delete 1 message")
    window.wait_for("#gone-title", "Deleted")
    by_view["deleted"] = violations(window)
    assert not any(by_view.values()), by_view


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wrong_with_the_documentation(
    new_window: Callable[..., Window], size: tuple[int, int], scheme: str
) -> None:
    window = new_window(size=size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    window.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    # All pages share one layout; what differs is their text, for which one kind of window is enough.
    all_pages = [f"docs/{name}" for name in sorted(names()) if "/" not in name]
    by_page = {}
    for address in ("docs/", "problems", *(all_pages if (size, scheme) == (DESKTOP, "light") else ["docs/operations"])):
        window.driver.get(f"{window.origin}/{address}")
        by_page[address] = violations(window)
    assert not any(by_page.values()), by_page
