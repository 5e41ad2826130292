"""What deleting a chat would do."""

from typing import Any

from pymongo import ASCENDING, DESCENDING

from chat_service.errors import ChatNotFoundError
from chat_service.models import DeletionPreview
from chat_service.repository.database import Database
from chat_service.repository.keys import living, own_messages
from chat_service.repository.presence import Presence
from chat_service.repository.protection import refusal

SAMPLE_MESSAGES = 1_000
"""Messages from each end of a chat to estimate its size from: takes milliseconds; measuring a million takes seconds."""


class Previews:
    """Previews the deletion of chats."""

    def __init__(self, database: Database, inline_limit: int) -> None:
        self._database = database
        self._presence = Presence(database)
        self._inline_limit = inline_limit

    def get(self, tenant_id: str, chat_id: str) -> DeletionPreview:
        """Return what deleting the chat now would do.

        Raises:
            ChatNotFoundError: absent, deleted or another tenant's.
        """
        with self._database.operation():
            connections = self._presence.count(self._database.unbound(), tenant_id, chat_id).live
            chat = self._database.chats.find_one(living(tenant_id, chat_id, self._database.now()))
            if chat is None:
                raise ChatNotFoundError
            refused = refusal(self._database.unbound(), tenant_id, chat_id, chat)
            count = chat["message_count"]
            sampled, size = self._sample(chat) if count else (0, 0)
        return DeletionPreview(
            chat_id=chat_id,
            message_count=count,
            active_connections=connections,
            bytes=size * count // sampled if sampled else 0,
            bytes_estimated=count > SAMPLE_MESSAGES,
            staged=count > self._inline_limit,
            revision=chat["revision"],
            held=refused is not None,
            holds=refused.holds if refused else None,
        )

    def _sample(self, chat: dict[str, Any]) -> tuple[int, int]:
        """Return the number and the bytes of a sample of the chat's messages, from both ends if there are many."""
        sums: list[dict[str, Any]] = []
        for direction in (ASCENDING, DESCENDING) if chat["message_count"] > SAMPLE_MESSAGES else (ASCENDING,):
            pipeline: list[dict[str, Any]] = [
                {"$match": {"_id": own_messages(chat)}},
                {"$sort": {"_id": direction}},
                {"$limit": SAMPLE_MESSAGES},
                {"$group": {"_id": None, "messages": {"$sum": 1}, "bytes": {"$sum": {"$bsonSize": "$$ROOT"}}}},
            ]
            sums.extend(self._database.messages.aggregate(pipeline))
        return sum(part["messages"] for part in sums), sum(part["bytes"] for part in sums)
