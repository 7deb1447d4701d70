"""Checks of the gateway, one file each: promises about error rates, simulated."""
