"""A strategy that asks a language model, or anything else that is slow, paid for, and never answers the same twice.

`bt.cached` asks once per hour and symbol. The answer is stored with its hour, so a second run, a run on another host
and a live bot that is started again read it instead of asking. The model is given what was known at the beginning of
the hour, whoever asks first and at which minute: an answer cannot know the future. Here a function stands for the
model.

bkm run examples/asking_a_model.py --backtest --symbol BTCUSDT
"""

from pathlib import Path

import numpy as np

import backtest_kit as bt

bt.exchange(name="binance", files=Path(__file__).parent / "data")


async def model(prompt: str, closes: list[float]) -> dict[str, object]:
    """In its place: `await client.messages.create(..)` or the like."""
    slope = float(np.polyfit(range(len(closes)), closes, 1)[0]) if len(closes) > 1 else 0.0
    return {"side": "long" if slope > 0 else "short", "why": f"{prompt} The slope is {slope:.2f}."}


@bt.cached(interval="1h")
async def opinion(ctx: bt.Context) -> dict[str, object]:
    bars = ctx.candles("15m", 12)
    prompt = f"{ctx.symbol} at {ctx.time} stands at {ctx.price:.2f}."
    answer = await model(prompt, bars.close.tolist())
    bt.dump(ctx, "opinion", [{"role": "user", "content": prompt}, {"role": "model", "content": str(answer)}])
    return answer


@bt.strategy(interval="15m")
async def asking_a_model(ctx: bt.Context) -> bt.Proposal | None:
    answer = await opinion(ctx)
    if answer["side"] == ctx.state.get("side"):
        return None
    ctx.state["side"] = answer["side"]
    propose, sign = (bt.long, 1) if answer["side"] == "long" else (bt.short, -1)
    return propose(
        take_profit=ctx.price * (1 + sign * 0.01),
        stop_loss=ctx.price * (1 - sign * 0.008),
        minutes=240,
        note=str(answer["why"]),
    )


@asking_a_model.on("close")
def closed(ctx: bt.Context, event: bt.Event) -> None:
    ctx.log("closed", {"reason": event.reason, "percent": event.pnl.percent if event.pnl else None})
