"""The expiry: deletes chats whose time in the trash is over. Nobody could restore them any more before it came by."""

from chat_service.repository.trash import Trash

BATCH_CHATS = 64
"""Of a tenant, before the next one has its turn."""

REST_SECONDS = 5.0


class TrashExpiry:
    """One worker; it takes the tenants in turns."""

    name = "trash-expiry"
    rest_seconds = REST_SECONDS

    def __init__(self, trash: Trash) -> None:
        self._trash = trash
        self._last_tenant = ""

    def run_once(self) -> int | None:
        """Delete some chats of one tenant, and return how many; None if no chat is due.

        Raises:
            DatabaseUnavailableError, OutcomeUnknownError: those that are left are found again.
        """
        waiting = self._trash.tenants_with_due()
        if not waiting:
            return None
        self._last_tenant = next((one for one in waiting if one > self._last_tenant), waiting[0])
        return self._trash.delete_due(self._last_tenant, BATCH_CHATS)

    def is_done(self) -> bool:
        """Tell whether no chat is due."""
        return not self._trash.tenants_with_due()
