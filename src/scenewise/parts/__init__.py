"""Small bricks with state that methods are made of."""
