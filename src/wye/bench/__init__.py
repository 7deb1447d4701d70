"""Frontiers and plots of honest reports."""
