"""Everything that a service needs to send events, built from its settings."""

from dataclasses import dataclass

from libs.common.clock import Clock
from libs.common.events.endpoints import Endpoints
from libs.common.events.homes import Homes
from libs.common.events.mail import Mailer, mail_server_of
from libs.common.events.options import Options, options_of
from libs.common.events.post import Poster
from libs.common.events.replays import Replays
from libs.common.events.sending import Sender
from libs.common.events.servicer import EventServicer
from libs.common.events.worker import Deliverer
from libs.common.settings import ServiceSettings


@dataclass(frozen=True, slots=True)
class Events:
    """The servicer of EventService, and what delivers in the background."""

    servicer: EventServicer
    deliverer: Deliverer
    options: Options


def build_events(context: str, settings: ServiceSettings, homes: Homes, clock: Clock) -> Events:
    """Build what a service needs; nothing runs yet."""
    options = options_of(settings)
    server = mail_server_of(settings)
    mailer = Mailer(server, options.keys, options.attempt_timeout_s) if server else None
    poster = Poster(options.allowed, options.tls, options.attempt_timeout_s)
    endpoints = Endpoints(homes, clock, options, mails=mailer is not None)
    sender = Sender(context, options.keys, poster, clock, mailer)
    deliverer = Deliverer(homes, clock, options, sender, endpoints)
    return Events(EventServicer(context, endpoints, Replays(homes, clock, sender.built_in)), deliverer, options)
