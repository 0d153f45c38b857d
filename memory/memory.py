"""Memory as the gateway sees it: open a conversation, build a context, append.

Owns the process-local copies of conversations and the order of the steps. Knows no HTTP, no model
and no policy; the caller says how many tokens there are and how to count them.

The life of a turn: `open` (one round trip, only what is new since last time), `recognise` the
request's messages, `build_context` for the chosen model, `append` the new messages, and `append`
the reply.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Self

from memory.building import ContextRequest, best_by_words, context_of, query_of
from memory.context import Shares
from memory.conversation import Context, Item, Message
from memory.counting import TokenCounter
from memory.embedder import Encoding
from memory.embedding_cache import EmbeddingCache
from memory.errors import ConversationNotFound, EmbedderBusy
from memory.journal import Journal
from memory.journaled_log import STORE_FAILURES, JournaledLog
from memory.keys import is_ours
from memory.opened import OpenConversation, blank
from memory.phrasing import joined, phrasings
from memory.recall import RecallWeights
from memory.records import Draft
from memory.remembered import Remembered
from memory.replies import Appended, Loaded
from memory.shelf import Shelf
from memory.store import ConversationStore
from memory.summary_keeper import SummaryKeeper
from memory.vector_keeper import VectorKeeper
from memory.vector_sets import Found, VectorSets
from memory.vector_store import VectorStore

__all__ = ["STORE_FAILURES", "Memory", "MemoryConfig", "OpenConversation"]

_LOAD_ITEMS = 1000
_INLINE_ITEMS = 100
_MAX_COUNTERS = 16


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """Bounds of memory in one process; the defaults suit a small box.

    `cache_tokens` bounds the conversations kept in the process, in rough tokens: about 100 bytes
    each with index and vectors. A conversation gets vectors from `vectors_from_tokens` on; shorter
    ones are sent whole to any model. Above `vectors_held_items` they are searched in a vector set,
    where the server has such, and not held. A turn waits `query_patience_s` for the query's
    encoding.
    """

    cache_tokens: int = 1_000_000
    vectors_from_tokens: int = 800
    vectors_held_items: int = 20_000
    query_patience_s: float = 0.1
    replay_every_s: float = 1.0
    max_conversations: int = 5000
    shares: Shares = field(default_factory=Shares)
    recall: RecallWeights = field(default_factory=RecallWeights)


class Memory:
    """Conversations and contexts, over a store.

    Entered as an async context manager it also gives vectors to long conversations in the
    background; without that, recall is by words alone.

    Args:
        store: the log.
        config: bounds and weights.
        encodings: the process's embedding cache, for recall by meaning.
        vectors: where vectors are kept for the next process.
        sets: where vectors of very long conversations are searched, if the server can.
        journal: takes the appends that Redis does not.
        summaries: makes summary segments in the background, kept for every process.
        on_failure: told of every failure that a turn survives, to be counted.
    """

    def __init__(
        self,
        store: ConversationStore,
        config: MemoryConfig | None = None,
        *,
        encodings: EmbeddingCache | None = None,
        vectors: VectorStore | None = None,
        sets: VectorSets | None = None,
        journal: Journal | None = None,
        summaries: SummaryKeeper | None = None,
        on_failure: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self.store = store
        self.config = config or MemoryConfig()
        self._encodings = encodings
        self._log = JournaledLog(store, journal, on_failure)
        self._summaries = summaries
        self._on_failure = on_failure
        self._sets = sets if vectors is not None else None
        self._keeper = (
            VectorKeeper(
                encodings.embedder, vectors, on_failure, self._sets, self.config.vectors_held_items
            )
            if encodings
            else None
        )
        self._background = asyncio.TaskGroup()
        self._tasks: list[asyncio.Task[None]] = []
        self._shelf = Shelf(self.config.cache_tokens, self.config.max_conversations)
        self._counters: OrderedDict[Callable[[str], int], TokenCounter] = OrderedDict()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="memory")

    async def __aenter__(self) -> Self:
        await self._background.__aenter__()
        if self._keeper is not None:
            self._tasks.append(self._background.create_task(self._keeper.run()))
        if self._summaries is not None:
            self._tasks.append(self._background.create_task(self._summaries.run()))
        replaying = self._log.replay_forever(self.config.replay_every_s)
        self._tasks.append(self._background.create_task(replaying))
        return self

    async def __aexit__(self, *exception: object) -> None:
        for task in self._tasks:
            task.cancel()
        await self._background.__aexit__(None, None, None)
        await self.close()

    async def close(self) -> None:
        """Stop the worker threads; safe to call twice."""
        await self._log.close()
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def open(
        self, tenant: str, conversation_id: str, *, create: bool = False
    ) -> OpenConversation:
        """Return the conversation, in one round trip.

        Args:
            tenant: whose conversation.
            conversation_id: its name.
            create: whether a name of the caller's making may be new; nothing is written yet.

        Raises:
            ConversationNotFound: if there is none and `create` is false or the id is `conv_...`.
            InvalidConversationId: if the id is no text of 1 to 256 characters.
        """
        held = self._shelf.get(tenant, conversation_id)
        loaded = await self._load(tenant, conversation_id, held)
        if loaded is None:
            self._shelf.drop(tenant, conversation_id)
            if not create or is_ours(conversation_id):
                raise ConversationNotFound(conversation_id)
            return blank(tenant, conversation_id)
        remembered = self._keep(tenant, conversation_id, held, loaded)
        while len(remembered.items) < loaded.conversation.n_items:
            more = await self._load(tenant, conversation_id, remembered)
            if more is None or more.generation != loaded.generation or not more.items:
                raise ConversationNotFound(conversation_id)
            remembered = self._keep(tenant, conversation_id, remembered, more)
        return OpenConversation(loaded.conversation, remembered, loaded.generation)

    async def build_context(
        self,
        opened: OpenConversation,
        new: Sequence[Message],
        *,
        window_tokens: int,
        count_tokens: Callable[[str], int],
        instructions: str | None = None,
        reserved_tokens: int = 0,
        use_summary: bool = True,
        use_recall: bool = True,
        patience_s: float = 0.05,
    ) -> Context:
        """Return the messages for the model: at most `window_tokens` less `reserved_tokens`.

        Args:
            opened: the conversation; its items must not hold `new` yet.
            new: the turn's new messages.
            window_tokens: the tokens there are for the prompt (window less room for the reply).
            count_tokens: the chosen model's own counter of a text's tokens; pass the same callable
                each time, what it counted is remembered per callable.
            instructions: the system prompt of this request; None takes the conversation's.
            reserved_tokens: tokens taken already, by tool definitions and the like.
            use_summary: whether the policy allows a summary.
            use_recall: whether the policy allows recall.
            patience_s: how long to wait for the vectors of items that came in just now; the query's
                own gets at least as long.

        Raises:
            ContextTooLarge: if instructions and the last user message do not fit.
        """
        wanted = ContextRequest(
            items=opened.items,
            new=new,
            instructions=opened.conversation.instructions if instructions is None else instructions,
            window_tokens=window_tokens,
            reserved_tokens=reserved_tokens,
            use_summary=use_summary,
            use_recall=use_recall,
        )
        counter = self._counter(count_tokens)
        encoding = await self._query_encoding(opened, wanted, patience_s)
        found = await self._found(opened.remembered, wanted, encoding)
        if opened.remembered is None or len(opened.remembered.items) <= _INLINE_ITEMS:
            return context_of(
                wanted,
                opened.remembered,
                counter,
                self.config.shares,
                self.config.recall,
                encoding,
                found,
            )
        return await asyncio.get_running_loop().run_in_executor(
            self._worker,
            context_of,
            wanted,
            opened.remembered,
            counter,
            self.config.shares,
            self.config.recall,
            encoding,
            found,
        )

    async def append(
        self,
        opened: OpenConversation,
        messages: Sequence[Message | Draft],
        *,
        idempotency_key: str | None = None,
        expected_tip: str | None = None,
        parent: str | None = None,
        instructions: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        retention_s: float | None = None,
    ) -> list[Item]:
        """Store messages in one round trip and move `opened` forward; return their items.

        Creates the conversation where open() was allowed to. A conversation deleted since it was
        opened stays deleted.

        Args:
            opened: the conversation.
            messages: what to store, all or none.
            idempotency_key: the same key and body stores once; see ConversationStore.append.
            expected_tip: the newest item as the writer knows it.
            parent: the item the first message follows, where that is not the tip.
            instructions: the conversation's new instructions; None leaves them.
            metadata: the conversation's new metadata; None leaves it.
            retention_s: seconds of silence after which the conversation expires.

        Raises:
            ConversationDeleted, TipConflict, IdempotencyMismatch, InvalidItem: as they say.
        """
        appended = await self._log.append(
            opened,
            messages,
            idempotency_key=idempotency_key,
            expected_tip=expected_tip,
            parent=parent,
            instructions=instructions,
            metadata=metadata,
            retention_s=retention_s,
        )
        self._advance(opened, appended, instructions, metadata)
        await self._want_summaries(opened)
        return list(appended.items)

    async def delete(self, tenant: str, conversation_id: str) -> bool:
        """Delete a conversation and this process's copy of it; False if there was none."""
        self._shelf.drop(tenant, conversation_id)
        return await self.store.delete(tenant, conversation_id)

    async def replay(self) -> int:
        """Bring the appends that wait in the journal to Redis; return how many.

        Raises:
            RedisError, OSError, TimeoutError: if Redis is still away; nothing is lost.
        """
        return await self._log.replay()

    async def _query_encoding(
        self, opened: OpenConversation, wanted: ContextRequest, patience_s: float
    ) -> Encoding | None:
        """Return the encoding of the last user message where recall by meaning can use it."""
        remembered = opened.remembered
        if self._encodings is None or self._keeper is None or remembered is None:
            return None
        fits = 2 * remembered.size < wanted.window_tokens - wanted.reserved_tokens
        query = query_of(wanted.items, wanted.new)
        if fits or not wanted.use_recall or not query:
            return None
        if not self._encodings.embedder.can_read(query):
            return None
        await self._keeper.wait_for(remembered, patience_s)
        try:
            async with asyncio.timeout(max(self.config.query_patience_s, patience_s)):
                tenant = opened.conversation.tenant
                texts = phrasings(query, remembered.names)
                return joined([await self._encodings.encode(tenant, text) for text in texts])
        except (EmbedderBusy, TimeoutError) as error:
            self._on_failure(error)
            return None

    async def _found(
        self, remembered: Remembered | None, wanted: ContextRequest, encoding: Encoding | None
    ) -> Found | None:
        """Return what a vector set finds, None where the process holds the vectors itself."""
        if self._sets is None or remembered is None or encoding is None:
            return None
        if not remembered.n_in_set or len(remembered.vectors):
            return None
        try:
            loop = asyncio.get_running_loop()
            query = query_of(wanted.items, wanted.new)
            by_words = await loop.run_in_executor(self._worker, best_by_words, remembered, query)
            return await self._sets.find(remembered.loaded, encoding, by_words.tolist())
        except STORE_FAILURES as error:  # recall goes by words alone
            self._on_failure(error)
            return None

    async def _want_summaries(self, opened: OpenConversation) -> None:
        """Queue segments where a block of items is full: one round trip in 32 items."""
        remembered = opened.remembered
        if self._summaries is None or remembered is None:
            return
        if remembered.size < self.config.vectors_from_tokens:
            return
        try:
            await self._summaries.want(remembered)
        except STORE_FAILURES as error:
            self._on_failure(error)

    async def _load(
        self, tenant: str, conversation_id: str, held: Remembered | None
    ) -> Loaded | None:
        return await self.store.load(
            tenant,
            conversation_id,
            known=held.loaded if held else None,
            known_n_items=len(held.items) if held else 0,
            known_segments=held.segments_revision if held else "",
            max_items=_LOAD_ITEMS,
        )

    def _advance(
        self,
        opened: OpenConversation,
        appended: Appended,
        instructions: str | None,
        metadata: Mapping[str, Any] | None,
    ) -> None:
        before = opened.conversation
        after = replace(
            before,
            created_at=appended.created_at,
            n_items=appended.n_items,
            tip=appended.tip,
            instructions=before.instructions if instructions is None else instructions,
            metadata=before.metadata if metadata is None else metadata,
        )
        loaded = Loaded(after, appended.generation, appended.epoch, 1, appended.items)
        held = self._shelf.get(before.tenant, before.id) or opened.remembered
        remembered = self._keep(before.tenant, before.id, held, loaded)
        # Another writer came between: this turn sees what it saw, the next open() fetches the rest.
        n_seen = min(appended.n_items, len(remembered.items))
        opened.conversation = replace(after, n_items=n_seen)
        opened.remembered = remembered
        opened.generation = appended.generation
        opened.exists = True

    def _keep(
        self, tenant: str, conversation_id: str, held: Remembered | None, loaded: Loaded
    ) -> Remembered:
        """Return the process's copy with the loaded items added, and see to its vectors."""
        remembered = self._shelf.put(tenant, conversation_id, held, loaded)
        if self._keeper is not None and remembered.size >= self.config.vectors_from_tokens:
            self._keeper.want(remembered)
        return remembered

    def _counter(self, count_tokens: Callable[[str], int]) -> TokenCounter:
        counter = self._counters.get(count_tokens)
        if counter is None:
            counter = self._counters[count_tokens] = TokenCounter(count_tokens)
            if len(self._counters) > _MAX_COUNTERS:
                self._counters.popitem(last=False)
        self._counters.move_to_end(count_tokens)
        return counter
