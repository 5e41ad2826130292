"""/verify in a real browser: it gives the same verdicts as the command, and sends no request."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from chat_service.page import verifying
from tests.browser import errors
from tests.page.window import PHONE, Window
from tests.proof.logs import ENTRIES, Log, chat, tampered
from tests.wait import wait_until

LOG = Log()

REFUSED = """
const [texts, key, done] = arguments;
(async () => {
  const read = await readKey(key);
  const accepted = await Promise.all(texts.map((text) => verify(text, read, "").then(() => text, (error) => {
    if (!(error instanceof NotProved)) throw error;
    return null;
  })));
  done(accepted.filter((text) => text !== null));
})().catch((error) => done([String(error)]));
"""


class Page:
    """A window with the /verify page."""

    def __init__(self, window: Window, address: str) -> None:
        self.window = window
        self.driver = window.driver
        self.driver.get(f"{address}#key={str(LOG.verifier).replace('+', '%2B')}")

    def choose(self, file: Path, field: str = "file") -> None:
        self.driver.find_element(By.ID, field).send_keys(str(file))

    def enter(self, field: str, text: str) -> None:
        element = self.driver.find_element(By.ID, field)
        element.clear()
        element.send_keys(text, "\t")

    def says(self, *texts: str) -> None:
        wait_until(lambda: all(text in self.driver.find_element(By.ID, "verdict").text for text in texts), 20)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "good").write_text(LOG.proof(3))
    (tmp_path / "purged").write_text(LOG.proof(5))
    (tmp_path / "bad").write_text(LOG.proof(3).replace("index 2", "index 3"))
    (tmp_path / "growth").write_text(LOG.growth(9))
    (tmp_path / "old").write_text(LOG.note(9))
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    return tmp_path


@pytest.fixture
def page(new_window: Callable[..., Window], service) -> Page:
    return Page(new_window(), f"http://127.0.0.1:{service.port}/verify")


def test_the_verdicts(page: Page, files: Path) -> None:
    page.choose(files / "good")
    page.says("Proved", f"Chat {chat(3)} was deleted with its 1,203 messages", "3 of 21 in the log")
    page.window.shot("verify-proved")
    page.choose(files / "purged")
    page.says("Proved", "nothing of it was left in the service's database")
    page.choose(files / "bad")
    page.says("Not proved", "The entry is not in the log that was signed")
    page.choose(files / "binary")
    page.says("Not proved", "not text")
    page.choose(files / "good")
    page.enter("chat", chat(4))
    page.says("Not proved", f"about another chat: {chat(3)}")
    page.enter("chat", "")
    page.enter("key", str(Log("00000000-0000-4000-8000-000000000001").verifier))
    page.says("Not proved", "another log's")
    page.enter("key", "x")
    page.says("Not proved", "name+id+key")
    page.enter("key", str(LOG.verifier))
    page.choose(files / "old", "old")
    page.choose(files / "growth")
    page.says("Proved", "The log has grown from 9 to 21 entries")
    assert errors(page.driver) == []


def test_what_was_tampered_with_is_refused(page: Page) -> None:
    """The command's tests make the same tamperings."""
    rng = random.Random(20261127)
    texts = [tampered(LOG.proof(rng.randint(1, ENTRIES)), rng) for _ in range(1_000)]
    page.driver.set_script_timeout(60)
    readable = [text.decode("utf-8", "replace") for text in texts]
    assert page.driver.execute_async_script(REFUSED, readable, str(LOG.verifier)) == []
    untouched = [LOG.proof(seq) for seq in range(1, ENTRIES + 1)]
    assert page.driver.execute_async_script(REFUSED, untouched, str(LOG.verifier)) == untouched, "these are accepted"


def test_a_saved_copy_works_without_a_network(new_window: Callable[..., Window], files: Path) -> None:
    """It fits a phone's width too."""
    window = new_window(size=PHONE)
    copy = files / "saved.html"
    copy.write_text((Path(verifying.__file__).parent / "static" / "verify" / "verify.html").read_text())
    window.origin = f"file://{files}"
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    window.driver.execute_cdp_cmd("Network.enable", {})
    window.driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    page = Page(window, f"file://{copy}")
    page.choose(files / "good")
    page.says("Proved")
    window.shot("verify-phone")
    width = window.driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    online = {**offline, "offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
    window.driver.execute_cdp_cmd("Network.emulateNetworkConditions", online)
    assert width is True
