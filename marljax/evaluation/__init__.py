"""What a strategy earned, whether the data establish it, and the page that shows it."""
