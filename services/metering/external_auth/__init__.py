"""Envoy's external authorization: the API key, the balance and the limits decide whether a request passes a proxy."""
