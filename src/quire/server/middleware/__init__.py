"""What happens around every request; plain ASGI, outermost first: envelope, hosts, limits, auth."""
