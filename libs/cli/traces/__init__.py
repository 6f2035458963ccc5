"""Reading usage traces, and metering them through the real services."""
