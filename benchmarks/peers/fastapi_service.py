"""DELETE of a chat by FastAPI and pymongo's asynchronous client, as their users write it.

The transaction is the same: presence, chat, messages, receipt, commit, on the same documents. What else our
service does for a delete is missing: group commit, deadlines, an honest answer to a lost commit, purges of large chats,
conditions, idempotency, turns between tenants, metrics. Its API keys are in a dictionary, which is the cheapest way.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import APIKeyHeader
from pydantic import BaseModel
from pymongo import AsyncMongoClient
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

TENANTS = {os.environ["API_KEY"]: os.environ["TENANT_ID"]}

client = AsyncMongoClient[dict[str, Any]](os.environ["MONGODB_URI"], tz_aware=True)
db = client.get_default_database()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Connect before the first request, and close the client after the last."""
    await client.aconnect()
    yield
    await client.close()


app = FastAPI(lifespan=lifespan)


class Receipt(BaseModel):
    """The response to a delete."""

    chat_id: UUID
    deleted_at: datetime
    message_count: int


def tenant_of(api_key: Annotated[str, Depends(APIKeyHeader(name="X-API-Key"))]) -> str:
    """Return the tenant of an API key."""
    if api_key not in TENANTS:
        raise HTTPException(401, "unknown key")
    return TENANTS[api_key]


@app.delete("/api/v1/chats/{chat_id}")
async def delete_chat(chat_id: UUID, tenant_id: Annotated[str, Depends(tenant_of)]) -> Receipt:
    """Delete the chat with all its messages in one transaction."""

    async def work(session: AsyncClientSession) -> Receipt:
        key = {"tenant_id": tenant_id, "chat_id": str(chat_id)}
        if await db.presence.find(key, {"_id": False, "expires_at": True}, session=session).to_list():
            raise HTTPException(409, "the chat has live connections")
        if await db.chats.find_one_and_delete({"_id": key}, projection={"_id": True}, session=session) is None:
            raise HTTPException(404, "no such chat")
        messages = {"$gte": {**key, "seq": 0}, "$lte": {**key, "seq": 2**63 - 1}}
        removed = await db.messages.delete_many({"_id": messages}, session=session)
        now = datetime.now(UTC)
        receipt = {"_id": key, "deleted_at": now, "message_count": removed.deleted_count, "requested_by": "bench"}
        await db.deletions.insert_one(receipt, session=session)
        return Receipt(chat_id=chat_id, deleted_at=now, message_count=removed.deleted_count)

    async with client.start_session() as session:
        return await session.with_transaction(
            work, read_concern=ReadConcern("snapshot"), write_concern=WriteConcern(w="majority", j=True)
        )
