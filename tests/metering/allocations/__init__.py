"""AllocateQuota and ReleaseQuota."""
