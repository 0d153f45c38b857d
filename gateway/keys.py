"""What a bearer key looks like, and what is kept of it: an id to find it by and a hash to check it.

Pure functions; knows no store. A key is `tw_<id>_<secret>`. A key of an operator's own making may
look otherwise: its id is then taken from its hash, so that it is found the same way.
"""

from __future__ import annotations

import hmac
import re
import secrets
from datetime import datetime

MANAGE_SCOPE = "manage"  # the tenant's own keys and audit log, in the dashboard
TENANT_SCOPES = ("chat", "conversations", "costs", "route", "turns", "min_tier", MANAGE_SCOPE)
ADMIN_SCOPE = "admin"
DEFAULT_SCOPES = frozenset(TENANT_SCOPES) - {"min_tier", MANAGE_SCOPE}

_SHAPE = re.compile(r"tw_([0-9a-f]{16})_[A-Za-z0-9_-]{32,128}")


def new_key() -> str:
    """Return a fresh key: 64 bits of id, 256 bits of secret."""
    return f"tw_{secrets.token_hex(8)}_{secrets.token_urlsafe(32)}"


def hash_of(token: str, pepper: bytes) -> str:
    """Return the only thing kept of a key: its HMAC-SHA-256 with the pepper, in hex."""
    return hmac.digest(pepper, token.encode("utf-8", "surrogatepass"), "sha256").hex()


def id_of(token: str, token_hash: str) -> str:
    """Return the public id of a key, given its hash."""
    match = _SHAPE.fullmatch(token)
    return match[1] if match else f"x{token_hash[:15]}"


def is_same_hash(one: str, other: str) -> bool:
    """Return whether two hashes are equal, in time that does not depend on where they differ."""
    return hmac.compare_digest(one, other)


def is_expired(expires_at: datetime | None, now: datetime) -> bool:
    """Return whether a key's time is over; None never ends."""
    return expires_at is not None and expires_at <= now
