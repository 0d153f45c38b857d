"""Session: who is signed in to the dashboard, in a signed cookie; and the token that guards forms.

Owns the cookie's text and what it stands for. Keeps nothing: a session names a key, and the key is
looked up on every page, so that a revoked key ends its sessions at once.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import orjson

from gateway.auth import Authenticator
from gateway.errors import InsufficientScope, InvalidKey
from gateway.keys import ADMIN_SCOPE, MANAGE_SCOPE, is_expired, is_same_hash
from gateway.tenants import Tenant, TenantStore

COOKIE = "turnwise_session"
LIFETIME_S = 12 * 3600
ENVIRONMENT = "environment"
Role = Literal["tenant viewer", "tenant admin", "platform admin"]


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks at a page. `tenant` is None for a platform administrator, who may see them all."""

    key_id: str
    scopes: frozenset[str]
    tenant: Tenant | None
    csrf: str

    @property
    def role(self) -> Role:
        """What the viewer is called in the page and in the audit log."""
        if self.tenant is None:
            return "platform admin"
        return "tenant admin" if MANAGE_SCOPE in self.scopes else "tenant viewer"

    def may(self, scope: str) -> bool:
        """Return whether the viewer's key covers a scope."""
        return self.tenant is None or scope in self.scopes

    def require(self, scope: str) -> None:
        """Pass when the viewer's key covers the scope.

        Raises:
            InsufficientScope: it does not.
        """
        if not self.may(scope):
            raise InsufficientScope(scope)


class Sessions:
    """Makes and reads the cookie's text.

    Args:
        tenants: where keys are looked up.
        authenticator: checks the key that is given at sign-in.
        secret: signs; the pepper of the key hashes.
        admin_key: the administrator's key from the environment, None when there is none.
        clock: aware UTC now.
    """

    def __init__(
        self,
        tenants: TenantStore,
        authenticator: Authenticator,
        *,
        secret: bytes,
        admin_key: str | None,
        clock: Callable[[], datetime],
    ) -> None:
        self._tenants = tenants
        self._authenticator = authenticator
        self._secret = hmac.digest(secret, b"dashboard session", "sha256")
        # A new key in the environment ends the sessions of the old one.
        self._admin_mark = None if admin_key is None else tenants.hash_of(admin_key)[:16]
        self._clock = clock

    async def sign_in(self, key: str) -> str:
        """Return the cookie's text for a key.

        Raises:
            InvalidKey: the key is unknown, revoked or expired.
            AuthUnavailable: the record cannot be read.
        """
        headers = {"authorization": f"Bearer {key.strip()}"}
        try:
            admin = await self._authenticator.authenticate_admin(headers)
        except InsufficientScope:
            principal = await self._authenticator.authenticate(headers)
            return self._seal(principal.key_id)
        return self._seal(admin.key_id)

    async def viewer_of(self, text: str | None) -> Viewer:
        """Return who a cookie stands for.

        Raises:
            InvalidKey: it is no cookie of ours, or too old, or its key is gone.
        """
        key_id, mark = self._open(text or "")
        csrf = self._sign(_bytes_of(f"form:{text}"))
        if key_id == ENVIRONMENT:
            if self._admin_mark is None or not is_same_hash(mark, self._admin_mark):
                raise InvalidKey("The administrator's key has changed.")
            return Viewer(ENVIRONMENT, frozenset({ADMIN_SCOPE}), None, csrf)
        stored = await self._tenants.find_key(key_id)
        if (
            stored is None
            or stored.key.revoked_at is not None
            or is_expired(stored.key.expires_at, self._clock())
        ):
            raise InvalidKey("The key of this session is revoked or expired.")
        return Viewer(key_id, stored.key.scopes, stored.tenant, csrf)

    def _seal(self, key_id: str) -> str:
        mark = self._admin_mark if key_id == ENVIRONMENT else ""
        ends_s = int(self._clock().timestamp()) + LIFETIME_S
        payload = orjson.dumps([key_id, mark, ends_s, secrets.token_hex(8)])
        body = base64.urlsafe_b64encode(payload).decode().rstrip("=")
        return f"{body}.{self._sign(body.encode())}"

    def _open(self, text: str) -> tuple[str, str]:
        body, _, signature = text.partition(".")
        # Bytes: a cookie may hold anything, and texts beyond ASCII cannot be compared in even time.
        ours, theirs = self._sign(_bytes_of(body)).encode(), _bytes_of(signature)
        if not hmac.compare_digest(ours, theirs):
            raise InvalidKey("Nobody is signed in.")
        key_id, mark, ends_s, _ = orjson.loads(base64.urlsafe_b64decode(body + "=="))
        if self._clock().timestamp() >= ends_s:
            raise InvalidKey("The session is over.")
        return key_id, mark

    def _sign(self, payload: bytes) -> str:
        return hmac.digest(self._secret, payload, "sha256").hex()


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
