"""The private rooms behind `oauth2_m2m`. Import from `oauth2_m2m`, never from here.

A room may import only rooms that stand before it in `ORDER`, so reading from left to right never
meets anything unexplained. A test keeps it so.
"""

ORDER: tuple[str, ...] = (
    "errors",
    "deadlines",
    "callers",
    "config",
    "scopes",
    "forms",
    "credentials",
    "signatures",
    "compact_tokens",
    "dpop",
    "key_sets",
    "group_commit",
    "storage",
    "audit",
    "keys",
    "settings",
    "rate_limits",
    "single_use",
    "revocation",
    "client_documents",
    "clients",
    "access_tokens",
    "refresh_tokens",
    "client_authentication",
    "admission",
    "issuing",
    "responses",
    "services",
    "revoking",
    "bearer",
    "grants",
    "endpoints",
    "openapi",
)
