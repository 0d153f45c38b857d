"""Router: what it hands on, and what it does when the classifier fails."""

from __future__ import annotations

from decimal import Decimal

from memory.conversation import Message
from policies.catalog import ModelCatalog, ModelSpec, Price
from policies.policy import Policy, Rule, Tier
from router.decision import Reason
from router.labels import Labels, Prediction
from router.request import RouteRequest
from router.route import Router

CATALOG = ModelCatalog(
    {
        name: ModelSpec(
            name, "b", name, 8000, price=Price(busy_second_usd=Decimal(1)), region=region
        )
        for name, region in (("weak", "on_premises"), ("able", None))
    }
)
POLICY = Policy(
    name="p",
    version=1,
    tiers=(Tier("small", ("weak",)), Tier("strong", ("able",))),
    thresholds={"strong": 0.5},
    floor="small",
    ceiling="strong",
    safe="strong",
)
REQUEST = RouteRequest(messages=[Message("user", "hello")])


class FakeClassifier:
    """Says what it is told to, or breaks."""

    version = "fake+1"

    def __init__(self, score: float | None) -> None:
        self.score = score

    def predict(self, messages: object) -> Prediction:
        if self.score is None:
            raise RuntimeError("broken")
        return Prediction(self.score, Labels(language="en", pii=False, unsafe=False))


def test_the_score_of_the_classifier_picks_the_tier():
    for score, tier in ((0.1, "small"), (0.9, "strong")):
        decision = Router(FakeClassifier(score)).route(REQUEST, policy=POLICY, catalog=CATALOG)
        assert (decision.tier, decision.classifier) == (tier, "fake+1")


def test_a_missing_classifier_sends_turns_to_the_safe_tier():
    router = Router(None)
    decision = router.route(REQUEST, policy=POLICY, catalog=CATALOG)
    assert not router.is_ready
    assert (decision.tier, decision.reason) == ("strong", Reason.CLASSIFIER_UNAVAILABLE)
    assert decision.classifier == "none"


def test_a_failing_classifier_is_counted_and_the_turn_still_routed():
    failures: list[Exception] = []
    router = Router(FakeClassifier(None), on_failure=failures.append)
    decision = router.route(REQUEST, policy=POLICY, catalog=CATALOG)
    assert decision.reason is Reason.CLASSIFIER_UNAVAILABLE
    assert len(failures) == 1


def test_identifiers_bind_even_while_the_classifier_is_away():
    rule = Rule(when={"pii": (True,)}, boundary="on_premises")
    policy = Policy(**{**_fields(POLICY), "rules": (rule,)})
    private = RouteRequest(messages=[Message("user", "my PAN is ABCPE1234F")])
    assert Router(None).route(private, policy=policy, catalog=CATALOG).model == "weak"
    assert Router(None).route(REQUEST, policy=policy, catalog=CATALOG).model == "able"


def _fields(policy: Policy) -> dict[str, object]:
    return {name: getattr(policy, name) for name in policy.__dataclass_fields__}
