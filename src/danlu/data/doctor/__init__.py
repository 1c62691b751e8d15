"""The data doctor: what is wrong with data, and a preview of what is learned."""
