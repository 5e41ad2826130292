"""The chat page under axe-core, desktop and phone, light and dark: nothing that it calls a violation.

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
    """Return what axe finds wrong with what is to be seen, each with the element that it is in."""
    window.driver.execute_script(AXE.read_text())
    found = window.driver.execute_async_script("axe.run().then(arguments[0])")
    return [f"{one['id']}: {node['html']}" for one in found["violations"] for node in one["nodes"]]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wrong(
    new_window: Callable[..., Window], tenant: Tenant, size: tuple[int, int], scheme: str
) -> None:
    """Where a key is asked for, the list, a chat, the dialog, and after a delete."""
    chat_id = tenant.chat("Parcels", "Where is my parcel?")
    window = new_window(size=size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    window.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    found = {}
    window.open()
    found["entrance"] = violations(window)
    window.driver.refresh()
    window.open(f"#key={tenant.access.key}")
    window.driver.refresh()
    window.wait_for("#chats a", "Parcels")
    found["list"] = violations(window)
    window.open(f"#chat={chat_id}")
    window.is_live()
    window.wait(lambda: window.texts("#messages .content"))
    found["chat"] = violations(window)
    window.click("#delete")
    window.wait_for("#deletion-buttons .danger", "Delete 1 message")
    found["dialog"] = violations(window)
    window.click("#deletion-buttons .danger", "Delete 1 message")
    window.wait_for("#gone-title", "Deleted")
    found["deleted"] = violations(window)
    assert not any(found.values()), found


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wrong_with_the_documentation(
    new_window: Callable[..., Window], size: tuple[int, int], scheme: str
) -> None:
    window = new_window(size=size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    window.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    # All pages are made in one way; what differs is in their text, and so is seen in any window.
    all_pages = [f"docs/{name}" for name in sorted(names()) if "/" not in name]
    found = {}
    for address in ("docs/", "problems", *(all_pages if (size, scheme) == (DESKTOP, "light") else ["docs/operations"])):
        window.driver.get(f"{window.origin}/{address}")
        found[address] = violations(window)
    assert not any(found.values()), found
