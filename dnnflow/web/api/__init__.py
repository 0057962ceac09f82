"""Route REST requests to answers."""
