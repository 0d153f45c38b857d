"""EngineThread: the one thread that steps the engine, and the bridge to asyncio.

Owns the thread, its inbox and the replies in flight. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_models.errors import EngineStopped, LocalModelError
from local_models.sequence import Finish, SamplingParams, Sequence, TokenLogprobs
from local_models.text import ReplyText

if TYPE_CHECKING:
    from local_models.engine import Engine, Event

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Piece:
    """What a reader gets: text that is certain, log probabilities, and at the end the reason."""

    text: str
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """One generation as the server asks for it; the two times count from now."""

    prompt: list[int]
    params: SamplingParams
    text: ReplyText
    max_new_tokens: int | None
    scope: str
    timeout_s: float | None = None
    target_ttft_s: float | None = None


class Mailbox:
    """Where the pieces of one request's choices arrive; merged while the reader is slow.

    What waits for a slow reader is bounded by the replies' own bounds on tokens.
    """

    def __init__(self) -> None:
        self._pieces: dict[int, list[Piece]] = {}
        self._news = asyncio.Event()

    def put(self, index: int, piece: Piece) -> None:
        """Take a piece; called on the event loop."""
        self._pieces.setdefault(index, []).append(piece)
        self._news.set()

    async def next(self) -> list[tuple[int, Piece]]:
        """Return what came since the last call, one piece for each choice that has news."""
        await self._news.wait()
        self._news.clear()
        pieces, self._pieces = self._pieces, {}
        return [(index, _merge(parts)) for index, parts in pieces.items()]


class Reply:
    """One choice of a request; `added` is settled once it is queued or refused."""

    def __init__(self, asked: Asked, index: int, mailbox: Mailbox) -> None:
        self.asked = asked
        self.index = index
        self.mailbox = mailbox
        self.sequence: Sequence | None = None
        self.added: asyncio.Future[None] = asyncio.get_running_loop().create_future()


def _merge(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    return Piece(
        "".join(p.text for p in pieces),
        tuple(found for p in pieces for found in p.logprobs),
        pieces[-1].finish,
    )


class EngineThread:
    """Steps the engine while there is work; every call here comes from the event loop."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self.engine = engine
        self.n_failed_steps = 0
        self._loop = loop
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._is_stopping = False
        self._replies: dict[int, Reply] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether requests are still served."""
        return self._thread.is_alive() and not self._is_stopping

    async def start(self, asked: Asked, mailbox: Mailbox, index: int = 0) -> Reply:
        """Return the reply to a request that has entered the queue.

        Raises:
            RequestRefused, QueueFull: as Engine.add.
            EngineStopped: the engine is going away.
        """
        reply = Reply(asked, index, mailbox)
        self._send(lambda: self._add(reply))
        try:
            await reply.added
        except asyncio.CancelledError:
            self.cancel(reply)
            raise
        return reply

    def cancel(self, reply: Reply) -> None:
        """Stop a reply; harmless when it has ended."""

        def stop() -> None:
            if reply.sequence is not None:
                self.engine.cancel(reply.sequence)

        if not self._is_stopping:
            self._send(stop)

    async def stop(self) -> None:
        """End every reply with `failed` and the thread with it, within a second or so."""
        self._is_stopping = True
        with self._wake:
            self._wake.notify()
        await asyncio.to_thread(self._thread.join, 2.0)

    def _send(self, command: Callable[[], None]) -> None:
        if not self.is_alive:
            raise EngineStopped("The engine is stopping.")
        with self._wake:
            self._inbox.append(command)
            self._wake.notify()

    def _add(self, reply: Reply) -> None:
        asked = reply.asked
        deadline_s = None
        if asked.timeout_s is not None:
            deadline_s = self.engine.now_s() + asked.timeout_s
        try:
            reply.sequence = self.engine.add(
                asked.prompt,
                asked.params,
                max_new_tokens=asked.max_new_tokens,
                scope=asked.scope,
                watcher=asked.text,
                deadline_s=deadline_s,
                target_ttft_s=asked.target_ttft_s,
            )
        except LocalModelError as error:
            refused = error
            self._loop.call_soon_threadsafe(lambda: _settle(reply.added, refused))
            return
        self._replies[reply.sequence.id] = reply
        self._loop.call_soon_threadsafe(_settle, reply.added, None)

    def _run(self) -> None:
        while not self._is_stopping:
            with self._wake:
                while not self._inbox and not self.engine.has_work and not self._is_stopping:
                    # Nobody to serve: the wait costs nothing and ends with the next command.
                    self._wake.wait()
                commands = list(self._inbox)
                self._inbox.clear()
            for command in commands:
                command()
            try:
                events = self.engine.step()
            # Whatever breaks inside a step ends the sequences in it, never the thread.
            except Exception:
                self.n_failed_steps += 1
                log.exception("a step failed; %d in total", self.n_failed_steps)
                events = self.engine.fail_everything()
            self._deliver(events)
        self._deliver(self.engine.fail_everything())
        for command in list(self._inbox):
            command()
        self._deliver(self.engine.fail_everything())

    def _deliver(self, events: list[Event]) -> None:
        news: list[tuple[Reply, Piece]] = []
        for event in events:
            reply = self._replies.get(event.sequence.id)
            if reply is None:
                continue
            text = reply.asked.text.take(is_last=event.finish is not None)
            if event.finish is not None:
                del self._replies[event.sequence.id]
            if text or event.logprobs or event.finish is not None:
                news.append((reply, Piece(text, event.logprobs, event.finish)))
        if news:
            self._loop.call_soon_threadsafe(_hand_out, news)


def _settle(future: asyncio.Future[None], error: LocalModelError | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _hand_out(news: list[tuple[Reply, Piece]]) -> None:
    for reply, piece in news:
        reply.mailbox.put(reply.index, piece)
