"""Online routers: the contract, feedback on what was chosen, state, and replay of a log."""
