"""Policies in the dashboard: versions, what changed between them, putting and rolling back."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from gateway.dashboard.routing import replay_of
from gateway.dashboard.view import View
from gateway.errors import RequestError
from gateway.keys import ADMIN_SCOPE
from gateway.routes.dependencies import Wired
from gateway.routes.page_route import Form, PageRoute, Shown, page, see
from gateway.services import Services
from policies.errors import DocumentErrors, PolicyConflict
from policies.store import PolicyVersion, etag_of
from router.replay import Replay

router = APIRouter(route_class=PageRoute)


@dataclass(frozen=True, slots=True)
class DiffLine:
    """One line of a comparison; `sign` is `+`, `-`, a blank, or `@` for where it stands."""

    sign: str
    text: str


@router.get("/policies")
async def policies(wired: Wired, view: Shown, request: Request) -> Response:
    """Show the live policy, its versions, and how two of them differ."""
    view.viewer.require("costs")
    return await _policies(wired, view, request)


@router.post("/policies")
async def put(wired: Wired, view: Shown, fields: Form, request: Request) -> Response:
    """Compare a proposed document with the live one, or put it."""
    view.viewer.require(ADMIN_SCOPE)
    text = fields.get("document", "").replace("\r\n", "\n")
    tenant = view.tenant
    try:
        if fields.get("act") != "put":
            policy = wired.policies.check(
                text, "the document", name=tenant.policy, currency=tenant.currency
            )
            made = await replay_of(wired, view, policy)
            return await _policies(wired, view, request, proposed=text, made=made)
        version = await wired.policies.put(
            tenant.id,
            text,
            name=tenant.policy,
            if_match=fields.get("etag"),
            currency=tenant.currency,
        )
    except DocumentErrors as error:
        return await _policies(wired, view, request, proposed=text, problem=str(error))
    except PolicyConflict as error:
        problem = f"Somebody else changed the policy meanwhile. {error}"
        return await _policies(wired, view, request, proposed=text, problem=problem)
    await _note(wired, view, request, "put policy", version)
    return see(view.link("/dashboard/policies", tenant=tenant.id))


@router.post("/policies/{number}/rollback")
async def roll_back(
    wired: Wired, view: Shown, fields: Form, request: Request, number: int
) -> Response:
    """Put an earlier version again, as a new one."""
    view.viewer.require(ADMIN_SCOPE)
    if number not in {stored.version for stored in await wired.policies.versions(view.tenant.id)}:
        raise RequestError(f"There is no version {number}.", status=404, code="not_found")
    version = await wired.policies.rollback(
        view.tenant.id, number, if_match=fields.get("etag"), currency=view.tenant.currency
    )
    await _note(wired, view, request, f"roll policy back to {number}", version)
    return see(view.link("/dashboard/policies", tenant=view.tenant.id))


def diff_of(before: str, after: str) -> list[DiffLine]:
    """Return how a text became another, line by line with three lines around; empty if equal."""
    found = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=3)
    return [DiffLine(line[0], line[1:]) for line in found if not line.startswith(("+++", "---"))]


async def _policies(
    wired: Services,
    view: View,
    request: Request,
    *,
    proposed: str | None = None,
    problem: str | None = None,
    made: Replay | None = None,
) -> Response:
    versions = await wired.policies.versions(view.tenant.id)
    file_text = wired.policies.text_of(view.tenant.policy)
    live = versions[0].text if versions else file_text
    shown = _chosen(versions, view.query.get("version"))
    if proposed is not None:
        diff = diff_of(live, proposed)
    elif shown is not None:
        diff = diff_of(_before(versions, shown, file_text), shown.text)
    else:
        diff = []
    return page(
        request,
        view,
        "policies.html",
        "Policies",
        versions=versions,
        live=live,
        etag=etag_of(versions[0].version if versions else 0),
        shown=shown,
        diff=diff,
        proposed=proposed,
        problem=problem,
        made=made,
        may_change=view.viewer.tenant is None,
        name=view.tenant.policy,
    )


def _chosen(versions: Sequence[PolicyVersion], number: str | None) -> PolicyVersion | None:
    if number is None:
        return None
    for version in versions:
        if str(version.version) == number:
            return version
    raise RequestError(f"There is no version {number[:20]!r}.", status=404, code="not_found")


def _before(versions: Sequence[PolicyVersion], shown: PolicyVersion, file_text: str) -> str:
    """Return the text that stood before a version: the version below it, or the file."""
    return next(
        (version.text for version in versions if version.version == shown.version - 1), file_text
    )


async def _note(
    wired: Services, view: View, request: Request, act: str, version: PolicyVersion
) -> None:
    await wired.audit.add(
        actor=view.viewer.key_id,
        role=view.viewer.role,
        tenant=view.tenant.id,
        act=act,
        detail={"version": version.version, "name": version.name},
        request_id=request.state.request_id,
    )
