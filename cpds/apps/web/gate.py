"""Before the page stands a gate: it knows visitors, takes uploads, and lets through only what the page needs."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cpds.apps.web.limits import Limits
from cpds.apps.web.uploads import check_file
from cpds.apps.web.visitors import COOKIE, Visitor, Visitors
from cpds.errors import InputError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

API = "/gradio_api/"
FILE, UPLOAD = f"{API}file=", f"{API}upload"
# what the page itself asks for; the rest of Gradio's server, such as its proxy for other addresses, is closed
OPEN = ("/assets/", "/static/", "/svelte/", f"{API}queue/", f"{API}heartbeat/", f"{API}upload_progress")
EXACT = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", f"{API}component_server", f"{API}cancel")
EXACT += (f"{API}startup-events", f"{API}info", f"{API}reset", "/robots.txt")
MULTIPART = 100_000  # bytes of a form around its file
# nothing from elsewhere: Gradio's page needs inline scripts and evaluates its own
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; "
    "frame-ancestors 'self'; base-uri 'self'; form-action 'self'"
)
SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"  # files: an SVG may hold scripts
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Gate:
    """ASGI in front of Gradio's. `hosts`: names by which the page may be called; none: any."""

    def __init__(self, app: Any, visitors: Visitors, limits: Limits, hosts: tuple[str, ...] = ()) -> None:
        self.app, self.visitors, self.limits, self.hosts = app, visitors, limits, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, path = headers_of(scope), unquote(scope["path"])
        secret = secret_in(headers.get("cookie", ""))
        cookie = "" if secret else self.visitors.new_secret()
        visitor = self.visitors.of(secret or cookie)
        if self.hosts and host_in(headers) not in self.hosts:  # another site's name for this machine
            await answer(send, 403, "this page is not called by that name")
        elif path == UPLOAD and scope["method"] == "POST":
            known = bool(secret)
            status, text = (
                await self._upload(scope, receive, visitor) if known else (403, "allow cookies for this page")
            )
            await answer(send, status, text, "application/json" if status == 200 else "text/plain; charset=utf-8")
        elif path.startswith(FILE):
            if visitor.owns(path.removeprefix(FILE)):
                await self.app(scope, receive, stamped(send, SANDBOX))
            else:
                await answer(send, 404, "there is no such file")
        elif path in EXACT or path.startswith(OPEN):
            limited = Limited(receive, self.limits.upload_bytes + MULTIPART)
            await self.app(scope, limited, stamped(send, POLICY, cookie if path == "/" else ""))
        else:
            await answer(send, 404, "there is no such page")

    async def _upload(self, scope: Scope, receive: Receive, visitor: Visitor) -> tuple[int, str]:
        """Keep files in the visitor's own folder: status, and their places or why they are refused."""
        try:
            self.limits.check_upload(int(headers_of(scope).get("content-length", 0)) - MULTIPART)
            return 200, json.dumps([str(place) for place in await self._kept(scope, receive, visitor)])
        except InputError as err:
            return 400, str(err)

    async def _kept(self, scope: Scope, receive: Receive, visitor: Visitor) -> list[Path]:
        from starlette.datastructures import UploadFile
        from starlette.formparsers import MultiPartException
        from starlette.requests import ClientDisconnect, Request

        limited = Limited(receive, self.limits.upload_bytes + MULTIPART)
        try:
            form = await Request(scope, limited).form(max_files=4, max_fields=4)
        except (MultiPartException, ClientDisconnect, KeyError) as err:
            raise InputError("the upload broke off: try again") from err
        kept = []
        for _, part in form.multi_items():
            if isinstance(part, UploadFile):
                place = visitor.place(part.filename or "")
                place.write_bytes(await part.read())
                try:
                    check_file(place, self.limits)
                except InputError:
                    place.unlink()
                    place.parent.rmdir()
                    raise
                kept.append(place)
        await form.close()
        return kept


class Limited:
    """A request's body, that ends with an InputError when it grows too long."""

    def __init__(self, receive: Receive, most: int) -> None:
        self.receive, self.left, self.most = receive, most, most

    async def __call__(self) -> Message:
        message = await self.receive()
        self.left -= len(message.get("body", b""))
        if self.left < 0:
            raise InputError(f"the file is larger than {(self.most - MULTIPART) / 1e6:g} MB: give a smaller one")
        return message


def headers_of(scope: Scope) -> Mapping[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def host_in(headers: Mapping[str, str]) -> str:
    """The name by which the page was called, without its port."""
    return re.sub(r":\d+$", "", headers.get("host", ""))


def secret_in(cookies: str) -> str:
    """The visitor's, or nothing."""
    try:
        found = SimpleCookie(cookies).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found and len(found.value) >= 32 else ""


def stamped(send: Send, policy: str, cookie: str = "") -> Send:
    """`send` with the headers that every answer has."""

    async def stamping(message: Message) -> None:
        if message["type"] == "http.response.start":
            more = [("content-security-policy", policy), ("x-content-type-options", "nosniff")]
            more += [("referrer-policy", "no-referrer"), ("cache-control", "no-store")] if cookie else []
            if cookie:
                more.append(("set-cookie", f"{COOKIE}={cookie}; Path=/; Max-Age=31536000; HttpOnly; SameSite=Strict"))
            message["headers"] = [*message.get("headers", []), *((k.encode(), v.encode()) for k, v in more)]
        await send(message)

    return stamping


async def answer(send: Send, status: int, text: str, kind: str = "text/plain; charset=utf-8") -> None:
    """A whole answer of our own."""
    headers = [(b"content-type", kind.encode()), (b"x-content-type-options", b"nosniff")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
