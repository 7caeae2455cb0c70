"""The route protected as FastAPI's tutorial does it with PyJWT. Nothing can be revoked."""

import gc
from typing import Annotated

import jwt
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import OAuth2PasswordBearer
from jwt.exceptions import InvalidTokenError

from bench.contenders.common import AUDIENCE, SECRET_KEY

app = FastAPI()
bearer = OAuth2PasswordBearer(tokenUrl="token")


async def current_client(token: Annotated[str, Depends(bearer)]) -> str:
    """The client that the token names."""
    refused = HTTPException(401, "Could not validate credentials", {"WWW-Authenticate": "Bearer"})
    try:
        payload = jwt.decode(token, SECRET_KEY, algorithms=["HS256"], audience=AUDIENCE)
    except InvalidTokenError:
        raise refused from None
    client_id = payload.get("sub")
    if client_id is None:
        raise refused
    return str(client_id)


@app.get("/protected")
async def protected(client_id: Annotated[str, Depends(current_client)]) -> dict[str, str]:
    """Greet."""
    return {"message": f"Hello {client_id}, you have accessed a protected route!"}


gc.freeze()
