"""Route page requests to answers, and make HTML of them."""
