"""Secrets that have to be known again, as they are stored: sealed with a key that the database does not have."""

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from chat_service.errors import SecretsUnreadableError, WebhooksOffError


class Sealer:
    """Seals and opens secrets with the operator's keys: with the first one, and with any of them."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = MultiFernet([Fernet(key) for key in keys]) if keys else None

    @property
    def is_ready(self) -> bool:
        """Whether there is a key."""
        return self._keys is not None

    def seal(self, secret: bytes) -> bytes:
        """Return what is stored of a secret.

        Raises:
            WebhooksOffError: there is no key.
        """
        if self._keys is None:
            raise WebhooksOffError
        return self._keys.encrypt(secret)

    def open(self, sealed: bytes) -> bytes:
        """Return the secret.

        Raises:
            WebhooksOffError: there is no key.
            SecretsUnreadableError: none of the keys has sealed it.
        """
        if self._keys is None:
            raise WebhooksOffError
        try:
            return self._keys.decrypt(sealed)
        except InvalidToken:
            raise SecretsUnreadableError from None


def new_key() -> str:
    """Return a new key."""
    return Fernet.generate_key().decode()


def is_key(text: str) -> bool:
    """Tell whether a text is a key: 32 bytes in url-safe base64."""
    try:
        Fernet(text)
    except ValueError:
        return False
    return True
