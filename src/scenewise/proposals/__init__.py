"""Object proposals: generators of boxes, and the file that keeps them."""
