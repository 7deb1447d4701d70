"""Scheduling of experts whose use is known ahead."""
