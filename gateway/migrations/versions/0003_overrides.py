"""A version of a policy may end by itself."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the moment at which a version ends."""
    known = sa.inspect(op.get_bind()).get_columns("policy_versions")
    if not any(column["name"] == "until_us" for column in known):
        op.add_column("policy_versions", sa.Column("until_us", sa.BigInteger))
