"""The HTTP front: connections, routes, handlers, responses."""
