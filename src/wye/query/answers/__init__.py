"""Answers of models: canonical form, votes, dispersion, logs, and the running of code."""
