"""The rules that turn scores and costs into a plan, one a file."""
