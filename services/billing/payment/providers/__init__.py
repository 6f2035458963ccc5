"""The providers of payments, each in a folder of its own. Nothing outside a folder knows its provider's words."""
