"""Memory as the gateway sees it: open a conversation, build a context, append.

Owns the process-local copies of conversations and the order of the steps. Knows no HTTP, no model
and no policy; the caller says how many tokens there are and how to count them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memory.conversation import Context, Conversation, Item, Message
from memory.history import Recognised
from memory.records import Draft
from memory.store import ConversationStore


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """Bounds of memory in one process; the defaults suit a small box.

    `cache_bytes` bounds the stored JSON of conversations kept in the process.
    """

    cache_bytes: int = 64 * 1024 * 1024
    max_conversations: int = 2000


@dataclass(slots=True)
class OpenConversation:
    """A conversation as one turn sees it; append() moves it forward.

    `exists` is False for a name of the caller's making that nothing was stored under yet.
    """

    conversation: Conversation
    items: Sequence[Item]
    exists: bool
    generation: str | None = None

    def recognise(self, sent: Sequence[Message]) -> Recognised:
        """Return which of a request's messages are new (memory.history.recognise)."""
        raise NotImplementedError


class Memory:
    """Conversations and contexts, over a store."""

    def __init__(self, store: ConversationStore, config: MemoryConfig | None = None) -> None:
        self.store = store
        self.config = config or MemoryConfig()

    async def open(
        self, tenant: str, conversation_id: str, *, create: bool = False
    ) -> OpenConversation:
        """Return the conversation, in one round trip.

        Raises:
            ConversationNotFound: if there is none and `create` is false or the id is `conv_...`.
            InvalidConversationId: if the id is no text of 1 to 256 characters.
        """
        raise NotImplementedError

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
    ) -> Context:
        """Return the messages for the model: at most `window_tokens` less `reserved_tokens`.

        Args:
            opened: the conversation; its items must not hold `new` yet.
            new: the turn's new messages.
            window_tokens: the tokens there are for the prompt (window less room for the reply).
            count_tokens: the chosen model's own counter of a text's tokens.
            instructions: the system prompt of this request; None takes the conversation's.
            reserved_tokens: tokens taken already, by tool definitions and the like.
            use_summary: whether the policy allows a summary.
            use_recall: whether the policy allows recall.

        Raises:
            ContextTooLarge: if instructions and the last user message do not fit.
        """
        raise NotImplementedError

    async def append(
        self,
        opened: OpenConversation,
        messages: Sequence[Message | Draft],
        *,
        idempotency_key: str | None = None,
        expected_tip: str | None = None,
        instructions: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        retention_s: float | None = None,
    ) -> list[Item]:
        """Store messages in one round trip and move `opened` forward; return their items.

        Creates the conversation where open() was allowed to. A conversation deleted since it was
        opened stays deleted.

        Raises:
            ConversationDeleted, TipConflict, IdempotencyMismatch, InvalidItem: as they say.
        """
        raise NotImplementedError
