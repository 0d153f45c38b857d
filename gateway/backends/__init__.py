"""Where answers come from: one protocol, and everything that speaks it."""
