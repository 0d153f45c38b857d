"""READ THIS FIRST: the path of one turn, from what was asked to the last event of the answer.

`Responder.respond` narrates it in order. The steps are owned elsewhere: memory by `TurnMemory`, the
decision by `router.Router`, money by `Meter`, the upstream by a `Backend`. There is one path: an
answer that is not streamed is this stream, collected.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, field
from decimal import Decimal

from gateway.answer_cache import AnswerCache, CachedAnswer
from gateway.attempts import Attempts, PreparedCall
from gateway.auth import Principal
from gateway.backends.base import Call, ReplyDelta, ReplyEnd
from gateway.background import Background
from gateway.holds import Plan
from gateway.load import Loads
from gateway.meter import Meter
from gateway.metered_turn import MeteredTurn, turn_record
from gateway.models import ServedModel, ServedModels
from gateway.rate_limit import RateLimiter
from gateway.settings import Timeouts
from gateway.takeover import ReplyRestart
from gateway.telemetry import Degradations, Metrics
from gateway.tenants import Tenant
from gateway.tool_models import ToolModels
from gateway.turn import Disclosure, Turn
from gateway.turn_memory import STORE_FAILURES, TurnMemory
from gateway.wire.reply import ChatReply
from memory.memory import Memory
from policies.catalog import ModelCatalog
from policies.policy import Policy
from policies.store import PolicyStore
from policies.usage import Usage
from router.decision import Reason, RoutingDecision
from router.request import RouteRequest
from router.route import Router

# What routing assumes a reply needs of a window when the caller does not say.
_USUAL_OUTPUT_TOKENS = 256


@dataclass(slots=True)
class _Path:
    """What one turn has gathered on its way."""

    turn: Turn
    tenant: Tenant
    policy: Policy
    memory: TurnMemory
    disclosure: Disclosure
    started_s: float
    cap_usd: Decimal | None = None
    longest: Mapping[str, int] = field(default_factory=dict)
    waited_s: float = 0.0


class Responder:
    """Answers turns; one for the whole process."""

    def __init__(
        self,
        *,
        policies: PolicyStore,
        catalog: ModelCatalog,
        memory: Memory,
        router: Router,
        models: ServedModels,
        loads: Loads,
        meter: Meter,
        limiter: RateLimiter,
        cache: AnswerCache,
        background: Background,
        timeouts: Timeouts,
        scope_key: bytes,
        metrics: Metrics,
        degradations: Degradations,
    ) -> None:
        self._policies = policies
        self._catalog = catalog
        self._memory = memory
        self._router = router
        self._tool_models = ToolModels()
        self._models = models
        self._loads = loads
        self._meter = meter
        self._limiter = limiter
        self._cache = cache
        self._background = background
        self._timeouts = timeouts
        self._scope_key = scope_key[:64]
        self._metrics = metrics
        self._degradations = degradations

    def in_flight(self) -> AbstractContextManager[None]:
        """Return a context that counts one turn as being answered."""
        return self._metrics.in_flight.track_inprogress()

    async def respond(
        self, turn: Turn, principal: Principal, disclosure: Disclosure
    ) -> AsyncGenerator[ReplyDelta | ReplyRestart | ReplyEnd, None]:
        """Route the turn and return its answer: deltas, then one ReplyEnd.

        The disclosure is filled on the way. A ReplyRestart in between, only where the turn allows
        it, voids the deltas before it. The ReplyEnd is the acknowledgement: by then the reply is
        stored and the money is settled. Closing the iterator early stops generation and settles
        what was used.

        Raises:
            gateway.errors.GatewayError, router.errors.RouterError, memory.errors.MemoryFault,
            policies.errors.PolicyError: here, or in place of the next event.
        """
        tenant = principal.tenant
        # Read once: whatever is put meanwhile, all of this turn goes by one version.
        policy = self._policies.policy_of(tenant.id, tenant.policy)
        # Counted while the turn is routed, so that both wait for Redis only once.
        admission = self._background.keep(self._admit(tenant, policy, disclosure))
        try:
            path = await self._open(turn, principal, policy, disclosure)
            decision = await self._decide(path)
            key = self._cache_key(path, decision)
            cached = await self._cached(path, key)
        finally:
            await admission
        return self._answer(path, decision, key) if cached is None else self._replay(path, cached)

    async def _admit(self, tenant: Tenant, policy: Policy, disclosure: Disclosure) -> None:
        """Count the request against the tenant's rate.

        Raises:
            RequestError: 429, with the `x-ratelimit-*` headers.
        """
        try:
            disclosure.rate_limit = await self._limiter.admit(tenant.id, policy.limits)
        except STORE_FAILURES as error:
            self._degrade("limits", error, disclosure)

    def must_refuse_without_ledger(self, tenant: Tenant) -> bool:
        """Return whether the tenant's policy refuses turns while the ledger is away."""
        return self._policies.policy_of(tenant.id, tenant.policy).on_ledger_down == "block"

    async def dry_run(
        self, turn: Turn, principal: Principal, disclosure: Disclosure
    ) -> RoutingDecision:
        """Return the decision for a turn without answering, charging or writing anything."""
        tenant = principal.tenant
        policy = self._policies.policy_of(tenant.id, tenant.policy)
        return await self._decide(await self._open(turn, principal, policy, disclosure))

    # Steps 2 and 3: the policy and the conversation, then the decision.

    async def _open(
        self, turn: Turn, principal: Principal, policy: Policy, disclosure: Disclosure
    ) -> _Path:
        tenant = principal.tenant
        disclosure.policy = policy.label
        if turn.min_tier is not None:
            principal.require("min_tier")
        disclosure.conversation = turn.conversation

        def on_failure(error: BaseException) -> None:
            self._degrade("memory", error, disclosure)

        started_s = time.perf_counter()
        memory = TurnMemory(self._memory, turn, tenant.id, policy.memory, on_failure)
        await memory.open()
        cap_usd = self._meter.cap_usd(turn, tenant, policy)
        return _Path(turn, tenant, policy, memory, disclosure, started_s, cap_usd)

    async def _decide(self, path: _Path) -> RoutingDecision:
        turn, disclosure = path.turn, path.disclosure
        asked = turn.params.get("max_completion_tokens")
        cheapest = self._models[path.policy.tiers[0].models[0]]
        request = RouteRequest(
            messages=path.memory.messages,
            requested=turn.requested,
            needs=turn.needs,
            input_tokens=path.memory.needed_tokens(cheapest.count),
            output_tokens=asked or _USUAL_OUTPUT_TOKENS,
            min_tier=turn.min_tier,
            max_cost_usd=path.cap_usd,
            current_model=self._tool_models.behind(path.tenant.id, turn.messages),
            currency=path.tenant.currency,
            usd_rate=self._meter.rate_of(path.tenant)[0],
        )
        decision = await self._router.route_in_stages(
            request,
            tenant=path.tenant.id,
            policy=path.policy,
            catalog=self._catalog,
            budget_state=await self._meter.budget_state(path.tenant, path.policy, disclosure),
            load=self._loads.now(),
        )
        disclosure.decision = decision
        disclosure.tier, disclosure.model = decision.tier, decision.model
        if decision.reason is Reason.CLASSIFIER_UNAVAILABLE:
            disclosure.degraded.add("classifier")
            self._metrics.degraded.labels("classifier").inc()
        self._metrics.decisions.labels(decision.tier, decision.reason.value).inc()
        return decision

    # Steps 4 and 10: the cache.

    def _cache_key(self, path: _Path, decision: RoutingDecision) -> str | None:
        if not self._cache.is_open_to(path.turn, path.policy):
            return None
        return self._cache.key_of(
            path.turn, path.tenant.id, path.policy, decision.tier, decision.model
        )

    async def _cached(self, path: _Path, key: str | None) -> CachedAnswer | None:
        if key is None or path.turn.cache_mode == "refresh":
            return None
        try:
            return await self._cache.get(key)
        except STORE_FAILURES as error:
            self._degrade("cache", error, path.disclosure)
            return None

    async def _replay(
        self, path: _Path, cached: CachedAnswer
    ) -> AsyncGenerator[ReplyDelta | ReplyEnd, None]:
        disclosure = path.disclosure
        disclosure.cache = "exact"
        disclosure.choices = cached.choices
        disclosure.model = cached.model
        disclosure.usage = cached.usage  # what the answer took when it was made; now it is free
        disclosure.cost = self._meter.nothing(path.tenant)
        self._mark_served(path, self._models[cached.model])
        for delta in cached.deltas():
            yield delta
        now = self._meter.clock()
        record = turn_record(path.turn, path.tenant, disclosure, "complete", now)
        await self._meter.record_unasked(record, path.tenant)
        yield ReplyEnd(usage=disclosure.usage, model=cached.model)

    async def _fill_cache(self, path: _Path, key: str | None, end: ReplyEnd) -> None:
        decision, model = path.disclosure.decision, path.disclosure.model
        if key is None or path.turn.cache_mode == "read" or decision is None:
            return
        if model != decision.model:  # a fallback's answer is not the planned model's
            return
        if path.longest:  # kept short for want of money, which the next turn may have
            return
        answer = CachedAnswer(path.disclosure.choices, end.usage or Usage(0, 0), model)
        try:
            await self._cache.put(
                key, path.tenant.id, answer, path.policy.cache.ttl_s, path.turn.end_user
            )
        except STORE_FAILURES as error:
            self._degrade("cache", error, path.disclosure)

    # Steps 5 to 9: context, reservation, the user's item, the backend, the reply, the settlement.

    async def _answer(
        self, path: _Path, decision: RoutingDecision, key: str | None
    ) -> AsyncGenerator[ReplyDelta | ReplyRestart | ReplyEnd, None]:
        reply = ChatReply()
        models = [self._models[name] for name in (decision.model, *decision.fallbacks)]
        first_call = await self._call(path, models[0])
        n_input = first_call.input_tokens

        def most_tokens(model: ServedModel) -> int:
            return self._meter.output_tokens(model, path.turn, n_input, path.cap_usd)

        plan = Plan(models, n_input, most_tokens)
        metered = await self._meter.open(path.turn, path.tenant, path.policy, path.disclosure, plan)
        if metered.plan.longest:
            path.longest = metered.plan.longest
            first_call = await self._call(path, models[0])
        attempts = Attempts(
            path.turn,
            path.policy,
            path.disclosure,
            metered=metered,
            prepare=lambda model: self._call(path, model),
            on_first=lambda model, waited_s: self._mark_served(path, model, waited_s),
            metrics=self._metrics,
        )
        is_complete = False
        try:
            await path.memory.append_new()
            async with aclosing(attempts.events(models, first_call)) as events:
                async for event in events:
                    if isinstance(event, ReplyEnd):
                        is_complete = True
                        await self._conclude(path, metered, reply, event, key)
                    elif isinstance(event, ReplyRestart):
                        reply.clear()
                    else:
                        reply.add(event)
                    yield event
        except Exception as error:
            await metered.close("failed", error=f"{type(error).__name__}: {error}")
            raise
        finally:
            if not is_complete:
                # The caller may be gone, but what it saw is part of the conversation.
                await asyncio.shield(self._background.keep(path.memory.append_partial(reply)))
            await metered.close("cancelled")
            self._observe(path)
            if path.policy.limits.tokens_per_minute is not None:
                self._background.keep(self._count_tokens(path))

    async def _conclude(
        self,
        path: _Path,
        metered: MeteredTurn,
        reply: ChatReply,
        end: ReplyEnd,
        key: str | None,
    ) -> None:
        """Store the reply, settle and fill the cache."""
        path.disclosure.choices = reply.choices
        self._tool_models.remember(path.tenant.id, reply.choices, path.disclosure.model)
        await path.memory.append_reply(reply)
        await metered.close("complete", end)
        await self._fill_cache(path, key, end)

    async def _call(self, path: _Path, model: ServedModel) -> PreparedCall:
        turn, spec = path.turn, model.spec
        asked = turn.params.get("max_completion_tokens")
        room = model.prompt_tokens(asked)
        context = await path.memory.context_for(room, model.count, model.template)
        if turn.conversation is not None:
            path.disclosure.left_out = context.n_left_out
        params = dict(turn.params)
        if (asked, path.policy.budget, path.cap_usd) != (None, None, None):
            # A hold is a promise only where the reply cannot outgrow it.
            most_tokens = self._meter.output_tokens(model, turn, context.tokens, path.cap_usd)
            most_tokens = min(most_tokens, path.longest.get(spec.name, most_tokens))
            params["max_completion_tokens"] = most_tokens // turn.n_choices
        call = Call(
            model=spec.upstream_name,
            messages=tuple(message.to_wire() for message in context.messages),
            params=params,
            is_stream=turn.is_stream,
            request_id=turn.request_id,
            scope=self._scope_of(path.tenant),
            first_token_s=self._timeouts.first_token_s,
            idle_s=self._timeouts.idle_s,
            total_s=self._timeouts.total_s,
            target_ttft_ms=path.policy.target_ttft_ms,
        )
        return PreparedCall(call, context.tokens)

    def _scope_of(self, tenant: Tenant) -> str:
        """Return what stands for the tenant at an upstream: stable, and telling nothing."""
        return hashlib.blake2b(tenant.id.encode(), key=self._scope_key, digest_size=12).hexdigest()

    # What is told and counted.

    def _mark_served(self, path: _Path, model: ServedModel, waited_s: float = 0.0) -> None:
        disclosure = path.disclosure
        path.waited_s += waited_s
        elapsed_s = time.perf_counter() - path.started_s
        disclosure.overhead_s = max(0.0, elapsed_s - path.waited_s)
        disclosure.first_event_ms = round(elapsed_s * 1000, 3)
        disclosure.is_simulated = model.spec.is_simulated
        disclosure.is_demonstration = model.is_demonstration
        self._metrics.overhead.observe(disclosure.overhead_s)
        self._metrics.first_token.labels(model.spec.name, disclosure.tier or "").observe(elapsed_s)

    def _observe(self, path: _Path) -> None:
        disclosure = path.disclosure
        model, tier = disclosure.model or "", disclosure.tier or ""
        elapsed_s = time.perf_counter() - path.started_s
        self._metrics.duration.labels(model, tier).observe(elapsed_s)
        if disclosure.usage is not None:
            tokens = self._metrics.tokens
            tokens.labels(model, "input").inc(disclosure.usage.input_tokens)
            tokens.labels(model, "output").inc(disclosure.usage.output_tokens)

    async def _count_tokens(self, path: _Path) -> None:
        usage = path.disclosure.usage
        if usage is None:
            return
        try:
            await self._limiter.count_tokens(
                path.tenant.id, usage.input_tokens + usage.output_tokens
            )
        except STORE_FAILURES as error:
            self._degradations.failed("limits", error, path.disclosure.request_id)

    def _degrade(self, part: str, error: BaseException, disclosure: Disclosure) -> None:
        disclosure.degraded.add(part)
        self._degradations.failed(part, error, disclosure.request_id)
