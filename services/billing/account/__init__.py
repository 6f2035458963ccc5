"""Accounts: opening, terms, balances and statements."""
