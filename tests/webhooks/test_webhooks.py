"""Webhooks: what is delivered, what is retried, and what the API reports about both."""

import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from chat_service.models import Scope
from chat_service.repository.database import Database
from chat_service.repository.deliveries import CLAIM, SCHEDULE
from chat_service.repository.health import WebhookHealth
from tests.client import CHATS, Client
from tests.wait import wait_until
from tests.webhooks.receiver import Receiver, drip, flood, hang, hang_up, status

WEBHOOKS = "/api/v1/webhooks"
UNKNOWN = "11111111-2222-4333-8444-555555555555"


def create(governor: Client, url: str, **more: Any) -> dict[str, Any]:
    answer = governor.send("POST", WEBHOOKS, json={"url": url, **more})
    assert answer.status_code == 201, answer.get_data()
    webhook: dict[str, Any] = answer.get_json()
    return webhook


def delete_chats(client: Client, number: int = 1) -> list[str]:
    """Create and delete so many chats, which puts two entries of each into the log; return their ids."""
    chat_ids = [client.new_chat("canary-content", title="canary-title") for _ in range(number)]
    for chat_id in chat_ids:
        assert client.send("DELETE", f"{CHATS}/{chat_id}").status_code == 200
    return chat_ids


def deliveries(governor: Client, webhook: dict[str, Any]) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = governor.send("GET", f"{WEBHOOKS}/{webhook['id']}/deliveries").get_json()["items"]
    return items


def make_due(database: Database) -> None:
    """Let every pending delivery be due now."""
    database.deliveries.update_many({"state": "pending"}, {"$set": {"due_at": database.now()}})


def is_settled(database: Database, status: int, tries: int) -> bool:
    """Return whether the try was made and its result is stored: the delivery is not claimed any more."""
    claimed = {"due_at": {"$gt": database.now() + CLAIM / 2, "$lt": database.now() + CLAIM}}
    return database.deliveries.find_one({"tries": tries, "status": status, "$nor": [claimed]}) is not None


class Clock:
    """The database's time in this process, which a test can set."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real_now = database._clock.now
        self._ahead = timedelta()
        monkeypatch.setattr(database._clock, "now", lambda: self._real_now() + self._ahead)

    def set_to(self, moment: datetime) -> None:
        self._ahead = moment - self._real_now()


@pytest.fixture
def clock(database: Database, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(database, monkeypatch)


@pytest.mark.usefixtures("worker")
class TestWhatArrives:
    def test_an_entry_of_the_log_signed(self, governor: Client) -> None:
        """The library that receivers use accepts the signature."""
        with Receiver() as receiver:
            webhook = create(governor, receiver.url)
            (chat_id,) = delete_chats(governor)
            messages = receiver.wait_for(2)
            payloads = [Webhook(webhook["secret"]).verify(message.body, message.headers) for message in messages]
            log = governor.send("GET", "/api/v1/log").get_json()["items"]
            assert sorted(payload["type"] for payload in payloads) == ["chat.deleted", "chat.purged"]
            assert sorted([payload["data"] for payload in payloads], key=lambda entry: entry["seq"]) == log
            assert all(payload["timestamp"] == payload["data"]["at"] for payload in payloads)
            assert chat_id in str(payloads)
            assert "canary" not in str(payloads)
            with pytest.raises(WebhookVerificationError):
                Webhook(webhook["secret"]).verify(messages[0].body + b" ", messages[0].headers)
            wait_until(lambda: {delivery["state"] for delivery in deliveries(governor, webhook)} == {"delivered"})
            assert {f"msg_{delivery['id']}" for delivery in deliveries(governor, webhook)} == {
                message.id for message in messages
            }

    def test_only_the_kinds_that_are_asked_for(self, governor: Client) -> None:
        with Receiver() as receiver:
            webhook = create(governor, receiver.url, kinds=["chat.trashed"])
            delete_chats(governor)
            chat_id = governor.new_chat()
            governor.send("POST", f"{CHATS}/{chat_id}/trash", json={})
            (message,) = receiver.wait_for(1)
            assert message.json["type"] == "chat.trashed"
            wait_until(lambda: governor.send("GET", f"{WEBHOOKS}/{webhook['id']}").get_json()["position"] == 3)
            assert len(receiver.messages) == 1

    def test_nothing_from_before_it_was_made_and_all_after(self, governor: Client, database: Database) -> None:
        delete_chats(governor, 2)
        wait_until(lambda: (database.log_heads.find_one({}) or {}).get("seq") == 4)
        with Receiver() as receiver:
            webhook = create(governor, receiver.url)
            delete_chats(governor, 20)
            receiver.wait_for(40)
            wait_until(lambda: len(deliveries(governor, webhook)) == 40)
            assert sorted(message.json["data"]["seq"] for message in receiver.messages) == list(range(5, 45))
            assert len({message.id for message in receiver.messages}) == 40, "each once"

    def test_a_test(self, governor: Client) -> None:
        with Receiver() as receiver:
            webhook = create(governor, receiver.url)
            assert governor.send("POST", f"{WEBHOOKS}/{webhook['id']}/test").status_code == 202
            (message,) = receiver.wait_for(1)
            assert Webhook(webhook["secret"]).verify(message.body, message.headers)["type"] == "webhook.test"

    def test_a_rotation_signs_with_both(self, governor: Client, database: Database) -> None:
        with Receiver() as receiver:
            webhook = create(governor, receiver.url)
            rotated = governor.send("POST", f"{WEBHOOKS}/{webhook['id']}/rotate").get_json()
            assert rotated["secret"] != webhook["secret"]
            governor.send("POST", f"{WEBHOOKS}/{webhook['id']}/test")
            (message,) = receiver.wait_for(1)
            for secret in (webhook["secret"], rotated["secret"]):
                Webhook(secret).verify(message.body, message.headers)
            over = database.now() - timedelta(seconds=1)
            database.webhooks.update_one({}, {"$set": {"secrets.1.until": over}})
            governor.send("POST", f"{WEBHOOKS}/{webhook['id']}/test")
            message = receiver.wait_for(2)[1]
            Webhook(rotated["secret"]).verify(message.body, message.headers)
            with pytest.raises(WebhookVerificationError):
                Webhook(webhook["secret"]).verify(message.body, message.headers)

    def test_a_replay_tells_it_again_under_other_ids(self, governor: Client) -> None:
        with Receiver() as receiver:
            webhook = create(governor, receiver.url)
            delete_chats(governor, 2)
            receiver.wait_for(4)
            answer = governor.send("POST", f"{WEBHOOKS}/{webhook['id']}/replay", json={"after": 1})
            assert answer.status_code == 202
            messages = receiver.wait_for(7)
            assert sorted(message.json["data"]["seq"] for message in messages[4:]) == [2, 3, 4]
            assert len({message.id for message in messages}) == 7
            delete_chats(governor)
            assert sorted(message.json["data"]["seq"] for message in receiver.wait_for(9)[7:]) == [5, 6], "and goes on"


@pytest.mark.usefixtures("worker")
class TestWhatDoesNot:
    def test_a_refusal_is_tried_again_under_the_same_id(self, governor: Client, database: Database) -> None:
        """Some tries get 500, and then one is accepted: nothing is lost, and every entry keeps its id."""
        with Receiver(status(500)) as receiver:
            webhook = create(governor, receiver.url)
            delete_chats(governor)
            for tries in range(1, 4):
                receiver.wait_for(2 * tries)
                wait_until(lambda: all(delivery["status"] == 500 for delivery in deliveries(governor, webhook)))
                wait_until(
                    lambda tries=tries: {delivery["tries"] for delivery in deliveries(governor, webhook)} == {tries}
                )
                make_due(database)
            receiver.wait_for(8)
            receiver.answer = status(200)
            wait_until(lambda: {delivery["tries"] for delivery in deliveries(governor, webhook)} == {4})
            make_due(database)
            wait_until(lambda: {delivery["state"] for delivery in deliveries(governor, webhook)} == {"delivered"})
            assert len({message.id for message in receiver.messages}) == 2
            assert len(receiver.messages) == 10

    def test_an_hour_of_500_by_the_clock(self, governor: Client, database: Database, clock: Clock) -> None:
        """It is retried after 5 s, 5 min and 30 min; the next try, 2 h later, is accepted, under the same id."""
        with Receiver(status(500)) as receiver:
            webhook = create(governor, receiver.url, kinds=["chat.deleted"])
            delete_chats(governor)
            began, tries = database.now(), 0
            while database.now() < began + timedelta(hours=1):
                tries += 1
                wait_until(lambda tries=tries: is_settled(database, 500, tries), 30)
                due_at = database.deliveries.find_one({})["due_at"]
                receiver.answer = status(500 if due_at < began + timedelta(hours=1) else 204)
                clock.set_to(due_at + timedelta(seconds=1))
            wait_until(lambda: deliveries(governor, webhook)[0]["state"] == "delivered", 30)
            assert tries == 4
            assert timedelta(hours=2) < database.now() - began < timedelta(hours=4)
            assert [message.id for message in receiver.wait_for(5)] == [receiver.messages[0].id] * 5

    def test_what_is_not_taken_is_counted(self, governor: Client, app: Flask) -> None:
        """A webhook counts as failing while it is enabled and a delivery of it is retried."""
        webhook_health = app.extensions["chat_service"].health.webhooks
        with Receiver(status(500)) as receiver, Receiver() as other:
            refused = create(governor, receiver.url)
            create(governor, other.url)
            delete_chats(governor)
            wait_until(lambda: webhook_health(1) == WebhookHealth(2, 1, timedelta()))
            governor.send("PATCH", f"{WEBHOOKS}/{refused['id']}", json={"enabled": False})
            assert webhook_health(1) == WebhookHealth(1, 0, timedelta())

    def test_the_last_try_is_the_tenth(self, governor: Client, database: Database) -> None:
        """Then the delivery has failed, and a replay sends it again."""
        with Receiver(status(503)) as receiver:
            webhook = create(governor, receiver.url, kinds=["chat.deleted"])
            delete_chats(governor)
            for tries in range(1, len(SCHEDULE) + 2):
                wait_until(lambda tries=tries: is_settled(database, 503, tries), 30)
                make_due(database)
            wait_until(lambda: deliveries(governor, webhook)[0]["state"] == "failed")
            assert len(receiver.wait_for(10)) == 10
            assert deliveries(governor, webhook)[0]["next_try_at"] is None
            receiver.answer = status(204)
            governor.send("POST", f"{WEBHOOKS}/{webhook['id']}/replay", json={"after": 0})
            receiver.wait_for(11)

    def test_a_retry_after_is_heeded(self, governor: Client) -> None:
        with Receiver(status(429, Retry_After="7200")) as receiver:
            webhook = create(governor, receiver.url, kinds=["chat.deleted"])
            delete_chats(governor)
            receiver.wait_for(1)
            wait_until(lambda: deliveries(governor, webhook)[0]["status"] == 429)
            (delivery,) = deliveries(governor, webhook)
            assert delivery["next_try_at"][:13] > delivery["tried_at"][:13], "hours, not the 5 s of the first try"

    def test_gone_disables_it(self, governor: Client) -> None:
        with Receiver(status(410)) as receiver:
            webhook = create(governor, receiver.url, kinds=["chat.deleted"])
            delete_chats(governor)
            receiver.wait_for(1)
            path = f"{WEBHOOKS}/{webhook['id']}"
            wait_until(lambda: governor.send("GET", path).get_json()["enabled"] is False)
            assert governor.send("GET", path).get_json()["disabled_by"] == "410"
            delete_chats(governor, 3)
            receiver.answer = status(204)
            time.sleep(1.5)
            assert len(receiver.messages) == 1
            assert governor.send("PATCH", path, json={"enabled": True}).get_json()["disabled_by"] is None
            assert len(receiver.wait_for(4)) == 4, "it goes on where it was"

    def test_a_redirect_is_not_followed(self, governor: Client) -> None:
        with Receiver() as other, Receiver(status(302, Location=other.url)) as receiver:
            webhook = create(governor, receiver.url, kinds=["chat.deleted"])
            delete_chats(governor)
            receiver.wait_for(1)
            wait_until(lambda: deliveries(governor, webhook)[0]["status"] == 302)
            assert deliveries(governor, webhook)[0]["state"] == "pending"
            assert other.messages == []

    @pytest.mark.parametrize("behaviour", [hang, drip, hang_up, flood])
    def test_others_are_told_meanwhile(self, governor: Client, behaviour) -> None:
        """Whatever one receiver does, and however many messages wait for it."""
        with Receiver(behaviour) as bad, Receiver() as good:
            webhook = create(governor, bad.url)
            create(governor, good.url)
            delete_chats(governor, 15)
            began = time.monotonic()
            good.wait_for(30)
            assert time.monotonic() - began < 12, "it waits for nobody"
            if behaviour is hang_up:
                wait_until(
                    lambda: any(delivery["reason"] == "unreachable" for delivery in deliveries(governor, webhook))
                )
            if behaviour is flood:
                wait_until(lambda: any(delivery["state"] == "delivered" for delivery in deliveries(governor, webhook)))
            if behaviour in {hang, drip}:
                assert len(bad.messages) <= 4, "so many at once"
                wait_until(
                    lambda: any(delivery["reason"] == "timeout" for delivery in deliveries(governor, webhook)), 40
                )

    def test_one_that_moves(self, governor: Client, database: Database) -> None:
        """What the old address did not accept is delivered to the new one, under the same id."""
        with Receiver(status(500)) as old, Receiver() as new:
            webhook = create(governor, old.url, kinds=["chat.deleted"])
            delete_chats(governor)
            (message,) = old.wait_for(1)
            wait_until(lambda: deliveries(governor, webhook)[0]["status"] == 500)
            moved = governor.send("PATCH", f"{WEBHOOKS}/{webhook['id']}", json={"url": new.url})
            assert moved.get_json()["url"] == new.url
            make_due(database)
            assert new.wait_for(1)[0].id == message.id
            assert len(old.messages) == 1

    def test_nobody_listens(self, governor: Client) -> None:
        with Receiver() as receiver:
            url = receiver.url
        webhook = create(governor, url, kinds=["chat.deleted"])
        delete_chats(governor)
        wait_until(lambda: [delivery["reason"] for delivery in deliveries(governor, webhook)] == ["unreachable"])


def test_what_nobody_tries_is_late(governor: Client, app: Flask, database: Database) -> None:
    """Without a worker, nobody tries the delivery when it is due."""
    repositories = app.extensions["chat_service"]
    webhook = create(governor, "http://127.0.0.1:9/")
    assert repositories.health.webhooks(1).late == timedelta()
    repositories.deliveries.test(governor.access.tenant_id, webhook["id"])
    database.deliveries.update_one({}, {"$set": {"due_at": database.now() - timedelta(hours=1)}})
    assert timedelta(hours=1) <= repositories.health.webhooks(1).late < timedelta(hours=1, minutes=5)


class TestTheRecord:
    def test_the_answer(self, app: Flask, governor: Client, new_tenant) -> None:
        webhook = create(governor, "https://example.com/hook", kinds=["chat.deleted", "chat.deleted"])
        assert webhook.pop("secret").startswith("whsec_")
        assert list(webhook) == [
            "id",
            "url",
            "kinds",
            "enabled",
            "disabled_by",
            "created_at",
            "created_by",
            "position",
        ]
        assert webhook["kinds"] == ["chat.deleted"]
        assert governor.send("GET", f"{WEBHOOKS}/{webhook['id']}").get_json() == webhook, "the secret is shown once"
        assert governor.send("GET", WEBHOOKS).get_json() == {"items": [webhook], "next_cursor": None}
        changed = governor.send("PATCH", f"{WEBHOOKS}/{webhook['id']}", json={"kinds": None, "enabled": False})
        assert (changed.get_json()["kinds"], changed.get_json()["disabled_by"]) == (None, "key")
        other = Client(app, new_tenant(*Scope))
        for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate"), ("GET", "/deliveries")):
            body = {"json": {"enabled": True}} if method == "PATCH" else {}
            answers = [
                other.send(method, f"{WEBHOOKS}/{webhook_id}{path}", **body)
                for webhook_id in (webhook["id"], UNKNOWN, "x")
            ]
            assert {(answer.status_code, answer.get_json()["code"]) for answer in answers} == {
                (404, "webhook_not_found")
            }
        assert governor.send("DELETE", f"{WEBHOOKS}/{webhook['id']}").status_code == 204
        assert governor.send("DELETE", f"{WEBHOOKS}/{webhook['id']}").status_code == 404

    def test_the_secret_is_sealed(self, governor: Client, database: Database) -> None:
        webhook = create(governor, "https://example.com/hook")
        assert webhook["secret"][6:40] not in str(list(database.webhooks.find({})))

    def test_a_repetition_makes_no_second_one(self, governor: Client) -> None:
        """It gets the same secret, because the first answer may have been lost."""
        body = {"json": {"url": "https://example.com/hook"}, "headers": {"Idempotency-Key": "k"}}
        first, again = (governor.send("POST", WEBHOOKS, **body) for _ in range(2))
        assert first.get_json() == again.get_json()
        assert len(governor.send("GET", WEBHOOKS).get_json()["items"]) == 1

    def test_there_is_an_end_to_them(self, governor: Client) -> None:
        for _ in range(20):
            create(governor, "https://example.com/hook")
        answer = governor.send("POST", WEBHOOKS, json={"url": "https://example.com/hook"})
        assert (answer.status_code, answer.get_json()["code"]) == (409, "too_many_webhooks")

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"url": "example.com"},
            {"url": "ftp://example.com/"},
            {"url": "https://user:pass@example.com/"},
            {"url": "https://example.com/#x"},
            {"url": "https://example.com:0/"},
            {"url": "https://example.com:99999/"},
            {"url": "https:///x"},
            {"url": "https://exämple.com/"},
            {"url": "https://example.com/" + "x" * 2_048},
            {"url": "https://example.com/", "kinds": []},
            {"url": "https://example.com/", "kinds": ["chat.renamed"]},
        ],
    )
    def test_what_is_wrong_is_told(self, governor: Client, body: dict[str, Any]) -> None:
        assert governor.send("POST", WEBHOOKS, json=body).status_code == 422
        assert governor.send("GET", WEBHOOKS).get_json()["items"] == []
