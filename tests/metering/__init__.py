"""Metering, with real billing and identity behind it."""
