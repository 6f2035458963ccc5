"""Identity owns who is calling: users, organizations, their members and projects, and the API keys that act for them.

It does not know what a call costs or whether it is paid for. Metering and billing store ids of identity's resources and
ask identity only whose key or session a call came with.
"""
