"""MongoDB: documents, candles, indexes, and what its errors mean."""
