"""A route of the admin surface: a change that was made leaves a line in the audit log."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from gateway.routes.dependencies import services_of

_READS = ("GET", "HEAD")


class AuditedRoute(APIRoute):
    """Notes every request that changed something, before it is acknowledged.

    `request.state.admin` is who asks, set by the dependency that let them in.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler that notes what it did."""
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            response = await answer(request)
            if request.method not in _READS and response.status_code < 400:
                # The name of somebody who was erased must not live on here.
                is_erasure = "end_user" in request.path_params
                path = self.path if is_erasure else request.url.path
                await services_of(request).audit.add(
                    actor=request.state.admin.key_id,
                    role="platform admin",
                    tenant=request.path_params.get("tenant_id", ""),
                    act=f"{request.method} {path}",
                    request_id=request.state.request_id,
                )
            return response

        return handle
