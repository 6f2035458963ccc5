"""WatchOrganizations: the feed of organizations, and its subscribers."""
