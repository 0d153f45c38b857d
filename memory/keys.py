"""Every Redis key name and lifetime of this package.

One conversation owns a fixed set of keys under one hash tag, so that each script touches one
Cluster slot and deletion needs no scan. Names of the caller's own making are arbitrary text and
never reach a key: they are hashed, and the name itself lives inside the conversation's record.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b

from memory.errors import InvalidConversationId

MAX_ID_CHARACTERS = 256
TOMBSTONE_S = 30 * 24 * 3600
IDEMPOTENCY_ENTRIES = 2048
"""Appends remembered per conversation for replay; older ones are forgotten first."""

JOBS = "tw:{memory-jobs}"
"""The stream of background work of all tenants: ids of keys, no text and no names."""

_OURS = re.compile(r"conv_[0-9a-z]{1,64}", re.ASCII)


def is_ours(conversation_id: str) -> bool:
    """Return whether only we may have made this id: such a one is never created implicitly."""
    return conversation_id.startswith("conv_")


def check_conversation_id(conversation_id: str) -> None:
    """Accept any text of 1 to 256 characters.

    Raises:
        InvalidConversationId: otherwise, and for lone surrogates, which no UTF-8 can carry.
    """
    if not conversation_id:
        raise InvalidConversationId("is empty")
    if len(conversation_id) > MAX_ID_CHARACTERS:
        raise InvalidConversationId(f"is longer than {MAX_ID_CHARACTERS} characters")
    try:
        conversation_id.encode()
    except UnicodeEncodeError as error:
        raise InvalidConversationId("holds a lone surrogate") from error


@dataclass(frozen=True, slots=True)
class ConversationKeys:
    """The keys of one conversation; `all` is everything that a deletion removes."""

    meta: str
    log: str
    idempotency: str
    idempotency_order: str
    segments: str
    vectors: str
    vector_set: str
    tombstone: str

    @property
    def all(self) -> tuple[str, ...]:
        """Every key that holds the conversation's data, the tombstone apart."""
        return (
            self.meta,
            self.log,
            self.idempotency,
            self.idempotency_order,
            self.segments,
            self.vectors,
            self.vector_set,
        )


def conversation_keys(tenant: str, conversation_id: str) -> ConversationKeys:
    """Return the keys of a conversation; two different (tenant, id) pairs never share one.

    Raises:
        InvalidConversationId: see check_conversation_id.
    """
    check_conversation_id(conversation_id)
    return keys_of_slug(tenant, slug_of(conversation_id))


def keys_of_slug(tenant: str, slug: str) -> ConversationKeys:
    """Return the keys of a conversation whose id is known only as slug_of() made it."""
    base = f"tw:{{t:{tenant}:c:{slug}}}"
    return ConversationKeys(
        meta=f"{base}:meta",
        log=f"{base}:log",
        idempotency=f"{base}:idem",
        idempotency_order=f"{base}:idem-order",
        segments=f"{base}:segments",
        vectors=f"{base}:vectors",
        vector_set=f"{base}:set",
        tombstone=f"{base}:gone",
    )


def conversations_pattern(tenant: str) -> str:
    """Return what the `meta` keys of all conversations of a tenant match, and no other key."""
    return f"tw:{{t:{tenant}:c:*}}:meta"


def kept_pattern(tenant: str) -> str:
    """Return what a tenant's keys outside its conversations match."""
    return f"tw:{{t:{tenant}}}:*"


def embedding_key(tenant: str, revision: str, digest: str) -> str:
    """Return the key of one text's encoding in a tenant's share of the embedding cache."""
    return f"tw:{{t:{tenant}}}:emb:{revision}:{digest}"


def traces_key(tenant: str, subject: str) -> str:
    """Return the key of the set that names what is kept about a subject; it holds no name."""
    digest = blake2b(subject.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
    return f"tw:{{t:{tenant}}}:of:{digest}"


def kept_index_key(tenant: str) -> str:
    """Return the key of a tenant's index of cached answers."""
    return f"tw:{{t:{tenant}}}:cache-index"


def slug_of(conversation_id: str) -> str:
    """Return an id as it stands in keys: our own readable, any other hashed."""
    if _OURS.fullmatch(conversation_id):
        return conversation_id
    return "n" + blake2b(conversation_id.encode(), digest_size=20).hexdigest()
