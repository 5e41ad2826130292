"""Pages of lists that are sorted from the latest to the earliest, and round-robin turns of tenants."""

from collections.abc import Sequence
from typing import Any

from pymongo import ASCENDING, DESCENDING

from chat_service.models import ListPosition

Document = dict[str, Any]


def latest_first(  # noqa: PLR0913 - which documents, in which order, and which page
    collection: Any,
    condition: Document,
    time: str,
    limit: int,
    after: ListPosition | None,
    *,
    id_field: str = "_id.chat_id",
    fields: Document | None = None,
) -> list[Document]:
    """Return the `fields` of up to `limit` documents that come after a position in the list. One command.

    The list is sorted from the latest `time` to the earliest, and by `id_field` where the times are the same.
    """
    if after is not None:
        # The bound is redundant with the `$or`, but lets the index scan start there.
        bound = {time: {**condition.get(time, {}), "$lte": after.at}}
        condition = {**condition, **bound, "$or": [{time: {"$lt": after.at}}, {id_field: {"$gt": after.id}}]}
    order = [(time, DESCENDING), (id_field, ASCENDING)]
    return list(collection.find(condition, fields, sort=order, limit=limit, batch_size=limit + 1))


def next_in_turn(waiting: Sequence[str], after: str) -> str:
    """Return whose turn it is: the first of the `waiting` tenants, sorted by id, after the tenant that was last."""
    return next((tenant_id for tenant_id in waiting if tenant_id > after), waiting[0])
