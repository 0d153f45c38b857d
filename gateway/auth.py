"""From the key of a request to the tenant it stands for, out of process memory when warm.

Owns what may be remembered and for how long. The record is `tenants.py`'s. A change made in this
process holds at once, one made in another when it is announced (`forget`), or else within
`CHECK_EVERY_S`. Where the database does not answer, keys already known go on working for `GRACE_S`,
after which every key is refused.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import AuthUnavailable, InsufficientScope, InvalidKey
from gateway.keys import ADMIN_SCOPE, id_of, is_expired, is_same_hash
from gateway.tenants import StoredKey, Tenant

log = logging.getLogger("turnwise.auth")

CHECK_EVERY_S = 2.0
GRACE_S = 30.0
_MOST_REMEMBERED = 50_000


class KeyRecord(Protocol):
    """What authentication asks of the tables of keys."""

    n_changes: int

    def hash_of(self, token: str) -> str:
        """Return the hash under which a key is kept."""
        ...

    async def find_key(self, key_id: str) -> StoredKey | None:
        """Return a key by id, None when there is none."""
        ...

    async def version(self) -> int:
        """Return a number that every change raises."""
        ...


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: the tenant, the id of the key, and what the key may do."""

    tenant: Tenant
    key_id: str
    scopes: frozenset[str]

    def require(self, scope: str) -> None:
        """Pass when the key has the scope.

        Raises:
            InsufficientScope: it has not.
        """
        if scope not in self.scopes:
            raise InsufficientScope(scope)


@dataclass(frozen=True, slots=True)
class Admin:
    """An administrator; `key_id` is `environment` for the key of TURNWISE_ADMIN_KEY."""

    key_id: str


class Authenticator:
    """Answers who asks.

    Args:
        store: the record of keys.
        admin_key: the administrator's key from the environment, None when there is none.
        clock: aware UTC now, against which keys expire.
        monotonic_s: seconds that never go back, against which memory ages.
    """

    def __init__(
        self,
        store: KeyRecord,
        *,
        admin_key: str | None,
        clock: Callable[[], datetime],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._admin_hash = None if admin_key is None else store.hash_of(admin_key)
        self._clock = clock
        self._monotonic_s = monotonic_s
        # A key that is not in the record is remembered as None.
        self._known: dict[str, StoredKey | None] = {}
        # Tokens whose hash was compared: found again by a cheaper keyed hash, never by themselves.
        self._compared: dict[bytes, StoredKey] = {}
        self._compared_key = secrets.token_bytes(32)
        self._n_changes = store.n_changes
        self._version: int | None = None
        self._checked_s = self._asked_s = float("-inf")
        self._is_failing = False

    async def authenticate(self, headers: Mapping[str, str]) -> Principal:
        """Return the principal of a request, given its headers (names in lower case).

        Raises:
            InvalidKey: no key, or one that is unknown, revoked, expired or an administrator's.
            AuthUnavailable: the record cannot be read.
        """
        stored = await self._stored(_token_in(headers))
        if stored.tenant is None:
            raise InvalidKey("This is an administrator's key; a tenant's key is needed here.")
        return Principal(stored.tenant, stored.key.id, stored.key.scopes)

    async def authenticate_admin(self, headers: Mapping[str, str]) -> Admin:
        """Return the administrator of a request, given its headers (names in lower case).

        Raises:
            InvalidKey: no key, or one that is unknown, revoked or expired.
            InsufficientScope: a tenant's key.
            AuthUnavailable: the record cannot be read.
        """
        token = _token_in(headers)
        if self._admin_hash is not None and is_same_hash(
            self._admin_hash, self._store.hash_of(token)
        ):
            return Admin("environment")
        stored = await self._stored(token)
        if ADMIN_SCOPE not in stored.key.scopes or stored.tenant is not None:
            raise InsufficientScope(ADMIN_SCOPE)
        return Admin(stored.key.id)

    async def forget(self) -> None:
        """Read every key anew: something changed, here or in another process."""
        self._version = None
        self._forget()

    async def _stored(self, token: str) -> StoredKey:
        await self._forget_what_changed()
        place = blake2b(token.encode("utf-8", "surrogateescape"), key=self._compared_key).digest()
        stored = self._compared.get(place)
        if stored is None:
            stored = await self._compare(token, place)
        if is_expired(stored.key.expires_at, self._clock()):
            raise InvalidKey("Incorrect API key provided.")
        return stored

    async def _compare(self, token: str, place: bytes) -> StoredKey:
        token_hash = self._store.hash_of(token)
        key_id = id_of(token, token_hash)
        try:
            stored = self._known[key_id]
        except KeyError:
            stored = await self._find(key_id)
        if (
            stored is None
            or not is_same_hash(stored.hash, token_hash)
            or stored.key.revoked_at is not None
        ):
            raise InvalidKey("Incorrect API key provided.")
        if self._known.get(key_id) is stored:  # remembered, so forgotten when something changes
            self._compared[place] = stored
        return stored

    async def _find(self, key_id: str) -> StoredKey | None:
        n_changes, version = self._n_changes, self._version
        try:
            stored = await self._store.find_key(key_id)
        except (SQLAlchemyError, OSError) as error:
            self._failed(error)
            raise AuthUnavailable("Keys cannot be checked at the moment.") from error
        # What was read while something changed is used once and not remembered.
        if (n_changes, version) == (self._store.n_changes, self._version):
            if len(self._known) >= _MOST_REMEMBERED:
                self._forget()
            self._known[key_id] = stored
        return stored

    def _forget(self) -> None:
        self._known.clear()
        self._compared.clear()

    async def _forget_what_changed(self) -> None:
        if self._store.n_changes != self._n_changes:
            self._n_changes = self._store.n_changes
            self._forget()
        now_s = self._monotonic_s()
        if now_s - self._asked_s < CHECK_EVERY_S:
            # Someone asks or has just asked; only when that failed for long must all be refused.
            if now_s - self._checked_s > GRACE_S and self._is_failing:
                raise AuthUnavailable("Keys cannot be checked at the moment.")
            return
        self._asked_s = now_s
        try:
            version = await self._store.version()
        except (SQLAlchemyError, OSError) as error:
            self._failed(error)
            if now_s - self._checked_s > GRACE_S:
                raise AuthUnavailable("Keys cannot be checked at the moment.") from error
            return
        self._checked_s = now_s
        if self._is_failing:
            self._is_failing = False
            log.warning("the database of keys answers again")
        if version != self._version:
            self._version = version
            self._forget()

    def _failed(self, error: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            log.error("the database of keys cannot be read: %s", error)


def _token_in(headers: Mapping[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        token = headers.get("x-api-key", "")
    token = token.strip()
    if not token:
        raise InvalidKey(
            "No API key provided: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`."
        )
    return token
