"""Checks of the query scale, one file each, named after the system."""
