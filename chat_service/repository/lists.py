"""What lists are read by, from the latest to the earliest and page by page, and the turns that tenants take."""

from collections.abc import Sequence
from typing import Any

from pymongo import ASCENDING, DESCENDING

from chat_service.models import ListPosition

Document = dict[str, Any]


def latest_first(  # noqa: PLR0913 - which documents, in which order, and which stretch of them
    collection: Any,
    condition: Document,
    time: str,
    limit: int,
    after: ListPosition | None,
    *,
    id_field: str = "_id.chat_id",
    fields: Document | None = None,
) -> list[Document]:
    """Return these fields of up to `limit` documents that come after a place in the list. One command.

    The list runs from the latest `time` to the earliest, and by `id_field` where the times are the same.
    """
    if after is not None:
        # The bound is said twice: the first is what the index can start from.
        bound = {time: {**condition.get(time, {}), "$lte": after.at}}
        condition = {**condition, **bound, "$or": [{time: {"$lt": after.at}}, {id_field: {"$gt": after.id}}]}
    order = [(time, DESCENDING), (id_field, ASCENDING)]
    return list(collection.find(condition, fields, sort=order, limit=limit, batch_size=limit + 1))


def next_in_turn(waiting: Sequence[str], after: str) -> str:
    """Return which of the tenants that wait, in the order of their ids, has its turn after the one that had it last."""
    return next((one for one in waiting if one > after), waiting[0])
