"""The route of the small copies of training photos that an explanation names, where the bundle has them."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from oodguard.core.codes import Code
from oodguard.server.errors import RequestError
from oodguard.server.problems import documented
from oodguard.server.routes import Route
from oodguard.server.serving import Serving

# The name is the photo's hash, so what it names never changes; only the caller may keep it, and not for long.
KEPT = {"cache-control": "private, max-age=3600, immutable"}


@dataclass(frozen=True)
class ThumbnailRoutes:
    """`GET /thumbnails/SHA256`."""

    serving: Serving

    @property
    def routes(self) -> tuple[Route, ...]:
        """The route."""
        picture = {"description": "The small copy", "content": {"image/jpeg": {"schema": {"type": "string"}}}}
        named = {"name": "sha256", "in": "path", "required": True, "schema": {"type": "string"}}
        docs = {
            "tags": ["predict"],
            "response_class": Response,
            "responses": {
                200: picture,
                401: documented("API key needed"),
                404: documented("There is no small copy of such a photo"),
            },
            "openapi_extra": {"parameters": [named]},
        }
        return (Route(path="/thumbnails/{sha256}", endpoint=self.thumbnail, family="/thumbnails/*", docs=docs),)

    async def thumbnail(self, request: Request) -> Response:
        """A small copy of a training photo, by the SHA-256 that an explanation gives for it."""
        with self.serving.model.lease() as model:
            if model.thumbnails is None:
                raise RequestError(
                    Code.NOT_FOUND, "this bundle has no thumbnails; oodguard export --thumbnails packs them"
                )
            found = await run_in_threadpool(model.thumbnails.read, request.path_params["sha256"])
        if found is None:
            raise RequestError(Code.NOT_FOUND, "this bundle has no thumbnail of such a photo")
        return Response(found, media_type="image/jpeg", headers=KEPT)
