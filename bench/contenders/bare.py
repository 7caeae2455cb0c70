"""The protected route without any protection: what FastAPI itself costs."""

import gc

from fastapi import FastAPI

app = FastAPI()


@app.get("/protected")
async def protected() -> dict[str, str]:
    """Greet."""
    return {"message": "Hello bench_0, you have accessed a protected route!"}


gc.freeze()
