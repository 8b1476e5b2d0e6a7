"""The page at `/`: its files, and what a browser is told of them. It is built by nobody."""

from importlib.resources import files

from starlette.responses import Response

_TYPES = {
    "html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"
}  # fmt: skip
_HEADERS = {
    # Nothing from elsewhere, and nothing that a fact or a model could have written into the page.
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_files() -> dict[str, Response]:
    """The files of the page as answers, by their paths."""
    found = {}
    for file in files(__name__).iterdir():
        kind = _TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            path = "/" if file.name == "index.html" else f"/{file.name}"
            found[path] = Response(file.read_bytes(), headers=_HEADERS, media_type=kind)
    return found
