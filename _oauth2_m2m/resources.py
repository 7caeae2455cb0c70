"""What a token is asked for: resource indicators. RFC 8707. Plain functions of values."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from _oauth2_m2m.errors import InvalidTarget
from _oauth2_m2m.forms import Form
from _oauth2_m2m.rules import Rule

#: Resources that one token may be meant for.
MOST_RESOURCES = 10

#: RFC 3986 section 4.3: an absolute URI, which has no fragment.
_ABSOLUTE_URI = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*:(?:[!$&-;=?-Z_a-z~\[\]@]|%[0-9A-Fa-f]{2})+", re.ASCII
)


def is_resource(text: str) -> bool:
    """Whether a text can name a resource: an absolute URI without a fragment."""
    return _ABSOLUTE_URI.fullmatch(text) is not None


def requested_resources(form: Form) -> tuple[str, ...]:
    """What a request names, each once: every `resource`, and `audience`, as some clients call it.

    Raises:
        InvalidTarget: one of the resources is no absolute URI, or there are too many.
    """
    if not all(map(is_resource, form.resources)):
        raise InvalidTarget("resource must be an absolute URI without a fragment")
    named = (*form.resources, *([form["audience"]] if "audience" in form else []))
    if len(named) > MOST_RESOURCES:
        raise InvalidTarget(f"More than {MOST_RESOURCES} resources: ask for them in several tokens")
    return tuple(dict.fromkeys(named))


def target(requested: Sequence[str], allowed: Collection[str]) -> tuple[str, ...]:
    """Whom a token is for: what was asked for, if all of it is allowed.

    Raises:
        InvalidTarget: more is asked for than is allowed. RFC 8707 section 2.
    """
    if not set(requested) <= set(allowed):
        raise InvalidTarget().breaking(Rule.RESOURCE, had=requested, wanted=allowed)
    return tuple(requested)
