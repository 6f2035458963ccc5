"""Subscriptions: the periods that plans are charged for."""
