"""Speaks HTTP and wires everything together."""
