"""What is remembered of a digest that a client knows and the registry does not (settled 2)."""

from __future__ import annotations

import json
from dataclasses import dataclass

from proxy.buildcache.forms import Form
from proxy.oci import Digest


@dataclass(frozen=True, slots=True)
class Alias:
    """The manifest that is stored, and the form to show it in: `show` then gives the bytes."""

    stored: Digest
    form: Form

    def dump(self) -> bytes:
        return json.dumps({"stored": self.stored, "form": self.form.value}).encode()

    @classmethod
    def load(cls, content: bytes) -> Alias:
        """Raises `ValueError` if `content` is nothing that `dump` gave."""
        try:
            record = json.loads(content)
            return cls(Digest.parse(record["stored"]), Form(record["form"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError("the record is no alias of a digest") from error
