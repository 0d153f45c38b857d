"""What is remembered, and what is shown to the model."""

from memory.conversation import Context, Conversation, Item, Message, message_from_wire
from memory.history import Recognised, recognise
from memory.memory import Memory, MemoryConfig
from memory.opened import OpenConversation
from memory.records import Draft
from memory.replies import ItemPage
from memory.store import ConversationStore

__all__ = [
    "Context",
    "Conversation",
    "ConversationStore",
    "Draft",
    "Item",
    "ItemPage",
    "Memory",
    "MemoryConfig",
    "Message",
    "OpenConversation",
    "Recognised",
    "message_from_wire",
    "recognise",
]
