"""Prompts as targets: programs of chat calls, and what is put in front of a question."""
