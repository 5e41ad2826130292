"""Every message once and in order, also when the feed is cut: where it can go on, and where it cannot."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable

import pytest

from chat_service.models import NewMessage, Role
from chat_service.repository.messages import Messages
from tests.realtime.line import Closed, Line
from tests.realtime.sockets import Service

SOCKETS_OF_A_CHAT = 5
ON_THE_WAY = 3
"""Posts of one socket that have not come back yet."""

CUTS = {
    "the connection breaks": {"closeConnection": True},
    "the cursor is gone": {"errorCode": 43, "errorLabels": ["ResumableChangeStreamError"]},
    "the server steps down": {"errorCode": 11602, "errorLabels": ["ResumableChangeStreamError"]},
}
LOST = {"errorCode": 286}
"""ChangeStreamHistoryLost: the server has forgotten what came after the last change."""


@pytest.fixture
def cut(failpoint) -> Callable[..., object]:
    """Have the next questions of a feed fail; each feed asks twice a second, or as often as there is something."""
    return lambda times, how: failpoint.arm("getMore", times=times, **how)


class Speaker:
    """Posts its share to a chat, hears all of it, and comes back when it is told to."""

    def __init__(self, service: Service, chat_id: str, name: str, shares: int, share: int) -> None:
        self.service, self.chat_id, self.name = service, chat_id, name
        self.waiting = [f"{name}-{number}" for number in range(share)][::-1]
        self.on_the_way: set[str] = set()
        self.repeated: set[str] = set()
        self.last, self.expected = 0, shares * share
        self.has_come_in = asyncio.Event()
        self.closes: Counter[int] = Counter()

    async def talk(self) -> None:
        while self.last < self.expected:
            path = f"{self.chat_id}?after={self.last}"
            line = await Line.open(self.service.gunicorn.port, path, self.service.access)
            self.has_come_in.set()
            self.repeated |= self.on_the_way
            for content in self.on_the_way:
                self.post(line, content)
            await self.listen(line)
            line.writer.close()

    async def listen(self, line: Line) -> None:
        while self.last < self.expected:
            while self.waiting and len(self.on_the_way) < ON_THE_WAY:
                self.on_the_way.add(self.waiting[-1])
                self.post(line, self.waiting.pop())
            found = await line.frame()
            if isinstance(found, Closed):
                self.closes[found.code] += 1
                return
            assert found["type"] == "message.created", found
            self.hear(found["message"]["seq"], found["message"]["content"], found.get("client_id"))

    def hear(self, seq: int, content: str, client_id: str | None) -> None:
        if seq <= self.last:
            assert client_id in self.repeated, "told twice"
        else:
            assert seq == self.last + 1, "a gap"
            self.last = seq
        self.on_the_way.discard(content)

    @staticmethod
    def post(line: Line, content: str) -> None:
        line.send(json.dumps({"type": "message.create", "content": content, "client_id": content}).encode())


async def converse(service: Service, chats: int, share: int, cutting: Callable[[], None]) -> Counter[int]:
    """Let all sockets of all chats speak while the feed is cut; how they were closed meanwhile."""
    speakers = [
        Speaker(service, chat_id, f"{number}", SOCKETS_OF_A_CHAT, share)
        for chat_id in [service.chat() for _ in range(chats)]
        for number in range(SOCKETS_OF_A_CHAT)
    ]
    talking = asyncio.gather(*(speaker.talk() for speaker in speakers))
    for speaker in speakers:  # who is looked up while a connection breaks may be told to come again
        await asyncio.wait_for(speaker.has_come_in.wait(), 60)
    while not talking.done():
        await asyncio.wait([talking], timeout=random.random() + 0.5)
        await asyncio.to_thread(cutting)
    await talking
    assert all(speaker.last == speaker.expected for speaker in speakers)
    return sum((speaker.closes for speaker in speakers), Counter())


SMALL = pytest.param(8, 50, id="2,000 messages, 40 sockets")
LARGE = pytest.param(20, 100, id="10,000 messages, 100 sockets", marks=pytest.mark.soak)


@pytest.mark.parametrize(("chats", "share"), [SMALL, LARGE])
def test_a_feed_that_goes_on_misses_nothing_and_closes_nobody(service, cut, chats, share) -> None:
    """Each socket gets each message of its chat once, in order, without a close."""
    cuts = list(CUTS.values())
    closes = asyncio.run(converse(service, chats, share, lambda: cut(random.randint(1, 3), random.choice(cuts))))
    assert closes == Counter()


@pytest.mark.parametrize(("chats", "share"), [SMALL, LARGE])
def test_a_feed_that_is_lost_sends_its_sockets_back(service, cut, chats, share) -> None:
    """1012, and with `?after=` and the same client ids still each message once, in order."""
    armed = iter([True, True, True])
    closes = asyncio.run(converse(service, chats, share, lambda: next(armed, False) and cut(1, LOST)))
    print(closes)  # noqa: T201 - how many came back
    assert set(closes) == {1012}
    assert sum(closes.values()) >= chats


def test_a_worker_that_loses_its_feed_is_alone_with_that(service, cut) -> None:
    chat_id = service.chat()
    peers = [service.connect(chat_id) for _ in range(12)]
    Messages(service.database).append(service.access.tenant_id, chat_id, [NewMessage(Role.USER, "x", None, {})])
    assert [peer.contents(1) for peer in peers] == [["x"]] * 12
    cut(1, LOST)
    stay = [peer for peer in peers if peer.is_quiet(1.0)]
    assert len(stay) < 12
    service.post(chat_id, "y")
    assert [peer.contents(1) for peer in stay] == [["y"]] * len(stay)
