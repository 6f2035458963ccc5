"""Metering: may a call begin, how much did it use, and what does that cost.

Owns the catalogue of models and prices, the usage records with their hourly summaries, and the outbox that carries
every charge to billing. It refuses to know balances, holds and ledgers (billing) and people and keys (identity): of
both it keeps ids only, and asks the owner when it must know more.
"""
