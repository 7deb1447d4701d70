"""Parts of routers and of expert layers: scores, gates, selections, balance, schedules."""
