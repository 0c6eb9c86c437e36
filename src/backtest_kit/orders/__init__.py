"""The way of an order to a broker, at most once however often its sender dies."""
