"""Trading sessions, recorded and simulated ones in one form, and what is estimated from them. They know of no flow."""
