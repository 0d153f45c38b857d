"""The database's shape, step by step; `gateway.database.upgrade` walks them."""
