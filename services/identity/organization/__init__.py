"""OrganizationService: organizations, their members and invitations."""
