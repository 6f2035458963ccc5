"""Tollhouse for LiteLLM's proxy: its keys are keys of the proxy, and every call is authorized before and charged after.

`plugin` has what the proxy's configuration names; the other modules can be imported without LiteLLM.
"""
