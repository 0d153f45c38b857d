"""What routes ask for: the services, and the caller with a scope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request

from gateway.auth import Principal
from gateway.services import Services


def services_of(request: Request) -> Services:
    """Return the services that app.py put together."""
    services: Services = request.app.state.services
    return services


def require(scope: str) -> Callable[[Request], Awaitable[Principal]]:
    """Return a dependency that answers the caller's Principal, with the scope checked.

    Raises (from the dependency):
        InvalidKey: 401.
        InsufficientScope: 403.
    """

    async def principal_of(request: Request) -> Principal:
        principal = await services_of(request).authenticator.authenticate(request.headers)
        principal.require(scope)
        return principal

    return principal_of


Wired = Annotated[Services, Depends(services_of)]
