"""TurnMemory: what one turn reads from memory and writes to it, and what happens when it cannot.

Stateless turns pass through untouched. A turn with a named conversation is answered from the store;
when the store does not answer, the turn goes on with what the caller sent and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import RedisError

from gateway.models import ANY_TEMPLATE, TemplateRules
from gateway.token_count import TokenCounter, count_messages
from gateway.turn import Turn
from gateway.wire.reply import ChatReply, reply_message
from memory.conversation import Context, Message
from memory.errors import ConversationDeleted, IdempotencyMismatch
from memory.memory import Memory, OpenConversation
from memory.opened import blank
from memory.records import Draft
from policies.policy import MemoryRules

STORE_FAILURES = (RedisError, OSError, TimeoutError)
_N_RECENT = 8  # messages before the turn's own that routing looks at


class TurnMemory:
    """The memory of one turn.

    Args:
        memory: the conversations.
        turn: what was asked.
        tenant: whose conversations they are.
        rules: what the policy allows memory to do.
        on_failure: told of each failure that the turn survives.
    """

    def __init__(
        self,
        memory: Memory,
        turn: Turn,
        tenant: str,
        rules: MemoryRules,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._memory = memory
        self._turn = turn
        self._tenant = tenant
        self._rules = rules
        self._on_failure = on_failure
        self._opened: OpenConversation | None = None
        self._new: tuple[Message, ...] = turn.messages
        self._instructions: str | None = None
        self._counted: tuple[TokenCounter, int] | None = None

    async def open(self) -> None:
        """Load the named conversation and find which of the sent messages are new.

        Raises:
            memory.errors.MemoryFault: the name is wrong, unknown or deleted.
        """
        name = self._turn.conversation
        if name is None:
            return
        try:
            opened = await self._memory.open(self._tenant, name, create=True)
        except STORE_FAILURES as error:
            # The history is out of reach; what is said now still goes to the journal.
            self._on_failure(error)
            opened = blank(self._tenant, name)
        recognised = opened.recognise(self._turn.messages)
        self._opened = opened
        self._new = recognised.new
        self._instructions = recognised.instructions

    @property
    def messages(self) -> Sequence[Message]:
        """The recent conversation with the turn's own messages at its end, for routing."""
        if self._opened is None:
            return self._turn.messages
        recent = [item.message for item in self._opened.items[-_N_RECENT:]]
        system = [Message("system", self._instructions)] if self._instructions else []
        return [*system, *recent, *self._new]

    @property
    def n_items(self) -> int:
        """How many items are stored before this turn; 0 when stateless."""
        return self._opened.conversation.n_items if self._opened else 0

    def needed_tokens(self, count: TokenCounter) -> int:
        """Return the tokens that any model's prompt must hold: all of it, or the new part."""
        if self._opened is not None:
            return count_messages(self._new, count, self._turn.params.get("tools"))
        # Asked once for routing and once for the model, which most often are the same.
        if self._counted is None or self._counted[0] is not count:
            tools = self._turn.params.get("tools")
            self._counted = count, count_messages(self._turn.messages, count, tools)
        return self._counted[1]

    async def context_for(
        self, window_tokens: int, count: TokenCounter, template: TemplateRules = ANY_TEMPLATE
    ) -> Context:
        """Return the context for a model that has this much room for the prompt.

        What the caller sent of a stateless turn goes out as it is, whatever the template.

        Raises:
            memory.errors.ContextTooLarge: instructions and the last user message do not fit.
        """
        if self._opened is None:
            return Context(self._turn.messages, self.needed_tokens(count))
        tools: Any = self._turn.params.get("tools")
        context = await self._memory.build_context(
            self._opened,
            self._new,
            window_tokens=window_tokens,
            count_tokens=count,
            instructions=self._instructions,
            reserved_tokens=count_messages((), count, tools) + template.reserved_tokens,
            use_summary=self._rules.summary,
            use_recall=self._rules.recall,
        )
        return template.applied(context)

    async def append_new(self) -> None:
        """Store the turn's new messages: from here on they are not lost."""
        key = self._turn.idempotency_key
        if key is not None:
            try:
                await self._append(self._new, f"chat:{key}", self._instructions)
            except IdempotencyMismatch:  # its outcome was forgotten: this is another request
                pass
            else:
                return
        await self._append(self._new, f"{self._turn.request_id}:in", self._instructions)

    async def append_reply(self, reply: ChatReply) -> None:
        """Store the first choice of a whole reply."""
        if reply.choices:
            await self._append((reply_message(reply.choices[0]),), f"{self._turn.request_id}:out")

    async def append_partial(self, reply: ChatReply) -> None:
        """Store what the caller saw of an answer that broke or was stopped, marked as such."""
        if reply.choices and (message := reply_message(reply.choices[0])).text:
            await self._append(
                (Draft(message, {"status": "incomplete"}),), f"{self._turn.request_id}:out"
            )

    async def _append(
        self, messages: Sequence[Message | Draft], key: str, instructions: str | None = None
    ) -> None:
        if self._opened is None or not messages:
            return
        try:
            await self._memory.append(
                self._opened,
                messages,
                idempotency_key=key,
                instructions=instructions,
                retention_s=self._rules.retention_days * 86_400.0
                if self._rules.retention_days
                else None,
            )
        except STORE_FAILURES as error:
            self._on_failure(error)
        except ConversationDeleted:  # while the turn was answered; it stays deleted
            self._opened = None
