"""`Threads`, in which the event loop lets requests be answered."""

import asyncio
import threading

import pytest

from chat_service.server.threads import Threads

WAIT_SECONDS = 10


def test_a_call_runs_in_another_thread_and_gives_its_result_back() -> None:
    async def main() -> threading.Thread:
        return await Threads(1, "t").run(threading.current_thread)

    assert asyncio.run(main()) is not threading.main_thread()


def test_what_it_raises_is_raised_where_it_is_awaited() -> None:
    """The thread then runs the next call."""

    async def main() -> None:
        threads = Threads(1, "t")
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 / 0)
        await asyncio.wait_for(threads.run(lambda: None), WAIT_SECONDS)

    asyncio.run(main())


def test_no_more_run_at_once_than_the_limit_and_the_others_follow_in_order() -> None:
    """Every call that has to wait runs in the end."""
    running: list[int] = []
    began, gate = threading.Semaphore(0), threading.Semaphore(0)

    def work(number: int) -> None:
        running.append(number)
        began.release()
        assert gate.acquire(timeout=WAIT_SECONDS)

    async def main() -> None:
        threads = Threads(2, "t")
        calls = [threads.run(work, number) for number in range(5)]
        assert all(began.acquire(timeout=WAIT_SECONDS) for _ in range(2))
        assert sorted(running) == [0, 1]
        for _ in calls:
            gate.release()
        await asyncio.wait_for(asyncio.gather(*calls), WAIT_SECONDS)

    asyncio.run(main())
    assert sorted(running) == [0, 1, 2, 3, 4]


def test_a_call_that_was_given_up_before_it_began_is_not_run() -> None:
    """As when its client has left."""
    ran: list[str] = []
    gate = threading.Event()

    async def main() -> None:
        threads = Threads(1, "t")
        first = threads.run(lambda: ran.append("first") if gate.wait(WAIT_SECONDS) else None)
        given_up = threads.run(ran.append, "given up")
        given_up.cancel()
        gate.set()
        await asyncio.wait_for(first, WAIT_SECONDS)
        await asyncio.wait_for(threads.run(ran.append, "last"), WAIT_SECONDS)

    asyncio.run(main())
    assert ran == ["first", "last"]


def test_no_call_is_lost_or_done_twice() -> None:
    """Not even if a call arrives just when a thread is about to wait for one."""
    done: list[int] = []

    async def caller(threads: Threads, numbers: range) -> None:
        for number in numbers:
            await threads.run(done.append, number)

    async def main() -> None:
        threads = Threads(4, "t")
        callers = [caller(threads, range(first, 6_000, 6)) for first in range(6)]
        await asyncio.wait_for(asyncio.gather(*callers), 6 * WAIT_SECONDS)

    asyncio.run(main())
    assert sorted(done) == list(range(6_000))
