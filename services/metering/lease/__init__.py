"""Leases: slices of limits and money that holders spend by themselves and settle later."""
