"""A server to try the library with: `make serve`, or `uvicorn example.main:app`."""

import sys

# Before anything else is imported, since an older Python would answer with a syntax error.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("oauth2-m2m needs Python 3.11 or newer, and this is %d.%d" % sys.version_info[:2])  # noqa: UP031
