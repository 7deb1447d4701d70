"""The query scale: query -> model, prompt, persona or annotator."""
