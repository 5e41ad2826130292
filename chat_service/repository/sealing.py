"""Encryption of secrets that must be readable again: they are stored sealed, with a key that is not in the database."""

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from chat_service.errors import SecretsUnreadableError, WebhooksOffError


class Sealer:
    """Seals secrets with the first of the operator's keys, and opens them with any of the keys."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = MultiFernet([Fernet(key) for key in keys]) if keys else None

    @property
    def is_ready(self) -> bool:
        """Whether there is a key."""
        return self._keys is not None

    def seal(self, secret: bytes) -> bytes:
        """Return the secret in encrypted form, as it is stored.

        Raises:
            WebhooksOffError: there is no key.
        """
        if self._keys is None:
            raise WebhooksOffError
        return self._keys.encrypt(secret)

    def open(self, sealed: bytes) -> bytes:
        """Return the secret in plain form.

        Raises:
            WebhooksOffError: there is no key.
            SecretsUnreadableError: it was sealed with none of the keys.
        """
        if self._keys is None:
            raise WebhooksOffError
        try:
            return self._keys.decrypt(sealed)
        except InvalidToken:
            raise SecretsUnreadableError from None


def new_key() -> str:
    """Return a new random key."""
    return Fernet.generate_key().decode()


def is_key(text: str) -> bool:
    """Return whether a text is a key: 32 bytes in url-safe base64."""
    try:
        Fernet(text)
    except ValueError:
        return False
    return True
