"""Log lines for machines: JSON, with the id of the request that they belong to.

This library writes to the logger `oauth2_m2m` and leaves to the app what becomes of its lines.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from math import isfinite

from _oauth2_m2m import tracing
from _oauth2_m2m.callers import CALLER
from _oauth2_m2m.credentials import without_secrets

#: What every record has. What else one holds was given with `extra=...`.
_OF_EVERY_RECORD = frozenset(
    {*logging.makeLogRecord({}).__dict__, "message", "asctime", "color_message"}
)


class JsonFormatter(logging.Formatter):
    """Writes each line as a JSON object, for `logging`'s own configuration.

    Members: `time` (UTC), `level`, `logger`, `message`; `request_id` while a request is under way,
    the one of its audit records; `trace_id` and `span_id` where there is an OpenTelemetry span;
    what was given with `extra=...`; `exception`. Whatever has the shape of a secret or token is
    cut short, in the lines of others too.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        caller = CALLER.get()
        members = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **({} if caller is None else {"request_id": caller.request_id}),
            **tracing.ids(),
        }
        for name, value in record.__dict__.items():
            if name not in _OF_EVERY_RECORD:
                members.setdefault(name, value)
        if record.exc_info:
            members["exception"] = self.formatException(record.exc_info)
        return json.dumps({name: _shown(value) for name, value in members.items()})


def _shown(value: object) -> object:
    if value is None or isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
        return value
    return without_secrets(str(value))
