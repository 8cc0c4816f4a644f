"""What browsers are told with every page of this project: what it may load, and who may show it."""

from __future__ import annotations

Headers = list[tuple[bytes, bytes]]

NO_STORE = (b"cache-control", b"no-store")


def page_headers(*, images: str) -> Headers:
    """Headers of every answer; `images`: where pages take images from, as a policy of content names it."""
    policy = (
        f"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src {images}; "
        "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    return [
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"referrer-policy", b"no-referrer"),
        (b"content-security-policy", policy.encode()),
    ]
