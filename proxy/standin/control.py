"""The stand-in's controls over HTTP, for tests in another process: `/_standin/…`, JSON both ways.

    POST   /_standin/faults              a fault's fields; answers {"number": n}
    GET    /_standin/faults              all in force: number, hits, whether one waits at the gate
    DELETE /_standin/faults[/N]          out of force, and whatever waits is let go
    POST   /_standin/faults/N/release    let go of what waits at the fault's gate
    GET    /_standin/requests            the requests so far; DELETE forgets them
    GET    /_standin/requests/counts     how many there were of each server, method and status
    GET    /_standin/state               repositories with their tags, images and blobs
    POST   /_standin/state               {"action": name, …}, one of `ACTIONS` below
    GET    /_standin/credentials         registry host, user name, password, access key

Not recorded among the requests, and touched by no fault.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, Final

from aiohttp import web

from proxy.standin.faults import Fault, Faults
from proxy.standin.journal import Journal
from proxy.standin.refusals import Refusal
from proxy.standin.settings import Denial
from proxy.standin.state import State
from proxy.standin.tokens import USERNAME

_FIELDS: Final = {field.name for field in fields(Fault)}

ACTIONS: Final[dict[str, Callable[[State, dict[str, Any]], None]]] = {
    "create_repository": lambda state, a: _drop(
        state.create_repository(a["repository"], a.get("account"))
    ),
    "put_manifest": lambda state, a: _drop(
        state.put_manifest(
            a["repository"], a["content"].encode(), a["media_type"], a.get("tag"), a.get("account")
        )
    ),
    "delete_blob": lambda state, a: state.delete_blob(
        a["repository"], a["digest"], a.get("account")
    ),
    "archive": lambda state, a: state.archive(a["repository"], a["reference"], a.get("account")),
    "expire_tokens": lambda state, a: state.expire_tokens(),
    "advance": lambda state, a: state.clock.advance(float(a["seconds"])),
    "freeze": lambda state, a: state.clock.freeze(),
    "lag": lambda state, a: _set_lag(state, a),
    "mounting": lambda state, a: setattr(state, "mounting", bool(a["on"])),
    "slow_down": lambda state, a: setattr(state, "s3_slow_down", bool(a["on"])),
    "deny": lambda state, a: state.policy.denials.append(
        Denial(a["operation"], a.get("repository", "*"), a.get("principal", "*"))
    ),
    "allow": lambda state, a: state.policy.denials.clear(),
}


class Control:
    """Answers below `/_standin/`."""

    def __init__(self, state: State, faults: Faults, journal: Journal) -> None:
        self._state = state
        self._faults = faults
        self._journal = journal

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        parts = request.raw_path.partition("?")[0].removeprefix("/_standin/").split("/")
        try:
            body = json.loads(await request.read() or b"{}")
            return self._answer(request.method, parts, body)
        except (ValueError, KeyError, TypeError, Refusal) as error:
            return web.json_response({"error": f"{type(error).__name__}: {error}"}, status=400)

    def _answer(self, method: str, parts: list[str], body: Any) -> web.Response:
        match method, parts:
            case "POST", ["faults"]:
                return web.json_response({"number": self._add(body)})
            case "GET", ["faults"]:
                return web.json_response(
                    [
                        {"number": a.number, "hits": a.hits, "reached": a.reached.is_set()}
                        for a in self._faults.armed()
                    ]
                )
            case "DELETE", ["faults"]:
                self._faults.clear()
            case ("POST", ["faults", number, "release"]) | ("DELETE", ["faults", number]):
                armed = self._faults.find(int(number))
                if armed is None:
                    return web.json_response({"error": f"no fault {number}"}, status=404)
                armed.release()
                if method == "DELETE":
                    self._faults.remove(armed)
            case "GET", ["requests"]:
                return web.json_response([asdict(each) for each in self._journal.entries()])
            case "GET", ["requests", "counts"]:
                counts = Counter((r.server, r.method, r.status) for r in self._journal.entries())
                return web.json_response([[*each, count] for each, count in counts.items()])
            case "DELETE", ["requests"]:
                self._journal.clear()
            case "GET", ["state"]:
                return web.json_response(self._described())
            case "POST", ["state"]:
                ACTIONS[body["action"]](self._state, body)
            case "GET", ["credentials"]:
                return web.json_response(self._credentials())
            case _:
                return web.json_response({"error": "no such control"}, status=404)
        return web.json_response({})

    def _add(self, body: dict[str, Any]) -> int:
        unknown = set(body) - _FIELDS
        if unknown:
            raise ValueError(f"a fault has no {', '.join(sorted(unknown))}")
        return self._faults.add(Fault(**body)).number

    def _described(self) -> list[dict[str, Any]]:
        return [
            {
                "account": repository.account,
                "name": repository.name,
                "tags": repository.tags,
                "images": {image.digest: image.media_type for image in repository.images.values()},
                "blobs": {blob.digest: blob.size for blob in repository.blobs.values()},
            }
            for repository in self._state.repositories.values()
        ]

    def _credentials(self) -> dict[str, str]:
        settings = self._state.settings
        token = self._state.tokens.issue(self._state.principals.user.arn)
        return {
            "host": self._state.host_of(settings.account),
            "region": settings.region,
            "username": USERNAME,
            "password": token.password,
            "access_key_id": settings.access_key_id,
            "secret_access_key": settings.secret_access_key,
        }


def _drop(value: object) -> None:
    """An action's result that nobody waits for."""


def _set_lag(state: State, action: dict[str, Any]) -> None:
    state.lag_reads = int(action.get("reads", 0))
    state.lag_seconds = float(action.get("seconds", 0))
