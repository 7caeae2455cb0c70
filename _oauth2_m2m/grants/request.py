"""What every grant is given to work with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from _oauth2_m2m.admission import Attempt
from _oauth2_m2m.client_documents import Client
from _oauth2_m2m.config import Settings
from _oauth2_m2m.forms import Form
from _oauth2_m2m.scopes import parse_scope
from _oauth2_m2m.services import Services


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """A token request, and the client that it comes from.

    Attributes:
        form: the parameters of the request.
        client: whose request it is.
        attempt: the same request, for the audit log.
        settings: the settings of this moment.
        services: the rooms.
        jkt: the thumbprint of the key that the request proved to hold, if it did. RFC 9449.
    """

    form: Form
    client: Client
    attempt: Attempt
    settings: Settings
    services: Services
    jkt: str | None = None

    @property
    def now(self) -> datetime:
        """The moment that everything in this request is judged at."""
        return self.attempt.now

    def note_use(self, grant_type: str) -> None:
        """Note which grant the client used, and the scopes that it asked for by name."""
        asked = parse_scope(self.form.get("scope", ""))
        used, caller = self.services.clients.used, self.attempt.caller
        used.note_grant(self.client.client_id, self.now, caller.ip, grant_type, sorted(asked))
