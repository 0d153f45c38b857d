"""Which steps of a budget were reached."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the table."""
    metadata = sa.MetaData()
    sa.Table(
        "budget_alerts",
        metadata,
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("spend_key", sa.String(256), primary_key=True),
        sa.Column("limit_micro", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at_permyriad", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("action", sa.String(80), nullable=False),
        sa.Column("settled_micro", sa.BigInteger, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
    )
    metadata.create_all(op.get_bind())
