"""Authorizes calls before the work, and settles or cancels them afterwards."""
