"""Envoy's global rate limit service: limits decide whether a request passes a proxy."""
