"""Learning on, from end to end: outcomes in a real ledger, the command, a corrected score."""

from __future__ import annotations

import asyncio
import random
import shutil
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from gateway.cli.output import CommandFailed
from gateway.cli.router import train
from gateway.database import open_database
from memory.conversation import Message
from policies.outcomes import Outcome, Outcomes, OutcomeSource
from policies.tables import turns_table
from router.classifier import MODEL_FOLDER, OnnxClassifier
from router.correction import Correction
from router.route import Router
from router.table import RoutingTable
from tests.router.test_decision import CATALOG, POLICY, asked, decide, scored
from tests.tables import make_tables


def ledger_of(path: Path, n: int, classifier: str) -> None:
    """Write turns of the cheapest tier that failed far more often than their score says."""
    engine = open_database(f"sqlite:///{path}")
    make_tables(engine)
    table, draw = RoutingTable.of(POLICY, CATALOG), random.Random(4)
    outcomes, rows, kept = Outcomes(engine), [], []
    for number in range(n):
        prediction = scored(draw.uniform(0.05, 0.35))
        decision = decide(asked(), prediction, table, classifier=classifier).to_wire()
        record = {"decision": decision, "cache": "none"}
        texts = ("status", "model", "tier", "end_user", "tags", "currency")
        rows.append(
            {
                **dict.fromkeys(texts, ""),
                "tier": "small",
                "tenant": "demo",
                "request_id": f"req_{number}",
                "started_us": number,
                "ended_us": number,
                "is_orphan": False,
                "record": orjson.dumps(record).decode(),
            }
        )
        score = float(draw.random() < 0.3)
        kept.append(Outcome("demo", f"req_{number}", OutcomeSource.USER, score))
    with engine.begin() as connection:
        connection.execute(turns_table.insert(), rows)

    async def record() -> None:
        for outcome in kept:
            await outcomes.record(outcome, datetime.now(UTC))

    asyncio.run(record())
    engine.dispose()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "model"
    shutil.copytree(MODEL_FOLDER, target)
    return target


def configured(tmp_path: Path, ledger: Path) -> Path:
    file = tmp_path / "turnwise.yaml"
    file.write_text(
        f'ledger: {{url: "sqlite:///{ledger}"}}\n'
        "backends: {near: {kind: simulated, region: on_premises}}\n"
        "models: {local-small: {backend: near, name: n, context_tokens: 2048},\n"
        "         strong: {backend: near, name: s, context_tokens: 9000}}\n"
    )
    return file


def test_outcomes_in_the_ledger_raise_a_score_that_was_too_low(tmp_path, folder, capsys):
    classifier = OnnxClassifier.load(folder)
    ledger_of(tmp_path / "ledger.db", 400, classifier.version)
    train(from_ledger=True, out=folder, config=configured(tmp_path, tmp_path / "ledger.db"))
    assert "recorded_turns: 400" in capsys.readouterr().out
    correction = Correction.load(folder, classifier.version)
    request = asked(messages=[Message("user", "hello, how are you?")])
    before = Router(classifier).predict(request)
    after = Router(classifier, correction=correction).predict(request)
    assert before is not None and after is not None
    assert after.score > before.score + 0.1


def test_a_ledger_with_too_few_outcomes_changes_nothing(tmp_path, folder):
    ledger_of(tmp_path / "ledger.db", 5, "another model")
    with pytest.raises(CommandFailed, match="0 turns teach too little"):
        train(from_ledger=True, out=folder, config=configured(tmp_path, tmp_path / "ledger.db"))
    assert not (folder / "correction.json").exists()
