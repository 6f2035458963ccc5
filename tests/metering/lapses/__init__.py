"""Authorized calls whose settlement never comes."""
