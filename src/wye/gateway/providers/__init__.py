"""Providers reached, and surfaces translated, through a library: any-llm (extra `providers`).

What a translation carries is decided here, field by field (`carried`, `chat_to_messages`,
`messages_to_chat`), without the library, so that a target that a request would lose something at
is never asked. The translating and the sending is the library's.
"""
