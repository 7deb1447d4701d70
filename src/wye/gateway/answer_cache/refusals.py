"""Whether an answer refuses, where the upstream marks it so; its reason to end may be a plain stop.

OpenAI's chat has the text of a refusal beside the content, its responses have parts of that type.
"""

from __future__ import annotations

import json
from typing import Any

_WORD = b'"refusal"'


def refuses(content: bytes) -> bool:
    """Whether an answer as JSON, or a stream's pieces as a JSON list, is marked as a refusal.

    What merely has something of that name, a tool's schema that is told again for instance, counts
    too: not to keep an answer costs little.

    >>> refuses(b'{"choices": [{"message": {"content": null, "refusal": "I cannot."}}]}')
    True
    >>> refuses(b'{"choices": [{"message": {"content": "Yes.", "refusal": null}}]}')
    False
    """
    # Most answers, and long ones of numbers above all, need no reading.
    if _WORD not in content:
        return False
    left: list[Any] = [json.loads(content)]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            if part.get("refusal") or part.get("type") == "refusal":
                return True
            left.extend(part.values())
        elif isinstance(part, list):
            left.extend(part)
    return False
