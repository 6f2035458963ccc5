"""Tests of the whole installation: `tollhouse up` runs as a process, and the tests call it."""
