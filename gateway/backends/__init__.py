"""Where answers come from: one protocol, and everything that speaks it."""

from gateway.backends.opening import open_backends

__all__ = ["open_backends"]
