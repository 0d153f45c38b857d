"""Decides which tier and model serve a turn, and says why."""

from router.decision import RoutingDecision
from router.route import Load, Router, RouteRequest

__all__ = ["Load", "Router", "RouteRequest", "RoutingDecision"]
