"""Digests of content: they name files that are kept, and tell whether what is stored is still the same."""

from __future__ import annotations

import hashlib


def digest_of(*parts: str | bytes | memoryview, n_bytes: int = 16) -> str:
    """Return the hash of content by BLAKE2b, in hexadecimal digits: of several parts as if they were one.

    What is stored holds such digests: another hash would let nothing that is kept be found again.
    """
    digest = hashlib.blake2b(digest_size=n_bytes)
    for part in parts:
        # Paths and code may hold bytes that are no UTF-8.
        digest.update(part.encode(errors="surrogatepass") if isinstance(part, str) else part)
    return digest.hexdigest()
