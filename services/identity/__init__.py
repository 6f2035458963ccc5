"""Identity owns who is calling: users, organizations, their members and projects, and the API keys that act for them.

It refuses to know what a call costs or whether it is paid for: metering and billing hold ids of identity's resources
and ask nothing but whose key was presented.
"""
