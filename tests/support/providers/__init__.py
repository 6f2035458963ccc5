"""Fakes of providers of payments: their published HTTP API over loopback, their objects, and their signed webhooks."""
