"""Router: a turn's text to a prediction, then to a decision; with the safe tier when that fails.

Pure apart from the models: it reads no store, no clock and no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from memory.conversation import Message
from policies.budget import BudgetState
from policies.catalog import ModelCatalog
from policies.policy import Policy
from router.correction import Correction
from router.decision import RoutingDecision, decide
from router.labels import Labels, Prediction
from router.pii import has_pii
from router.request import Load, RouteRequest
from router.second_stage import SecondStage
from router.table import RoutingTable, RoutingTables

__all__ = ["Load", "RouteRequest", "Router", "TurnClassifier"]


class TurnClassifier(Protocol):
    """Tells what a turn needs; `version` names its files."""

    version: str

    def predict(self, messages: Sequence[Message]) -> Prediction:
        """Return the prediction for the newest turn of a conversation."""
        ...


class Router:
    """Decides where turns go; one for the whole process, safe to call from any thread.

    `classifier` is None when its files could not be loaded: each turn then goes to its policy's
    safe tier. `correction` is what was learned from recorded outcomes, `second_stage` what is asked
    where the policy wants it and the score is close to a threshold. `draw` gives uniform numbers in
    [0, 1) for policies that explore; `on_failure` is called with each error of the classifier, to
    be counted.
    """

    def __init__(
        self,
        classifier: TurnClassifier | None,
        *,
        correction: Correction | None = None,
        second_stage: SecondStage | None = None,
        draw: Callable[[], float] | None = None,
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        self._classifier = classifier
        self._correction = correction
        self._second_stage = second_stage
        self._draw = draw
        self._on_failure = on_failure
        self._tables = RoutingTables()

    @property
    def is_ready(self) -> bool:
        """Whether a classifier is loaded; readiness shows it."""
        return self._classifier is not None

    @property
    def classifier(self) -> str:
        """The version of the loaded model file and of its correction, `none` without one."""
        if self._classifier is None:
            return "none"
        version = self._classifier.version
        return f"{version}/{self._correction.version}" if self._correction else version

    def route(
        self,
        request: RouteRequest,
        *,
        policy: Policy,
        catalog: ModelCatalog,
        budget_state: BudgetState | None = None,
        load: Mapping[str, Load] | None = None,
    ) -> RoutingDecision:
        """Return where the turn goes by stage one, and why; see `decide` for what is raised."""
        table = self._tables.of(policy, catalog)
        return self._decided(request, self.predict(request), table, budget_state, load)

    async def route_in_stages(
        self,
        request: RouteRequest,
        *,
        tenant: str,
        policy: Policy,
        catalog: ModelCatalog,
        budget_state: BudgetState | None = None,
        load: Mapping[str, Load] | None = None,
    ) -> RoutingDecision:
        """Return where the turn goes, the sentence encoder asked where stage one is unsure.

        The tenant salts what is remembered of its texts. A turn that is sure waits for nothing.
        """
        table = self._tables.of(policy, catalog)
        prediction = self.predict(request)
        if self._second_stage is not None and prediction is not None and policy.second_stage:
            prediction = await self._second_stage.asked(tenant, request, prediction, table)
        return self._decided(request, prediction, table, budget_state, load)

    def _decided(
        self,
        request: RouteRequest,
        prediction: Prediction | None,
        table: RoutingTable,
        budget_state: BudgetState | None,
        load: Mapping[str, Load] | None,
    ) -> RoutingDecision:
        return decide(
            request,
            prediction,
            table,
            used_share=budget_state.used_share if budget_state else None,
            load=load,
            labels=None if prediction else _labels_without_classifier(request),
            classifier=self.classifier,
            draw=self._draw() if self._draw and table.policy.explore > 0 else None,
        )

    def predict(self, request: RouteRequest) -> Prediction | None:
        """Return what the classifier says of the turn, None when it cannot."""
        if self._classifier is None:
            return None
        try:
            prediction = self._classifier.predict(request.messages)
            return self._correction.of(prediction) if self._correction else prediction
        except Exception as error:  # noqa: BLE001 - whatever breaks in it, the turn is answered
            if self._on_failure is not None:
                self._on_failure(error)
            return None


def _labels_without_classifier(request: RouteRequest) -> Labels:
    """Return the facts that need no model: identifiers of people are found by form alone."""
    return Labels(pii=has_pii(message.text for message in request.messages))
