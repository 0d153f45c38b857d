"""Eraser: everything that knows of a conversation, an item or an end user, and forgets it.

Owns the order: what only the log can name goes before the log, the books last, so that whatever
fails in between can be asked for again. What was spent stays in the books, without a name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from memory.embedding_cache import EmbeddingCache
from memory.memory import Memory
from memory.remembered import encoded_as, names_of
from memory.traces import Subject, Traces, of_conversation, of_end_user
from policies.books import Books
from policies.erasure import anonymise, conversations_of

_ENCODINGS_LAST = timedelta(hours=25)  # a text's encoding is kept for a day
_PAGE_ITEMS = 200


@dataclass(frozen=True, slots=True)
class Erased:
    """What went: names of conversations, kept answers, and rows that lost their name."""

    conversations: tuple[str, ...]
    n_answers: int
    n_turns: int
    n_attempts: int


class Eraser:
    """Forgets on behalf of a tenant.

    Args:
        memory: the conversations.
        encodings: what texts were encoded to; None where nothing is encoded.
        traces: the stores of kept answers.
        books: the ledger of record.
        clock: the time now, aware UTC.
    """

    def __init__(
        self,
        memory: Memory,
        encodings: EmbeddingCache | None,
        traces: Sequence[Traces],
        books: Books,
        clock: Callable[[], datetime],
    ) -> None:
        self._memory = memory
        self._encodings = encodings
        self._traces = traces
        self._books = books
        self._clock = clock

    async def conversation(self, tenant: str, name: str) -> bool:
        """Delete a conversation with all that was derived from it; False if there was none.

        Raises:
            redis.exceptions.RedisError: nothing that is left is out of reach of a second try.
        """
        if await self._memory.store.get(tenant, name) is None:
            return False
        await self._forget_encodings(tenant, name)
        await self._forget_answers(tenant, of_conversation(name))
        return await self._memory.delete(tenant, name)

    async def item(self, tenant: str, name: str, item_id: str) -> None:
        """Empty one item and forget what was derived from its conversation.

        Raises:
            ConversationNotFound, ItemNotFound: as they say.
        """
        item = await self._memory.store.item(tenant, name, item_id)
        if self._encodings is not None:
            page = await self._memory.store.items(tenant, name, limit=_PAGE_ITEMS)
            names = names_of([*page.items, item])
            await self._encodings.forget(tenant, encoded_as([item], names))
        await self._forget_answers(tenant, of_conversation(name))
        await self._memory.store.redact(tenant, name, item_id)

    async def end_user(self, tenant: str, end_user: str) -> Erased:
        """Delete an end user's conversations and kept answers, and unname their recorded turns.

        Raises:
            redis.exceptions.RedisError, sqlalchemy.exc.SQLAlchemyError: ask again for the rest.
        """
        await self._memory.replay()
        await self._books.catch_up(tenant)
        names = await conversations_of(self._books.database, tenant, end_user)
        deleted = [name for name in names if await self.conversation(tenant, name)]
        n_answers = await self._forget_answers(tenant, of_end_user(end_user))
        rows = await anonymise(self._books.database, tenant, end_user, names)
        return Erased(tuple(deleted), n_answers, rows.n_turns, rows.n_attempts)

    async def _forget_answers(self, tenant: str, subject: Subject) -> int:
        return sum([await traces.forget(tenant, subject) for traces in self._traces])

    async def _forget_encodings(self, tenant: str, name: str) -> None:
        """Forget what the newest items were encoded to; those of older ones have expired."""
        if self._encodings is None:
            return
        oldest, after = self._clock() - _ENCODINGS_LAST, None
        names: set[str] = set()
        while True:
            page = await self._memory.store.items(tenant, name, after=after, limit=_PAGE_ITEMS)
            names |= names_of(page.items)
            await self._encodings.forget(tenant, encoded_as(page.items, names))
            if not page.has_more or page.items[-1].created_at < oldest:
                return
            after = page.items[-1].id
