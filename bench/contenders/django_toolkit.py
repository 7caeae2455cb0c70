"""django-oauth-toolkit on SQLite, set up as its tutorial and Django's notes on SQLite say.

Run as a program it makes the database and the clients, which it reads as JSON from stdin: the
secrets hashed by Django's default (PBKDF2), or kept plain when BENCH_PLAIN_SECRETS is set.
"""

import json
import os
import sys

from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application

settings.configure(
    SECRET_KEY=os.environ.get("BENCH_SECRET_KEY", ""),
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "oauth2_provider"],
    MIDDLEWARE=["django.middleware.security.SecurityMiddleware"],
    OAUTH2_PROVIDER={"SCOPES": {"read": "Read", "write": "Write"}},
    LOGGING_CONFIG=None,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["BENCH_SQLITE"],
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 30,
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL",
            },
        }
    },
)

app = get_wsgi_application()  # sets Django up; what is imported below needs that

from django.urls import include, path  # noqa: E402
from oauth2_provider.models import Application  # noqa: E402

# The tutorial mounts it under /o/.
urlpatterns = [path("o/", include("oauth2_provider.urls", namespace="oauth2_provider"))]


def main() -> None:
    """Make the database and the clients."""
    call_command("migrate", verbosity=0)
    for client_id, secret in json.load(sys.stdin).items():
        Application.objects.create(
            client_id=client_id,
            client_secret=secret,
            hash_client_secret=not os.environ.get("BENCH_PLAIN_SECRETS"),
            client_type=Application.CLIENT_CONFIDENTIAL,
            authorization_grant_type=Application.GRANT_CLIENT_CREDENTIALS,
            name=client_id,
        )


if __name__ == "__main__":
    main()
