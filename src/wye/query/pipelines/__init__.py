"""Stages chained under one ledger: guard, route, judge, escalate."""
