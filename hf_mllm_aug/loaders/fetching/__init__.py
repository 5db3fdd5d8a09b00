"""What stands behind `FetchImages`, one job a module: addresses, robots, pace, bodies, and the client that uses all."""
