"""The service with its chat page, and browser windows on it."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from selenium.webdriver import Chrome

from chat_service.embedded.process import free_port
from tests.browser import browser, requested
from tests.conftest import MAX_BODY_BYTES
from tests.forked import ForkedGunicorn
from tests.page.window import DESKTOP, PHONE, Tenant, Window

PUBLIC_URL = "https://chats.example.com"


@pytest.fixture(scope="package")
def service(mongod, real_database) -> Iterator[ForkedGunicorn]:
    """The service with its chat page, on two workers."""
    del real_database  # it has made the collections
    limits = {"MAX_BODY_BYTES": str(MAX_BODY_BYTES), "DELETE_INLINE_LIMIT": "50", "PUBLIC_URL": PUBLIC_URL}
    with ForkedGunicorn(mongod.uri, free_port(), CHAT_PAGE="on", **limits) as running:
        yield running


@pytest.fixture
def tenant(service: ForkedGunicorn, live) -> Tenant:
    return Tenant(service, live[1]())


@pytest.fixture(scope="package")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Chrome]]:
    """A function that returns a browser by its number, with an empty tab; browsers are reused, as a start is slow."""
    if shutil.which("chromedriver") is None:
        pytest.skip("there is no chromedriver on this machine")
    started: list[Chrome] = []
    with ExitStack() as closing:

        def get(number: int) -> Chrome:
            if number == len(started):
                started.append(closing.enter_context(browser(tmp_path_factory.mktemp("profile"))))
            driver = started[number]
            old_tab = driver.current_window_handle
            driver.switch_to.new_window("tab")
            new_tab = driver.current_window_handle
            driver.switch_to.window(old_tab)
            driver.close()
            driver.switch_to.window(new_tab)
            for kind in ("browser", "performance"):
                driver.get_log(kind)
            return driver

        yield get


@pytest.fixture
def new_window(service: ForkedGunicorn, drivers: Callable[[int], Chrome]) -> Iterator[Callable[..., Window]]:
    """A function that opens browser windows; at the end, none has requested anything from another host."""
    windows: list[Window] = []

    def make(*, size: tuple[int, int] = DESKTOP) -> Window:
        driver = drivers(len(windows))
        # A window cannot be as narrow as a phone, but its viewport can.
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        windows.append(Window(driver, f"http://127.0.0.1:{service.port}"))
        return windows[-1]

    yield make
    for window in windows:
        allowed = (window.origin, "data:", "blob:", "chrome")
        assert [url for url in requested(window.driver) if not url.startswith(allowed)] == []


@pytest.fixture
def window(new_window: Callable[..., Window], tenant: Tenant) -> Window:
    """A window that was opened at the address that `make run` prints."""
    opened = new_window()
    opened.open(f"#key={tenant.access.key}")
    return opened
