"""Requests that are carried out once, however often they are sent with the same request id."""
