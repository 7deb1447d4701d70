"""What routers that learn from outcomes share: inputs, estimators, calibration, costs."""
