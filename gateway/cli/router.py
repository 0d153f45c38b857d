"""turnwise router: score prompts with the shipped classifier; train, evaluate and calibrate it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from time import thread_time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.output import (
    CommandFailed,
    ConfigPath,
    JsonFlag,
    load_settings_or_fail,
    note,
    say,
    say_json,
)

if TYPE_CHECKING:
    from memory.conversation import Message
    from router.classifier import OnnxClassifier
    from router.decision import RoutingDecision
    from router.judged import Judged, JudgedSet
    from router.labels import Prediction

app = typer.Typer(help="Score, train, evaluate and calibrate the router.", no_args_is_help=True)


@app.command()
def score(
    source: Annotated[Path, typer.Option("--in", help="JSON lines: id and messages.")],
    target: Annotated[
        Path | None, typer.Option("--out", help="JSON lines; left out, standard output.")
    ] = None,
    policy: Annotated[str, typer.Option(help="A policy's file, or its name.")] = "default",
    timings: Annotated[bool, typer.Option("--timings", help="Add cpu_ms to each line.")] = False,
    config: ConfigPath = None,
) -> None:
    """Score conversations: P(the cheapest tier is not good enough), tier and labels of each."""
    from gateway.cli.policy import policy_named
    from gateway.cli.route import local_router
    from router.errors import RouterError
    from router.request import RouteRequest

    if not source.exists():
        raise CommandFailed(f"there is no file {source}", code=2)
    settings = load_settings_or_fail(config, is_dry=True)
    rules, router = policy_named(policy, settings), local_router()
    if not router.is_ready:
        raise CommandFailed("without a classifier there are no scores")
    n_scored = 0
    opened = nullcontext() if target is None else target.open("w", encoding="utf-8")
    with opened as file:
        for name, messages in _conversations(source):
            request = RouteRequest(messages=messages)
            started_s = thread_time()
            try:
                decision = router.route(request, policy=rules, catalog=settings.catalog)
            except RouterError as error:
                decision = None
                note(f"{name}: {error}")
            cpu_s = thread_time() - started_s
            row = _row(name, decision) if decision else _row(name, router.predict(request))
            if timings:
                row["cpu_ms"] = round(cpu_s * 1000, 4)
            line = json.dumps(row, ensure_ascii=False)
            if file is None:
                say(line)
            else:
                file.write(line + "\n")
            n_scored += 1
    note(f"{n_scored} conversations scored by {router.classifier} under {rules.label}")


@app.command()
def train(
    data: Annotated[
        Path | None, typer.Option(help="The data folder; docs/routing-data.md says what is in it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the model goes; left out, over the shipped one.")
    ] = None,
    from_ledger: Annotated[
        bool, typer.Option("--from-ledger", help="Learn from recorded turns with outcomes as well.")
    ] = False,
    second_stage: Annotated[
        bool, typer.Option("--second-stage", help="Fit the second stage's head; needs --data.")
    ] = False,
    tenant: Annotated[
        str | None, typer.Option(help="With --from-ledger: this tenant's turns alone.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """Train the classifier on a data folder, correct it by recorded outcomes, or both.

    Recorded turns give a small correction beside the model: it is written only where it foretells
    failures better on turns left out of its fit.
    """
    from router.classifier import MODEL_FOLDER

    if data is None and not from_ledger:
        raise CommandFailed("give --data, --from-ledger, or both", code=2)
    if second_stage and data is None:
        raise CommandFailed("--second-stage needs --data", code=2)
    target = out or MODEL_FOLDER
    about: dict[str, Any] = {}
    if data is not None:
        _require_folder(data)
        if second_stage:
            from router.train_second_stage import train_second_stage

            with progress_bar("encoding") as progress:
                about |= train_second_stage(data, target, seed=seed, progress=progress)
        else:
            from router.train import train as train_model

            about |= train_model(data, target, seed=seed, progress=lambda step: note(f"{step} …"))
    if from_ledger:
        about |= _learn_from_ledger(target, tenant, config, seed)
    if as_json:
        say_json(about)
    else:
        say(f"written to {target}")
        for name, value in about.items():
            say(f"  {name}: {value}")


def _learn_from_ledger(
    target: Path, tenant: str | None, config: Path | None, seed: int
) -> dict[str, Any]:
    from gateway.database import open_database, upgrade
    from policies.outcomes import Outcomes
    from router.correction import CORRECTION_FILE
    from router.recorded import fit_correction, recorded_turn

    settings = load_settings_or_fail(config)
    engine = open_database(settings.ledger.url)
    try:
        upgrade(engine)  # a ledger that never ran has no outcomes, and that is no error
        found = asyncio.run(Outcomes(engine).of_turns(tenant))
    finally:
        engine.dispose()
    classifier = _classifier(target).version
    turns = [
        turn
        for each in found
        if (turn := recorded_turn(each.decision, each.tier, each.outcome.score, classifier))
    ]
    note(f"{len(found)} outcomes, of which {len(turns)} tell of the cheapest tier and this model")
    try:
        fitted = fit_correction(turns, classifier, seed=seed)
    except ValueError as error:
        raise CommandFailed(str(error)) from error
    figures = {
        "recorded_turns": fitted.turns,
        "log_loss_before": round(fitted.loss_before, 4),
        "log_loss_after": round(fitted.loss_after, 4),
    }
    if not fitted.helps:
        raise CommandFailed(f"the correction does not help on turns left out: {figures}")
    (target / CORRECTION_FILE).write_text(fitted.correction.to_json() + "\n", "utf-8")
    return {**figures, "correction": fitted.correction.version}


@app.command()
def evaluate(
    out: Annotated[Path, typer.Option(help="Where the table, figures and picture go.")],
    data: Annotated[
        Path | None, typer.Option(help="The data folder; docs/routing-data.md says what is in it.")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="scores.jsonl of an earlier run: report only, no fitting.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Measure the classifier on sources it has not seen, beside controls; fits once per fold."""
    from router.classifier import MODEL_FOLDER
    from router.evaluate import evaluate as evaluate_model
    from router.judged import SCORES_FILE, read_judged, write_judged
    from router.report import markdown_of, write_report

    if (data is None) == (scores is None):
        raise CommandFailed("give one of --data and --scores", code=2)
    judged: list[Judged] = []
    if data is not None:
        _require_folder(data)
        with progress_bar("evaluating") as progress:
            for fold in evaluate_model(data, model_dir=MODEL_FOLDER, seed=seed, progress=progress):
                judged += fold
                write_judged(judged, out / SCORES_FILE)  # what is done stays, whatever comes
    else:
        assert scores is not None  # one of the two is given
        try:
            judged = read_judged(scores)
        except (OSError, ValueError) as error:
            raise CommandFailed(f"{scores} cannot be read: {error}", code=2) from error
    rows = write_report(judged, out, seed=seed)
    if as_json:
        say_json({name: asdict(row) for name, row in rows.items()})
    else:
        say(markdown_of(rows).rstrip())
        note(f"written to {out}")


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[float, str], None]]:
    """Yield what is told the share done and the step; a bar on a terminal, else lines."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, step: note(f"{done:4.0%} {step}")
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda done, step: bar.update(task, completed=done, description=step[:60])


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise CommandFailed(f"there is no folder {folder}", code=2)


@app.command()
def calibrate(
    strong_share: Annotated[
        float | None, typer.Option(help="Cost target: share of turns for the strong tier.")
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(help="Quality target: share of the gap between weak and strong; --scores."),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--in", help="Your own traffic: JSON lines with messages.")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="scores.jsonl of `turnwise router evaluate`.")
    ] = None,
    tier: Annotated[str, typer.Option(help="The tier above the threshold.")] = "strong",
    as_json: JsonFlag = False,
) -> None:
    """Choose a policy's threshold for a cost or a quality target, and print its YAML lines.

    With --scores each figure is of a set that took no part: neither in the fit that scored it nor
    in the choice of the threshold.
    """
    from router import calibrate as calibration

    if (strong_share is None) == (quality is None) or (source is None) == (scores is None):
        raise CommandFailed("give a target and what to choose on: --in or --scores", code=2)
    if quality is not None and scores is None:
        raise CommandFailed("a quality target needs outcomes: give --scores", code=2)
    aim: calibration.Aim = "quality" if quality is not None else "strong_share"
    effects: dict[str, calibration.Effect] = {}
    try:
        target = calibration.Target(aim, quality if quality is not None else strong_share or 0.0)
        if source is not None:
            own = calibration.scores_of_file(source, _classifier())
            threshold = calibration.threshold_for_share(own, target.value)
        else:
            sets = _judged_sets(scores)
            threshold = calibration.threshold_for(sets, target)
            effects = calibration.effects_unseen(sets, target)
    except (OSError, ValueError) as error:
        raise CommandFailed(str(error), code=2) from error
    if as_json:
        unseen = {name: asdict(effect) for name, effect in effects.items()}
        say_json({"thresholds": {tier: threshold}, "unseen": unseen})
        return
    if effects:
        say("# On each set, by a threshold chosen on the others; a coin recovers the strong share.")
        say(f"# {'set':18} threshold  strong share  gap recovered  quality")
        for name, effect in effects.items():
            say(
                f"# {name:18} {effect.threshold:9.4f} {effect.strong_share:13.3f}"
                f" {effect.recovered:14.3f} {effect.quality:8.3f}"
            )
    say(calibration.policy_lines({tier: threshold}))


def _judged_sets(path: Path | None) -> list[JudgedSet]:
    from router.judged import LEAST_GAP, read_judged, sets_of

    assert path is not None  # the command has asked for one of two
    return sets_of(read_judged(path), least_gap=LEAST_GAP)


def _classifier(folder: Path | None = None) -> OnnxClassifier:
    from router.classifier import MODEL_FOLDER, OnnxClassifier
    from router.errors import ModelFileError

    try:
        return OnnxClassifier.load(folder or MODEL_FOLDER)
    except ModelFileError as error:
        raise CommandFailed(str(error)) from error


def _row(name: Any, scored: RoutingDecision | Prediction | None) -> dict[str, Any]:
    score = scored.score if scored else None
    return {
        "id": name,
        "score": None if score is None else round(score, 6),
        "tier": getattr(scored, "tier", None),
        "labels": scored.labels.to_wire() if scored else {},
    }


def _conversations(path: Path) -> Iterator[tuple[Any, list[Message]]]:
    from memory.conversation import message_from_wire

    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    yield row["id"], [message_from_wire(message) for message in row["messages"]]
                except (ValueError, KeyError, TypeError) as error:
                    raise CommandFailed(
                        f"{path}:{number}: a line holds id and messages with role and content: "
                        f"{type(error).__name__} {error}",
                        code=2,
                    ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{path} cannot be read: {error}", code=2) from error
