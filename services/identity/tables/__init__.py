"""The tables of the schema `identity`, as the newest migration leaves them."""

from services.identity.tables.api_keys import api_key_notices as api_key_notices
from services.identity.tables.api_keys import api_keys as api_keys
from services.identity.tables.api_keys import imported_prefixes as imported_prefixes
from services.identity.tables.changes import CHANGES_CHANNEL as CHANGES_CHANNEL
from services.identity.tables.changes import key_changes as key_changes
from services.identity.tables.changes import requests as requests
from services.identity.tables.changes import revision_counter as revision_counter
from services.identity.tables.columns import SCHEMA as SCHEMA
from services.identity.tables.columns import metadata as metadata
from services.identity.tables.organizations import invitations as invitations
from services.identity.tables.organizations import members as members
from services.identity.tables.organizations import organizations as organizations
from services.identity.tables.organizations import project_members as project_members
from services.identity.tables.organizations import projects as projects
from services.identity.tables.organizations import service_accounts as service_accounts
from services.identity.tables.people import linked_identities as linked_identities
from services.identity.tables.people import system_configurations as system_configurations
from services.identity.tables.people import user_configurations as user_configurations
from services.identity.tables.people import users as users
from services.identity.tables.sessions import refresh_tokens as refresh_tokens
from services.identity.tables.sessions import sessions as sessions
from services.identity.tables.sessions import sign_in_attempts as sign_in_attempts
