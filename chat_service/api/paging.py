"""Lists, page by page: `items`, and `next_cursor`, at which the next page begins; null if there is none."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from chat_service.api import cursors
from chat_service.api.context import caller
from chat_service.models import ListPosition

ListView = Callable[..., list[Any]]

T = TypeVar("T")


def page_of(
    fetch: Callable[[int], list[T]],
    limit: int,
    cursor_after: Callable[[T], str],
    is_full: Callable[[list[T]], bool] = lambda _: False,
) -> dict[str, Any]:
    """Return a page of up to `limit` items of `fetch`; `is_full` tells that more may follow although they are fewer."""
    items = fetch(limit + 1)  # one more than the page holds tells whether there is a next page
    shown = items[:limit]
    has_next = len(items) > limit or is_full(items)
    return {"items": shown, "next_cursor": cursor_after(shown[-1]) if has_next else None}


def paged(name: str, position_of: Callable[[Any], ListPosition]) -> Callable[[ListView], Callable[..., dict[str, Any]]]:
    """Page a list that runs from the latest time to the earliest.

    The view gets the position `after` which to list, the `limit`, and the other parameters of the query and the path. A
    cursor is valid only for the list of this name, tenant and path.
    """

    def decorate(view: ListView) -> Callable[..., dict[str, Any]]:
        @wraps(view)
        def list_page(query: dict[str, Any], **path: Any) -> dict[str, Any]:
            owners = (name, caller().tenant_id, *path.values())
            after = cursors.read_position(query.pop("cursor"), *owners)
            return page_of(
                lambda limit: view(**{**query, **path, "limit": limit, "after": after}),
                query["limit"],
                lambda last: cursors.write_position(position_of(last), *owners),
            )

        return list_page

    return decorate
