"""Subscriptions that payment providers collect: what was bought at checkouts, what providers renew, saved methods."""
