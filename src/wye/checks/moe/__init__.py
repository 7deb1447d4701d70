"""Checks of the expert scale."""
