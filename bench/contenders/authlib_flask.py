"""Authlib on Flask with MongoDB: it finds the client, and stores the access token that it makes."""

import os
from time import time
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, grants
from flask import Flask, Response
from pymongo import MongoClient

from bench.contenders.common import Document, secret_matches

mongo = MongoClient[Document](
    os.environ["MONGODB_URL"], w="majority", journal=True, readConcernLevel="majority"
)
db = mongo[os.environ["MONGODB_DB"]]
db.clients.create_index("client_id", unique=True)
db.tokens.create_index("access_token", unique=True)


class Client(ClientMixin):
    """A client, read from its document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.client_id = document["client_id"]

    def get_client_id(self) -> str:
        """Its id."""
        return str(self.client_id)

    def get_allowed_scope(self, scope: str) -> str:
        """Those of the scopes that it may have."""
        return " ".join(s for s in scope.split() if s in self.document["scopes"])

    def check_client_secret(self, client_secret: str) -> bool:
        """Compare the secret."""
        return secret_matches(client_secret, self.document)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        """Whether it may authenticate so."""
        return method == "client_secret_basic"

    def check_grant_type(self, grant_type: str) -> bool:
        """Whether it may use the grant."""
        return grant_type == "client_credentials"


def query_client(client_id: str) -> Client | None:
    """Find a client."""
    found = db.clients.find_one({"client_id": client_id})
    return None if found is None else Client(found)


def save_token(token: dict[str, Any], request: Any) -> None:
    """Store a token."""
    document = {"client_id": request.client.client_id, "issued_at": int(time()), **token}
    db.tokens.insert_one(document)


app = Flask(__name__)
server = AuthorizationServer(app, query_client=query_client, save_token=save_token)
server.register_grant(grants.ClientCredentialsGrant)


@app.post("/token")
def token() -> Response:
    """Issue a token."""
    response: Response = server.create_token_response()
    return response
