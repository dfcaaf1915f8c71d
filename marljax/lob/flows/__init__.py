"""Models of background order flow, a recorded day among them; `flow` says what a model is and has what they share."""
