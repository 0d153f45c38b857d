"""JournaledLog: the log in Redis, with a journal on local disk that takes what Redis does not.

Owns when an append is journaled, and bringing the journal to Redis. Knows no copies in the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis.exceptions import RedisError

from memory.conversation import Message
from memory.errors import Journaled, MemoryFault
from memory.journal import Journal, JournalEntry
from memory.opened import OpenConversation
from memory.records import Draft, milliseconds_of, time_of
from memory.replies import Appended
from memory.store import ConversationStore

STORE_FAILURES = (RedisError, OSError, TimeoutError)


class JournaledLog:
    """Appends of this process.

    Args:
        store: the log in Redis.
        journal: None leaves an append that Redis does not take to its caller.
        on_failure: told of every failure that an append survives, to be counted.
    """

    def __init__(
        self,
        store: ConversationStore,
        journal: Journal | None,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._store = store
        self._journal = journal
        self._on_failure = on_failure

    async def append(
        self,
        opened: OpenConversation,
        messages: Sequence[Message | Draft],
        *,
        idempotency_key: str | None,
        expected_tip: str | None,
        parent: str | None,
        instructions: str | None,
        metadata: Mapping[str, Any] | None,
        retention_s: float | None,
    ) -> Appended:
        """Store messages, or journal them behind those that wait there; see `Memory.append`.

        What names its tip or its parent is never journaled: by the time it were replayed, that
        could be another.

        Raises:
            Journaled: they are on local disk and go to Redis when it is back.
            RedisError, OSError, TimeoutError: they are nowhere.
        """
        before, said_at = opened.conversation, self._store.now()
        may_wait = expected_tip is None and parent is None
        journal = self._journal if may_wait else None
        if idempotency_key is None and journal is not None:
            idempotency_key = self._store.new_key()  # replaying must not double what was stored

        def entry() -> JournalEntry:
            return JournalEntry(
                tenant=before.tenant,
                conversation_id=before.id,
                drafts=_drafts_to_wire(messages),
                idempotency_key=idempotency_key or "",
                at_ms=milliseconds_of(said_at),
                may_create=not opened.exists,
                generation=opened.generation,
                instructions=instructions,
                metadata=None if metadata is None else dict(metadata),
                retention_s=retention_s,
            )

        if journal is not None and journal.holds(before.tenant, before.id):
            await journal.write(entry())
            raise Journaled
        try:
            return await self._store.append_all(
                before.tenant,
                before.id,
                messages,
                idempotency_key=idempotency_key,
                expected_tip=expected_tip,
                expected_generation=opened.generation,
                parent=parent,
                create="never" if opened.exists else "missing",
                instructions=None if instructions == before.instructions else instructions,
                metadata=metadata,
                retention_s=retention_s,
                at=said_at,
            )
        except STORE_FAILURES as error:
            if journal is None:
                raise
            await journal.write(entry())
            raise Journaled from error

    async def replay(self) -> int:
        """Bring the appends that wait in the journal to Redis; return how many.

        Raises:
            RedisError, OSError, TimeoutError: if Redis is still away; nothing is lost.
        """
        return 0 if self._journal is None else await self._journal.replay(self._replay_entry)

    async def replay_forever(self, every_s: float) -> None:
        """Replay again and again, so many seconds apart; returns only where there is no journal."""
        while self._journal is not None:
            try:
                await self.replay()
            except STORE_FAILURES as error:
                if not self._journal.is_empty:
                    self._on_failure(error)
            await asyncio.sleep(every_s)

    async def close(self) -> None:
        """Let go of the journal; safe to call twice."""
        if self._journal is not None:
            await self._journal.close()

    async def _replay_entry(self, entry: JournalEntry) -> None:
        try:
            await self._store.append_all(
                entry.tenant,
                entry.conversation_id,
                entry.messages(),
                idempotency_key=entry.idempotency_key,
                expected_generation=entry.generation,
                create="missing" if entry.may_create else "never",
                instructions=entry.instructions,
                metadata=entry.metadata,
                retention_s=entry.retention_s,
                at=time_of(entry.at_ms),
            )
        except MemoryFault as error:
            # Deleted or never made: there is no place for it any more.
            self._on_failure(error)


def _drafts_to_wire(messages: Sequence[Message | Draft]) -> list[dict[str, Any]]:
    drafts = [m if isinstance(m, Draft) else Draft(m) for m in messages]
    return [{"m": draft.message.to_wire(), "d": dict(draft.metadata)} for draft in drafts]
