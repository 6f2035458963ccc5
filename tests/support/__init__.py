"""Test code that several test folders share."""
