"""What a tenant may use, and what it costs."""
