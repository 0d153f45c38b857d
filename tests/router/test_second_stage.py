"""Stage two: asked only where it could change the tier, and never in the way of a turn."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from memory.conversation import Message
from policies.policy import Policy
from router.correction import Correction
from router.decision import decided_again
from router.errors import ModelFileError
from router.labels import Labels, Prediction
from router.request import RouteRequest
from router.route import Router
from router.second_stage import Head, SecondStage
from router.table import RoutingTable
from tests.router.test_decision import CATALOG, POLICY, asked

HARDER = np.array([3.0, 0.0], np.float32)
ASKING: Policy = replace(POLICY, second_stage=True)


class Scores:
    """A classifier that gives one score."""

    version = "fake+1"

    def __init__(self, score: float, language: str = "en", *, is_carried: bool = False) -> None:
        self.prediction = Prediction(
            score, Labels(language=language, pii=False), is_carried=is_carried
        )

    def predict(self, messages: object) -> Prediction:
        return self.prediction


class Vectors:
    """An encoder that knows one vector, may be slow, and remembers what it was asked."""

    revision = "enc-1"

    def __init__(self, wait_s: float = 0.0, error: Exception | None = None) -> None:
        self.asked: list[tuple[str, str]] = []
        self.wait_s, self.error = wait_s, error

    def can_read(self, text: str) -> bool:
        return text.isascii()

    async def vector(self, tenant: str, text: str) -> np.ndarray:
        self.asked.append((tenant, text))
        await asyncio.sleep(self.wait_s)
        if self.error:
            raise self.error
        return np.array([1.0, 0.0], np.float32)


def head(encoder: str = "enc-1") -> Head:
    return Head(encoder, is_english=True, scale=1.0, bias=0.0, weights=HARDER)


async def routed(classifier, vectors, request: RouteRequest | None = None, **more):
    failures: list[Exception] = []
    stage = SecondStage(head(), vectors, timeout_s=0.05, on_failure=failures.append)
    router = Router(classifier, second_stage=stage, correction=more.pop("correction", None))
    policy = more.pop("policy", ASKING)
    decision = await router.route_in_stages(
        request or asked(), tenant="t", policy=policy, catalog=CATALOG
    )
    return decision, failures


async def test_an_unsure_turn_is_decided_by_both_stages_and_from_its_record_again():
    vectors = Vectors()
    decision, failures = await routed(Scores(0.35), vectors)
    assert (decision.stage, decision.tier) == (2, "strong")
    assert decision.inputs["stage_one_score"] == 0.35
    assert vectors.asked == [("t", "hello")]
    assert not failures
    table = RoutingTable.of(ASKING, CATALOG)
    assert decided_again(decision.to_wire(), table).to_wire() == decision.to_wire()


@pytest.mark.parametrize(
    ("classifier", "request_", "policy"),
    [
        (Scores(0.1), None, ASKING),  # far from both thresholds
        (Scores(0.35), None, POLICY),  # the policy does not ask for it
        (Scores(0.35, "hi"), None, ASKING),  # the encoder reads English
        (Scores(0.35, is_carried=True), None, ASKING),  # the score is an earlier turn's
        (Scores(0.35), asked("auto:best"), ASKING),
        (Scores(0.35), asked("mid"), ASKING),
        (Scores(0.35), asked(messages=[Message("tool", "3")]), ASKING),
        (Scores(0.35), asked(messages=[Message("user", " ")]), ASKING),
        (Scores(0.35), asked(messages=[Message("user", "नमस्ते")]), ASKING),
    ],
)
async def test_other_turns_never_wait_for_the_encoder(classifier, request_, policy):
    vectors = Vectors()
    decision, _ = await routed(classifier, vectors, request_, policy=policy)
    assert decision.stage == 1
    assert vectors.asked == []


@pytest.mark.parametrize("vectors", [Vectors(wait_s=5.0), Vectors(error=RuntimeError("busy"))])
async def test_late_or_broken_it_leaves_stage_ones_score_and_is_counted(vectors):
    decision, failures = await routed(Scores(0.35), vectors)
    assert (decision.stage, decision.score, decision.tier) == (1, 0.35, "small")
    assert len(failures) == 1


async def test_a_correction_comes_first_and_the_record_keeps_the_classifiers_own_score():
    correction = Correction("fake+1", offset=-3.0)
    decision, _ = await routed(Scores(0.9), Vectors(), correction=correction)
    assert decision.inputs["stage_one_score"] == 0.9
    assert decision.score is not None and decision.score > 0.4
    assert decision.classifier == f"fake+1/{correction.version}"


def test_a_head_of_another_encoder_is_refused():
    with pytest.raises(ModelFileError, match="enc-2"):
        SecondStage(head("enc-2"), Vectors())


def test_a_head_is_read_back_as_it_was_and_a_broken_one_is_refused(tmp_path):
    assert Head.load(tmp_path) is None
    head().save(tmp_path)
    again = Head.load(tmp_path)
    assert again is not None
    assert again.score(0.5, np.array([1.0, 0.0])) == head().score(0.5, np.array([1.0, 0.0]))
    (tmp_path / "second_stage.json").write_text("[]")
    with pytest.raises(ModelFileError):
        Head.load(tmp_path)
