"""The whole installation as its users start it: `tollhouse up` as a process, and everything else against that."""
