"""Attempts: ask one model after the other until one answers to the end."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from gateway.backends.base import Call, ReplyDelta, ReplyEnd
from gateway.errors import BackendBroken, BackendError
from gateway.metered_turn import MeteredTurn
from gateway.models import ServedModel
from gateway.takeover import CannotTakeOver, ReplyRestart, Takeover
from gateway.telemetry import Metrics
from gateway.turn import Disclosure, Turn
from policies.policy import Policy


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A call, and the length of its prompt by the model's own count."""

    call: Call
    input_tokens: int


class Attempts:
    """The attempts of one turn.

    Args:
        turn: what was asked.
        policy: names the tier of each model.
        disclosure: told which model is being asked and which failed.
        metered: told of each attempt and of everything delivered.
        prepare: makes the call for a model, its context packed for its window.
        on_first: told the model that answers and how long it kept us waiting, in seconds.
        metrics: counts attempts by outcome.
    """

    def __init__(
        self,
        turn: Turn,
        policy: Policy,
        disclosure: Disclosure,
        *,
        metered: MeteredTurn,
        prepare: Callable[[ServedModel], Awaitable[PreparedCall]],
        on_first: Callable[[ServedModel, float], None],
        metrics: Metrics,
    ) -> None:
        self._turn = turn
        self._policy = policy
        self._disclosure = disclosure
        self._metered = metered
        self._prepare = prepare
        self._on_first = on_first
        self._metrics = metrics
        self._pieces: list[str] = []
        self._can_be_taken_over = True

    async def events(
        self, models: Sequence[ServedModel], call: PreparedCall
    ) -> AsyncGenerator[ReplyDelta | ReplyRestart | ReplyEnd, None]:
        """Yield the events of the first model that answers to the end.

        Where part of a failed model's answer went out already, the next one must repeat that part
        or the caller must have allowed a restart; otherwise the failure stands.

        Args:
            models: to be asked in this order.
            call: prepared for the first of them.

        Raises:
            BackendError: the last failure.
        """
        failure: BackendError | None = None
        for index, model in enumerate(models):
            name = model.spec.name
            self._disclosure.model = name
            self._disclosure.tier = self._policy.tier_of(name)
            try:
                async with aclosing(self._asked(model, call)) as events:
                    async for event in events:
                        yield event
                self._metrics.attempts.labels(name, "complete").inc()
                return
            except CannotTakeOver:
                raise failure or BackendBroken(model.spec.backend, "It broke.") from None
            except BackendError as error:
                self._metrics.attempts.labels(name, "failed").inc()
                if index + 1 == len(models) or not self._can_be_taken_over:
                    raise
                failure = error
                self._disclosure.failed_models.append(name)
                following = models[index + 1]
                call = await self._prepare(following)
                await self._metered.failed(error, following, call.input_tokens)

    async def _asked(
        self, model: ServedModel, call: PreparedCall
    ) -> AsyncGenerator[ReplyDelta | ReplyRestart | ReplyEnd, None]:
        """Yield a model's events, its deltas fitted to what went out before it was asked."""
        self._metered.asked(model, call.input_tokens)
        # What was not streamed never left the house, so it can always be withdrawn.
        may_restart = self._turn.may_restart or not self._turn.is_stream
        takeover = Takeover("".join(self._pieces), may_restart=may_restart)
        asked_s = time.perf_counter()
        is_first, has_ended = True, False
        async with aclosing(model.backend.stream(call.call)) as events:
            async for event in events:
                if is_first:
                    is_first = False
                    self._on_first(model, time.perf_counter() - asked_s)
                if isinstance(event, ReplyEnd):
                    has_ended = True
                    yield event
                    continue
                self._metered.delivered(event)
                for fitted in takeover.fit(event):
                    self._note(fitted)
                    yield fitted
        if not has_ended:
            raise BackendBroken(model.spec.backend, "The answer stopped before its end.")

    def _note(self, event: ReplyDelta | ReplyRestart) -> None:
        """Note what goes out; tool calls, further choices and a finish cannot be continued."""
        if isinstance(event, ReplyRestart):
            self._pieces.clear()
            return
        if event.content:
            self._pieces.append(event.content)
        if event.fields or event.index or event.finish_reason:
            self._can_be_taken_over = False
