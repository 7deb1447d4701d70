"""Watching what passes: alarms when traffic, calibration or a model changes, and the guard.

Nothing here is in the way of a request but the guard (`wye.gateway.watch.guarding`): what a request
leaves behind is noted, and read by a thread of its own.
"""
