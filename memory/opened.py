"""A conversation as one turn sees it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from memory.conversation import Conversation, Item, Message
from memory.history import Recognised, recognise
from memory.keys import check_conversation_id
from memory.remembered import Remembered

_EPOCH = datetime.fromtimestamp(0, UTC)


class OpenConversation:
    """A conversation as one turn sees it; append() moves it forward.

    Attributes:
        conversation: its identity and extent.
        exists: False for a name of the caller's making that nothing was stored under yet.
        generation: which incarnation of the name this is; None until it exists.
    """

    __slots__ = ("conversation", "exists", "generation", "remembered")

    def __init__(
        self, conversation: Conversation, remembered: Remembered | None, generation: str | None
    ) -> None:
        self.conversation = conversation
        self.remembered = remembered
        self.generation = generation
        self.exists = generation is not None

    @property
    def items(self) -> Sequence[Item]:
        """The items from the root to the tip, oldest first."""
        if self.remembered is None:
            return ()
        return self.remembered.view(self.conversation.n_items)

    def recognise(self, sent: Sequence[Message]) -> Recognised:
        """Return which of a request's messages are new (memory.history.recognise)."""
        return recognise(self.items, sent)


def blank(tenant: str, conversation_id: str) -> OpenConversation:
    """Return a conversation of which nothing is known, new or out of reach.

    Raises:
        InvalidConversationId: if the id is no text of 1 to 256 characters.
    """
    check_conversation_id(conversation_id)
    return OpenConversation(Conversation(conversation_id, tenant, _EPOCH), None, None)
