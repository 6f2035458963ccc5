"""Billing: who pays.

Owns accounts, the movements between them, holds and declines, and the rule that one operation id moves money once; and
the plans that can be subscribed to. It does not know what was used, at which price, or whose API key was presented:
metering tells it an amount and a name for the work.
"""
