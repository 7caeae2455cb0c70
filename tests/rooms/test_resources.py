"""What names a resource, what a request names, and what it gets of it."""

from __future__ import annotations

import string
from urllib.parse import urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _oauth2_m2m.errors import InvalidTarget
from _oauth2_m2m.forms import Form, parse_form
from _oauth2_m2m.resources import MOST_RESOURCES, is_resource, requested_resources, target

#: RFC 3986 section 2: what may stand in a URI besides percent-encodings, but for `#`.
CHARACTERS = string.ascii_letters + string.digits + "-._~:/?[]@!$&'()*+,;="

schemes = st.from_regex(r"\A[A-Za-z][A-Za-z0-9+.-]{0,10}\Z")
parts = st.one_of(st.sampled_from(CHARACTERS), st.integers(0, 255).map(lambda code: f"%{code:02X}"))
rests = st.lists(parts, min_size=1, max_size=40).map("".join)
uris = st.builds("{}:{}".format, schemes, rests)
#: One character of these makes or breaks it.
almost_uris = st.text(alphabet="ah:/?#[]@%4 \n\x00\u00e9", max_size=8)
few_uris = st.lists(uris, max_size=MOST_RESOURCES)


@given(uris)
def test_an_absolute_uri_names_a_resource(uri: str) -> None:
    """Whatever RFC 3986 calls an absolute URI is one, of any scheme."""
    assert is_resource(uri)


@given(uris, st.text(max_size=5), st.integers(0, 100))
def test_what_a_uri_cannot_hold_names_none(uri: str, text: str, place: int) -> None:
    """A character that no URI holds spoils it wherever it stands, a fragment's `#` included."""
    spoilt = uri[:place] + text + uri[place:]
    if not set(text) <= set(CHARACTERS + "%"):
        assert not is_resource(spoilt)
    assert not is_resource(uri[:place] + "#" + uri[place:])


@given(st.one_of(almost_uris, st.builds("h:{}".format, almost_uris)))
def test_only_what_has_a_scheme_and_no_fragment_names_a_resource(text: str) -> None:
    """Python's own reader of URLs agrees about everything that is let through."""
    if is_resource(text):
        split = urlsplit(text.replace("[", "").replace("]", ""))
        assert split.scheme
        assert not split.fragment
        assert set(text) <= set(CHARACTERS + "%")


@pytest.mark.parametrize(
    "text",
    [
        "", "/api", "api", "//api.example/x", "../x", "?x", "api.example/x", "https", "https:",
        ":x", "1https://api.example", "-x:y", "https://api.example/#", "https://api.example/#x",
        "#x", "https://api.example/a b", " https://api.example", "https://api.example ",
        "https://api.example\n", "https://api.example/\x00", "https://bücher.example",
        'https://api.example/"', "https://api.example/<x>", "https://api.example/\\x",
        "https://api.example/%", "https://api.example/%4", "https://api.example/%zz",
        "https://api.example/%%41", "\u017f:x",
    ],
)  # fmt: skip
def test_what_is_no_absolute_uri_names_none(text: str) -> None:
    """Relative references, fragments, spaces and half-encoded characters name no resource."""
    assert not is_resource(text)


@given(few_uris)
def test_a_request_names_each_resource_once(names: list[str]) -> None:
    """They come out of a form in the order in which they stood there first."""
    form = parse_form(urlencode([("resource", name) for name in names]).encode())
    named = requested_resources(form)
    assert list(named) == sorted(set(names), key=names.index)


@given(st.lists(uris, max_size=MOST_RESOURCES - 1), st.text(min_size=1))
def test_the_parameter_audience_is_one_more_name(names: list[str], audience: str) -> None:
    """It comes last, and need not be a URI: it is compared with the client's list all the same."""
    named = requested_resources(Form({"audience": audience}, names))
    assert set(named) == {*names, audience}
    assert len(named) == len(set(named))


@given(few_uris, st.text(max_size=60).filter(lambda text: not is_resource(text)))
def test_one_malformed_name_spoils_them_all(names: list[str], bad: str) -> None:
    """There is no token for the rest of them."""
    with pytest.raises(InvalidTarget):
        requested_resources(Form({}, [*names[:-1], bad]))


def test_the_names_have_a_bound() -> None:
    """Ten are taken and eleven are not, whichever parameter brings the last."""
    names = [f"https://api.example/{n}" for n in range(MOST_RESOURCES)]
    assert len(requested_resources(Form({}, names))) == MOST_RESOURCES == 10
    for form in (
        Form({}, [*names, "https://api.example/more"]),
        Form({"audience": "more"}, names),
    ):
        with pytest.raises(InvalidTarget, match="10"):
            requested_resources(form)


@given(few_uris, few_uris)
def test_nobody_gets_more_than_is_allowed(requested: list[str], allowed: list[str]) -> None:
    """What was asked for is had as it was asked for, or not at all."""
    if set(requested) <= set(allowed):
        assert target(requested, allowed) == tuple(requested)
    else:
        with pytest.raises(InvalidTarget):
            target(requested, allowed)


@given(uris.filter(lambda uri: uri.swapcase() != uri))
def test_names_are_compared_as_they_are_spelt(uri: str) -> None:
    """RFC 8707 knows no normalisation: another case or a slash more is another resource."""
    for other in (uri.swapcase(), uri + "/"):
        with pytest.raises(InvalidTarget):
            target([other], [uri])
