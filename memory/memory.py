"""Memory as the gateway sees it: open a conversation, build a context, append.

Owns the process-local copies of conversations and the order of the steps. Knows no HTTP, no model
and no policy; the caller says how many tokens there are and how to count them.
"""

from __future__ import annotations
