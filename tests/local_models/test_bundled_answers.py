"""What the shipped weights answer: the prompts that a newcomer tries first, greedy, int8."""

from __future__ import annotations

import pytest

from local_models.bundled.evaluate import converse
from local_models.bundled.unseen import newcomer_conversations
from local_models.config import EngineConfig
from local_models.engine import Engine, load_engine
from local_models.store import BUNDLED
from local_models.text import TextCodec


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load_engine(EngineConfig(model="bundled"))


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    return TextCodec.from_folder(BUNDLED)


@pytest.mark.parametrize(
    ("turns", "right"),
    [pytest.param(turns, right, id=turns[-1]) for turns, right in newcomer_conversations()],
)
def test_a_newcomer_is_answered_sensibly(engine, codec, turns, right):
    assert converse(engine, codec, turns)[-1]["content"] in right
