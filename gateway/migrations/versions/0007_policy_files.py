"""The texts that policy files have had."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the table."""
    metadata = sa.MetaData()
    sa.Table(
        "policy_files",
        metadata,
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.String(32), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("seen_us", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("name", "digest", name="policy_files_by_digest"),
    )
    metadata.create_all(op.get_bind())
