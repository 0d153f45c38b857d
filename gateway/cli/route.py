"""turnwise route: where a text would go, decided here, without a gateway and without a write."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import (
    ConfigPath,
    JsonFlag,
    load_settings_or_fail,
    say,
    say_json,
    say_table,
)

if TYPE_CHECKING:
    from router.decision import RoutingDecision
    from router.route import Router

# Rough, and only for the estimated cost: an English token is about four characters.
_CHARACTERS_PER_TOKEN = 4
_OUTPUT_TOKENS = 512


def route(
    text: Annotated[str, typer.Argument(help="What a user would say.")],
    policy: Annotated[str, typer.Option(help="A policy's name, or its file.")] = "default",
    model: Annotated[str, typer.Option(help="auto, auto:fast, auto:best or a model.")] = "auto",
    config: ConfigPath = None,
    as_json: JsonFlag = False,
) -> None:
    """Show which tier and model would answer a text, and why."""
    from gateway.cli.policy import policy_named
    from memory.conversation import Message
    from router.request import RouteRequest

    settings = load_settings_or_fail(config, is_dry=True)
    request = RouteRequest(
        messages=[Message("user", text)],
        requested=model,
        input_tokens=max(1, len(text) // _CHARACTERS_PER_TOKEN),
        output_tokens=_OUTPUT_TOKENS,
    )
    decision = local_router().route(
        request, policy=policy_named(policy, settings), catalog=settings.catalog
    )
    if as_json:
        say_json({"decision": decision.to_wire()})
    else:
        _explain(decision)


def local_router() -> Router:
    """Return a router with the shipped classifier, without one where it cannot be loaded."""
    from router.classifier import OnnxClassifier
    from router.errors import ModelFileError
    from router.route import Router

    try:
        return Router(OnnxClassifier.load())
    except ModelFileError as error:
        logging.getLogger("turnwise.router").warning("%s", error)
        return Router(None)


def _explain(decision: RoutingDecision) -> None:
    wire = decision.to_wire()
    score = "unknown" if decision.score is None else f"{decision.score:.3f}"
    say(f"tier {decision.tier}, model {decision.model}: {decision.reason.value}, score {score}")
    labels = {name: value for name, value in wire["labels"].items() if value is not None}
    say("labels: " + ", ".join(f"{name} {value}" for name, value in labels.items()))
    say(f"policy {decision.policy}, classifier {decision.classifier}")
    say()
    rows = [
        (
            candidate["tier"],
            candidate["model"],
            candidate["excluded_by"] or "-",
            "unknown"
            if candidate["estimated_cost_micro"] is None
            else candidate["estimated_cost_micro"],
        )
        for candidate in wire["candidates"]
    ]
    say_table(("tier", "model", "excluded by", "estimated cost, micro"), rows)
