"""IntegrityService: whether what identity stores still makes sense."""
