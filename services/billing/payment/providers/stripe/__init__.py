"""Stripe: its signatures, its objects as facts, and calls of its API."""
