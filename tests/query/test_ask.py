"""The text a choice is made on is what the person asks, whatever an agent wraps around it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wye.data import load_embedded
from wye.query import get_router
from wye.query.ask import ask_of_text, human_ask

SYSTEM = {"role": "system", "content": "You are a coding agent. " + "Follow rule 17. " * 800}
RESULT = '{"matches": ["src/a.py:12: def main()", "src/b.py:9: import os"]}' * 200
REMINDER = "<system-reminder>\nToday is Monday. The todo list is empty.\n</system-reminder>\n"


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def tool_call() -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": "grep", "arguments": "{}"}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


WRAPPERS = {
    "bare": lambda ask: [user(ask)],
    "system prompt": lambda ask: [SYSTEM, user(ask)],
    "tool results after it": lambda ask: [
        SYSTEM,
        user(ask),
        tool_call(),
        {"role": "tool", "tool_call_id": "1", "content": RESULT},
        tool_call(),
        {"role": "tool", "tool_call_id": "1", "content": RESULT},
    ],
    "reminders as parts": lambda ask: [
        SYSTEM,
        user([part(REMINDER), part(ask), part("<context>\n" + RESULT + "\n</context>")]),
    ],
    "results in user messages": lambda ask: [
        SYSTEM,
        user(f"<task>\n{ask}\n</task>\n<environment_details>\n{RESULT}\n</environment_details>"),
        {"role": "assistant", "content": "<read_file><path>a.py</path></read_file>"},
        user("[read_file for 'a.py'] Result:\n" + RESULT)
        | {"content": "Tool result for read_file:\n" + RESULT},
    ],
    "observation of a loop": lambda ask: [
        user(ask),
        {"role": "assistant", "content": "Thought: search\nAction: search[x]"},
        user("Observation: " + RESULT),
    ],
    "retrieved passages": lambda ask: [
        user(
            "Use the following pieces of context to answer the question at the end. If you do not "
            "know the answer, say that you do not know.\n\n" + RESULT + f"\n\nQuestion: {ask}\n"
            "Helpful Answer:"
        )
    ],
    "documents in tags": lambda ask: [
        user(f"<documents><document id='1'>{RESULT}</document></documents>\n\n{ask}")
    ],
    "editor": lambda ask: [
        user(
            f"<open_files>a.py</open_files>\n<user_query>\n{ask}\n</user_query>\n<git_status>M a\n"
            "</git_status>"
        )
    ],
    "function results as parts": lambda ask: [
        user(ask),
        tool_call(),
        user([{"type": "tool_result", "tool_use_id": "1", "content": RESULT}, part(REMINDER)]),
    ],
    "an image as text": lambda ask: [user(f"{ask}\ndata:image/png;base64,{'iVBOR' * 400}")],
    "go on": lambda ask: [user(ask), {"role": "assistant", "content": "Shall I?"}, user("yes")],
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_ask_is_found_in_agent_traffic(wrapper: str) -> None:
    ask = "Why does the parser fail on an empty file?"
    found = human_ask(WRAPPERS[wrapper](ask))
    assert found == (f"{ask}\nyes" if wrapper == "go on" else ask)


def test_a_wrapper_does_not_change_the_choice() -> None:
    data = load_embedded()
    train, texts = data.part("train"), data.part("test").texts[:24]
    router = get_router("linear").fit(train)
    bare = router.route(texts).targets
    assert len(set(bare)) > 1
    for name, wrap in WRAPPERS.items():
        if name == "go on":
            continue
        routed = router.route([human_ask(wrap(t)) for t in texts]).targets
        changed = [t for t, a, b in zip(texts, bare, routed, strict=True) if a != b]
        assert len(changed) <= 1, (name, changed)


@pytest.mark.parametrize(
    "text",
    [
        "What does <context> mean in this template?",
        "Write a <div> with a <span>, please. Is 3 < 4 and 5 > 4?",
        "Question: is this short?",
        "Explain:\n```xml\n<file>a</file>\n```",
    ],
)
def test_what_a_person_writes_about_tags_is_still_read(text: str) -> None:
    found = ask_of_text(text)
    assert found
    assert text.split()[0] in found


def test_where_nothing_but_context_was_sent_it_is_read() -> None:
    only = "<context>The Nile is a river.</context>"
    assert human_ask([user(only)]) == only
    assert human_ask([SYSTEM]) == ""
    assert human_ask([]) == ""


def test_of_a_long_ask_both_ends_are_kept() -> None:
    text = "Summarise this. " + "word " * 10_000 + "Use three bullet points."
    found = human_ask([user(text)], max_chars=1000)
    assert len(found) == 1000
    assert found.startswith("Summarise this.")
    assert found.endswith("Use three bullet points.")


@given(st.text(max_size=400))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert isinstance(human_ask([user(text)]), str)


def test_a_hostile_text_is_read_in_one_pass() -> None:
    # A scan that starts anew at every tag would take hours.
    for text in ("<context>" * 200_000, "<task>" * 100_000 + "</task>", "\n# " * 300_000):
        human_ask([user(text)])
