"""Payments: money from outside, what it brings, and what is taken back when it is refunded or disputed."""
