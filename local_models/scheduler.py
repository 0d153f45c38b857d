"""Scheduler: which sequences advance in this step, and by how many tokens.

Owns the queue, the running set and page accounting. Touches no tensor.

Three rules keep it from wedging. A sequence is admitted only when the worst cases of everything
admitted fit the pool together, so a running sequence never waits for a page. A request whose worst
case exceeds the pool is refused on arrival. One scope may hold only its share of slots and pages
while the rest stays open for others; who of them is next, `fair_share` says.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from local_models.config import EngineConfig
from local_models.errors import QueueFull, RequestRefused
from local_models.fair_share import FairShare
from local_models.kv_blocks import PagePool
from local_models.sequence import Finish, Sequence

_SHARED_FOR_S = 60.0
_SHARED_PART = 8


@dataclass(frozen=True, slots=True)
class Work:
    """What one sequence does in a step: run tokens [start, start + n_tokens), then the drafts.

    `samples` says whether the run reaches the last known token, so that a new one is chosen.
    """

    sequence: Sequence
    start: int
    n_tokens: int
    samples: bool
    drafts: tuple[int, ...] = ()


class Scheduler:
    """Continuous batching over one PagePool; the engine's thread owns it."""

    def __init__(
        self,
        config: EngineConfig,
        pool: PagePool,
        draft: Callable[[Sequence, int], tuple[int, ...]] | None = None,
    ) -> None:
        self.config = config
        self.pool = pool
        self.running: list[Sequence] = []
        self.n_waiting = 0
        self.n_preemptions = 0
        self.step_tokens = config.step_tokens
        self._draft = draft
        self._queues: dict[str, deque[Sequence]] = {}
        self._n_steps = 0
        self._last_scope: str | None = None
        self._mixed_s = -math.inf  # when two scopes last came one after the other
        self.share = FairShare(
            max(1, round(config.max_running * config.scope_share)),
            max(1, int(pool.n_pages * config.scope_share)),
        )

    def add(self, sequence: Sequence, retry_after_s: float = 1.0) -> None:
        """Queue a sequence.

        Raises:
            RequestRefused: its worst case exceeds what its scope may ever hold.
            QueueFull: the queue has reached its bound.
        """
        if self._worst_pages(sequence) > self.share.most_pages:
            tokens = self.share.most_pages * self.pool.page_tokens
            raise RequestRefused(
                f"Prompt and reply may take {sequence.max_tokens} tokens, and the engine's cache "
                f"holds {tokens} for one caller.",
                code="context_length_exceeded",
                param="messages",
            )
        if self.n_waiting >= self.config.max_queued:
            raise QueueFull(self.n_waiting, retry_after_s)
        if self._last_scope not in (None, sequence.scope):
            self._mixed_s = sequence.arrived_s
        self._last_scope = sequence.scope
        self._enqueue(sequence, last=True)

    def _enqueue(self, sequence: Sequence, *, last: bool) -> None:
        queue = self._queues.get(sequence.scope)
        if queue is None:
            queue = self._queues[sequence.scope] = deque()
            if not self.share.slots(sequence.scope):
                others = {s.scope for s in self.running} | self._queues.keys()
                self.share.arrive(sequence.scope, others - {sequence.scope})
        if last:
            queue.append(sequence)
        else:
            queue.appendleft(sequence)
        self.n_waiting += 1

    def schedule(self, now_s: float) -> list[Work]:
        """Admit what may be admitted and return this step's work; pages are already there.

        Decoding sequences come first, then prompts of the least served scope, until the step's
        tokens are spent. Empty when nothing can run.
        """
        self._admit(now_s)
        self._n_steps += 1
        # While several scopes come and go steps are short: what a newcomer waits for first is the
        # step in progress.
        is_shared = now_s - self._mixed_s < _SHARED_FOR_S
        budget = max(self.step_tokens // (_SHARED_PART if is_shared else 1), self.pool.page_tokens)
        prompts = [s for s in self.running if s.n_remaining > 1]
        prompts.sort(key=lambda s: (self.share.served(s.scope), s.arrived_s))
        favoured = prompts[0].scope if prompts else None
        is_pressed = any(_is_pressed(s, now_s) for s in prompts)
        work = []
        for sequence in self.running:
            if sequence.n_remaining == 1 and self._may_decode(sequence, favoured, is_pressed):
                work.append(self._decode(sequence))
                budget -= 1 + len(work[-1].drafts)
        # A prompt always advances, even beside more decoding sequences than the budget has tokens.
        budget = max(budget, self.pool.page_tokens)
        for sequence in prompts:
            # The step belongs to one scope: another's prompt beside it would only delay it.
            if budget <= 0 or sequence.scope != favoured:
                break
            n_tokens = min(budget, sequence.n_remaining)
            samples = n_tokens == sequence.n_remaining
            work.append(Work(sequence, sequence.n_computed, n_tokens, samples))
            budget -= n_tokens
        for item in work:
            self._extend_pages(item)
        return work

    def _may_decode(self, sequence: Sequence, favoured: str | None, is_pressed: bool) -> bool:
        """Return whether a sequence decodes in this step.

        Beside a prompt that is late for its target, and beside the prompt of a scope served less,
        the others decode in every eighth step only: they lose a moment, the newcomer's first token
        comes sooner.
        """
        if self._n_steps % _SHARED_PART == 0:
            return True
        if is_pressed:
            return False
        if favoured is None or sequence.scope == favoured:
            return True
        return self.share.served(sequence.scope) <= self.share.served(favoured)

    def _decode(self, sequence: Sequence) -> Work:
        drafts: tuple[int, ...] = ()
        is_quiet = len(self.running) <= self.config.draft_until_running
        may_guess = is_quiet and len(sequence.tokens) >= sequence.guesses_from
        if may_guess and self._draft is not None and self.config.draft_tokens:
            room = sequence.max_tokens - len(sequence.tokens) - 1
            n_drafts = min(self.config.draft_tokens, room, sequence.n_guess)
            drafts = self._draft(sequence, n_drafts) if n_drafts > 0 else ()
        return Work(sequence, sequence.n_computed, 1, True, drafts)

    def advance(self, work: Work, n_accepted_drafts: int = 0) -> None:
        """Record that the work was run: its tokens are computed, its full pages findable."""
        sequence = work.sequence
        sequence.n_computed = work.start + work.n_tokens + n_accepted_drafts
        self.share.charge(sequence.scope, work.n_tokens)
        if self.config.reuse_prefixes:
            hashes = sequence.page_hashes(self.pool.page_tokens)
            n_full = min(sequence.n_computed // self.pool.page_tokens, len(hashes))
            for at in range(sequence.n_published, n_full):
                self.pool.publish(sequence.pages[at], hashes[at])
            sequence.n_published = max(sequence.n_published, n_full)

    def finish(self, sequence: Sequence, reason: Finish) -> bool:
        """End a sequence wherever it is; pages go back. Returns False if it had ended before."""
        if sequence.finish is not None:
            return False
        sequence.finish = reason
        if sequence in self.running:
            self._leave(sequence)
        else:
            self._dequeue(sequence)
        return True

    def expired(self, now_s: float) -> list[Sequence]:
        """Return the sequences whose deadline or longest wait has passed."""
        late = [s for s in self.running if s.deadline_s is not None and s.deadline_s <= now_s]
        for queue in self._queues.values():
            for s in queue:
                waited = s.n_preempted == 0 and now_s - s.arrived_s > self.config.queue_wait_s
                if waited or (s.deadline_s is not None and s.deadline_s <= now_s):
                    late.append(s)
        return late

    def everyone(self) -> list[Sequence]:
        """Return every sequence that has not ended."""
        return [*self.running, *(s for queue in self._queues.values() for s in queue)]

    def preempt(self, sequence: Sequence) -> None:
        """Put a running sequence back at the head of its queue; its tokens are recomputed later."""
        self._leave(sequence)
        sequence.n_computed = 0
        sequence.n_published = 0
        sequence.n_preempted += 1
        self.n_preemptions += 1
        self._enqueue(sequence, last=False)

    def _admit(self, now_s: float) -> None:
        while self.n_waiting:
            candidate = self._next_candidate()
            if candidate is None:
                return
            if not self._fits(candidate) and not self._make_room(candidate):
                return
            self._start(candidate, now_s)

    def _next_candidate(self) -> Sequence | None:
        """Return the head of the least-served queue whose scope is within its share."""
        heads = [queue[0] for queue in self._queues.values()]
        within = [s for s in heads if self.share.may_take(s.scope, self._worst_pages(s))]
        return min(within, key=lambda s: self.share.served(s.scope), default=None)

    def _fits(self, sequence: Sequence) -> bool:
        has_slot = len(self.running) < self.config.max_running
        return has_slot and self.share.n_pages + self._worst_pages(sequence) <= self.pool.n_pages

    def _make_room(self, candidate: Sequence) -> bool:
        """Preempt the newest sequences of the scope that runs most, until the candidate fits.

        Only a scope that runs nothing may push, and only a scope that keeps something running is
        pushed, so that two scopes never trade places without end.
        """
        if self.share.slots(candidate.scope):
            return False
        victims = []
        slots = len(self.running) + 1 - self.config.max_running
        pages = self.share.n_pages + self._worst_pages(candidate) - self.pool.n_pages
        left = self.share.slots_by_scope()
        for sequence in reversed(self.running):
            if slots <= 0 and pages <= 0:
                break
            if left[sequence.scope] < 2 or left[sequence.scope] < max(left.values()):
                continue
            left[sequence.scope] -= 1
            victims.append(sequence)
            slots -= 1
            pages -= self._worst_pages(sequence)
        if slots > 0 or pages > 0:
            return False
        for sequence in victims:
            self.preempt(sequence)
        return True

    def _start(self, sequence: Sequence, now_s: float) -> None:
        self._dequeue(sequence)
        sequence.admitted_s = now_s
        self.share.take(sequence.scope, self._worst_pages(sequence))
        self.running.append(sequence)
        if self.config.reuse_prefixes:
            # The last token is always run: its logits choose the next one.
            n_full = (len(sequence.tokens) - 1) // self.pool.page_tokens
            hashes = sequence.page_hashes(self.pool.page_tokens)[:n_full]
            sequence.pages = self.pool.reuse(hashes)
            sequence.n_computed = len(sequence.pages) * self.pool.page_tokens
            sequence.n_published = len(sequence.pages)
            if sequence.n_preempted == 0:
                sequence.n_reused = sequence.n_computed

    def _leave(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.pool.release(sequence.pages)
        sequence.pages = []
        self.share.give_back(sequence.scope, self._worst_pages(sequence))
        self._let_go(sequence.scope)

    def _dequeue(self, sequence: Sequence) -> None:
        queue = self._queues[sequence.scope]
        queue.remove(sequence)
        self.n_waiting -= 1
        if not queue:
            del self._queues[sequence.scope]
        self._let_go(sequence.scope)

    def _let_go(self, scope: str) -> None:
        if scope not in self._queues and not self.share.slots(scope):
            self.share.leave(scope)

    def _extend_pages(self, work: Work) -> None:
        sequence = work.sequence
        needed = self.pool.pages_for(work.start + work.n_tokens + len(work.drafts))
        while len(sequence.pages) < needed:
            sequence.pages.append(self.pool.allocate())

    def _worst_pages(self, sequence: Sequence) -> int:
        return self.pool.pages_for(sequence.max_tokens)


def _is_pressed(sequence: Sequence, now_s: float) -> bool:
    """Return whether half of the time to a first token is gone and none has come."""
    target_s = sequence.target_ttft_s
    if target_s is None or sequence.first_token_s is not None:
        return False
    return now_s - sequence.arrived_s > target_s / 2
