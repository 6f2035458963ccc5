"""Leases: acquired, spent by their holders, and settled."""
