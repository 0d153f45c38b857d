"""SummaryWriter: summaries by a tenant's cheapest allowed model, charged to the tenant.

A helper call goes the way of a turn: the router chooses inside the policy's boundary and ceiling,
the meter holds and settles. Whatever stands in its way means no summary, never an error: the caller
then quotes.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from gateway.backends.base import Call, ReplyDelta, ReplyEnd
from gateway.errors import GatewayError
from gateway.holds import Plan
from gateway.load import Loads
from gateway.meter import Meter
from gateway.metered_turn import MeteredTurn
from gateway.models import ServedModel
from gateway.settings import Timeouts
from gateway.telemetry import Degradations
from gateway.tenants import Tenant, TenantStore
from gateway.token_count import count_messages
from gateway.turn import Disclosure, Turn
from memory.conversation import Message
from policies.catalog import ModelCatalog
from policies.errors import PolicyError
from policies.policy import Policy
from policies.store import PolicyStore
from router.errors import RouterError
from router.request import FAST, RouteRequest
from router.route import Router

_OUTPUT_TOKENS = 300
# Shorter than the time after which another worker takes a job over, so that none is paid for twice.
_LONGEST_S = 30.0
_EXPECTED = (GatewayError, PolicyError, RouterError, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One summary on its way."""

    turn: Turn
    tenant: Tenant
    policy: Policy
    disclosure: Disclosure


class SummaryWriter:
    """Writes summaries for the tenants whose policy says `memory.summary: abstractive`."""

    def __init__(
        self,
        *,
        tenants: TenantStore,
        policies: PolicyStore,
        catalog: ModelCatalog,
        router: Router,
        models: Mapping[str, ServedModel],
        loads: Loads,
        meter: Meter,
        timeouts: Timeouts,
        scope_key: bytes,
        new_id: Callable[[str], str],
        degradations: Degradations,
    ) -> None:
        self._tenants = tenants
        self._policies = policies
        self._catalog = catalog
        self._router = router
        self._models = models
        self._loads = loads
        self._meter = meter
        self._timeouts = timeouts
        self._scope_key = scope_key[:64]
        self._new_id = new_id
        self._degradations = degradations
        self._helpers: dict[str, tuple[Policy | None, Policy]] = {}

    async def complete(self, tenant_id: str, prompt: str) -> str | None:
        """Return a model's answer to the prompt, None where none is wanted or to be had."""
        tenant = await self._tenants.tenant(tenant_id)
        if tenant is None:
            return None
        policy = self._policies.policy_of(tenant.id, tenant.policy)
        if not policy.memory.is_abstractive:
            return None
        policy = self._for_helpers(tenant.id, policy)
        request_id = self._new_id("req")
        turn = Turn(request_id, (Message("user", prompt),), requested=FAST, kind="summary")
        disclosure = Disclosure(request_id, self._meter.clock(), policy=policy.label)
        try:
            async with asyncio.timeout(_LONGEST_S):
                return await self._ask(_Asked(turn, tenant, policy, disclosure))
        except _EXPECTED as error:
            self._degradations.failed("summary", error, request_id)
            return None

    def _for_helpers(self, tenant_id: str, policy: Policy) -> Policy:
        """Return the tenant's policy for helpers, the same value as long as the policy is."""
        made_of, made = self._helpers.get(tenant_id, (None, policy))
        if made_of is not policy:
            made = policy.for_helpers()
            self._helpers[tenant_id] = (policy, made)
        return made

    async def _ask(self, asked: _Asked) -> str | None:
        model, input_tokens = await self._choose(asked)
        plan = Plan([model], input_tokens, lambda _: _OUTPUT_TOKENS)
        metered = await self._meter.open(
            asked.turn, asked.tenant, asked.policy, asked.disclosure, plan
        )
        try:
            metered.asked(model, input_tokens)
            return await self._collected(asked, model, metered)
        except Exception as error:
            await metered.close("failed", error=f"{type(error).__name__}: {error}")
            raise
        finally:
            await metered.close("cancelled")

    async def _choose(self, asked: _Asked) -> tuple[ServedModel, int]:
        """Return the model that the policy's floor allows and the tokens of the prompt."""
        turn, policy, disclosure = asked.turn, asked.policy, asked.disclosure
        cheapest = self._models[policy.tiers[0].models[0]]
        decision = self._router.route(
            RouteRequest(
                messages=turn.messages,
                requested=turn.requested,
                input_tokens=count_messages(turn.messages, cheapest.count),
                output_tokens=_OUTPUT_TOKENS,
            ),
            policy=policy,
            catalog=self._catalog,
            budget_state=await self._meter.budget_state(asked.tenant, policy, disclosure),
            load=self._loads.now(),
        )
        disclosure.decision = decision
        disclosure.tier, disclosure.model = decision.tier, decision.model
        model = self._models[decision.model]
        return model, count_messages(turn.messages, model.count)

    async def _collected(
        self, asked: _Asked, model: ServedModel, metered: MeteredTurn
    ) -> str | None:
        """Return the whole answer, None where it was cut short."""
        texts: list[str] = []
        finish_reason: str | None = None
        async with aclosing(model.backend.stream(self._call(asked, model))) as events:
            async for event in events:
                if isinstance(event, ReplyDelta):
                    metered.delivered(event)
                    texts.append(event.content or "")
                    finish_reason = event.finish_reason or finish_reason
                elif isinstance(event, ReplyEnd):
                    await metered.close("complete", event)
        return "".join(texts) if finish_reason == "stop" else None

    def _call(self, asked: _Asked, model: ServedModel) -> Call:
        tenant = asked.tenant.id.encode()
        return Call(
            model=model.spec.upstream_name,
            messages=tuple(message.to_wire() for message in asked.turn.messages),
            params={"max_completion_tokens": _OUTPUT_TOKENS, "temperature": 0},
            is_stream=False,
            request_id=asked.turn.request_id,
            scope=hashlib.blake2b(tenant, key=self._scope_key, digest_size=12).hexdigest(),
            first_token_s=self._timeouts.first_token_s,
            idle_s=self._timeouts.idle_s,
            total_s=_LONGEST_S,
        )
