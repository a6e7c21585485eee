"""For the API reference: griffe, which reads the docstrings, shows `Example:` as code if it is written `Examples:`."""

import re
from typing import Any

import griffe


class PluralExamples(griffe.Extension):
    """Writes the heading as griffe knows it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
