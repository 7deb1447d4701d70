"""Figures of the honest report: one file a family of metrics, each with its source and formula."""
