"""Candles column by column: what a series is in memory (`columns`, `frame`), the blocks that make reading one fast
(`codec`), and the steps of reading and compacting (`plans`).

Documents are complete, a block covers. Candle documents are inserted once and never change, so whatever a block holds
stays true for ever, and a read is: blocks, then documents for every open time that no block covers. A block needs no
revision, no lease and no invalidation, may be partial, and may be replaced by any other block of its range.

This package needs NumPy, which takes longer to import than the rest together; nothing that `import backtest_kit_mongo`
reaches may import it.
"""
