"""Router: a turn's text to a prediction, then to a decision; with the safe tier when that fails.

Synchronous, and pure apart from the ONNX call: it reads no store, no clock and no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from memory.conversation import Message
from policies.budget import BudgetState
from policies.catalog import ModelCatalog
from policies.policy import Policy
from router.decision import RoutingDecision, decide
from router.labels import Labels, Prediction
from router.pii import has_pii
from router.request import Load, RouteRequest
from router.table import RoutingTables

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
    safe tier. `draw` gives uniform numbers in [0, 1) for policies that explore; `on_failure` is
    called with each error of the classifier, to be counted.
    """

    def __init__(
        self,
        classifier: TurnClassifier | None,
        *,
        draw: Callable[[], float] | None = None,
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        self._classifier = classifier
        self._draw = draw
        self._on_failure = on_failure
        self._tables = RoutingTables()

    @property
    def is_ready(self) -> bool:
        """Whether a classifier is loaded; readiness shows it."""
        return self._classifier is not None

    @property
    def classifier(self) -> str:
        """The version of the loaded model file, `none` without one."""
        return self._classifier.version if self._classifier else "none"

    def route(
        self,
        request: RouteRequest,
        *,
        policy: Policy,
        catalog: ModelCatalog,
        budget_state: BudgetState | None = None,
        load: Mapping[str, Load] | None = None,
    ) -> RoutingDecision:
        """Return where the turn goes and why; see `decide` for what is raised."""
        prediction = self.predict(request)
        return decide(
            request,
            prediction,
            self._tables.of(policy, catalog),
            used_share=budget_state.used_share if budget_state else None,
            load=load,
            labels=None if prediction else _labels_without_classifier(request),
            classifier=self.classifier,
            draw=self._draw() if self._draw and policy.explore > 0 else None,
        )

    def predict(self, request: RouteRequest) -> Prediction | None:
        """Return what the classifier says of the turn, None when it cannot."""
        if self._classifier is None:
            return None
        try:
            return self._classifier.predict(request.messages)
        except Exception as error:  # noqa: BLE001 - whatever breaks in it, the turn is answered
            if self._on_failure is not None:
                self._on_failure(error)
            return None


def _labels_without_classifier(request: RouteRequest) -> Labels:
    """Return the facts that need no model: identifiers of people are found by form alone."""
    return Labels(pii=has_pii(message.text for message in request.messages))
