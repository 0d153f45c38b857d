"""Local models: tokens in, tokens out, behind an OpenAI-compatible server of its own process.

Public: EngineConfig, and the errors. Importing this package imports no torch; `local_models.server`
starts the process, `local_models.engine` is the engine itself.
"""

from local_models.config import EngineConfig
from local_models.errors import LocalModelError, ModelRefused, QueueFull, RequestRefused

__all__ = ["EngineConfig", "LocalModelError", "ModelRefused", "QueueFull", "RequestRefused"]
