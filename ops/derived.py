"""Writes the files that are derived from the domain table and the signatures: `make derived`. A test compares them."""

from __future__ import annotations

import inspect
import re
from inspect import Parameter
from pathlib import Path

from backtest_kit_mongo.adapters import contracts
from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.adapters.registry import Registry
from backtest_kit_mongo.adapters.verbs import Call, snake
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.domains.table import DOMAINS, context_names

CONTRACTS = Path(contracts.__file__)
LOOPS = Path(contracts.__file__).parents[1] / "aio" / "adapters.py"
ROLES = Path(__file__).parent / "mongo-init" / "roles.json"
LINE_MAX = 121
"""As the formatter breaks lines, with the end of the line."""
MARK = "# Below: derived from the signatures. Do not edit it, run `make derived`.\n"


def protocol(registry: Registry) -> str:
    """What an implementation of a domain must offer, as source."""
    context = ", ".join(snake(column) for column in context_names(registry.domain))
    methods = [_method(call) for call in registry.calls.values() if call.verb.body]
    if any(call.verb.name == "drop" for call in registry.calls.values()):
        methods.append("    def dispose(self) -> None: ...\n")
    name = type(registry).__name__.replace("Registry", "Instance")
    return f'class {name}(PersistInstance, Protocol):\n    """Constructor: ({context})."""\n\n{"".join(methods)}'


def _method(call: Call) -> str:
    listed = ["self"]
    for one in call.of_instance:
        if one.kind is Parameter.KEYWORD_ONLY and "*" not in listed:
            listed.append("*")
        kind = "When" if call.is_dated(one) else one.annotation.replace("Moment", "When | None")
        listed.append(f"{one.name}: {kind}" + ("" if one.default is Parameter.empty else f" = {one.default!r}"))
    end = f" -> {call.signature.return_annotation}: ...\n"
    line = f"    def {call.name}({', '.join(listed)}){end}"
    if len(line) <= LINE_MAX:
        return line
    inner = f"        {', '.join(listed)}\n"
    if len(inner) > LINE_MAX:
        inner = "".join(f"        {one},\n" for one in listed)
    return f"    def {call.name}(\n{inner}    ){end}"


def contracts_text() -> str:
    """`contracts.py` as it should be."""
    head = CONTRACTS.read_text("utf-8").partition(MARK)[0]
    return head + MARK + "".join(f"\n\n{protocol(registry)}" for registry in REGISTRIES if registry.calls)


def loops_text() -> str:
    """`aio/adapters.py` as it should be."""
    names = sorted(registry.name for registry in REGISTRIES)
    listed = "".join(f'    "{name}",\n' for name in [*names, "read_candles", "write_candles"])
    classes = "".join(map(_for_loops, REGISTRIES))
    instances = "".join(f"{one.name} = {_loop_class(one)}(registries.{one.name})\n" for one in REGISTRIES)
    short = "".join(f"{name} = PersistCandleAdapter.{name}\n" for name in ("read_candles", "write_candles"))
    head = LOOPS.read_text("utf-8").partition(MARK)[0]
    return f"{head}{MARK}\n__all__ = [\n{listed}]\n{classes}\n\n{instances}\n{short}"


def _loop_class(registry: Registry) -> str:
    return f"Async{registry.domain.name.title()}Adapter"


def _for_loops(registry: Registry) -> str:
    """A domain's methods for event loops, as source."""
    kind = type(registry)
    typed = [name for name, one in vars(kind).items() if inspect.isfunction(one) and not name.startswith(("_", "use_"))]
    methods = [*(list(registry.calls) or typed), "entries", "list_contexts"]
    made = {name: inspect.signature(getattr(kind, name)).return_annotation for name in methods}
    lines = "".join(
        f"    {name} = {'as_async_iterator' if returned.startswith('Iterator') else 'as_coroutine'}"
        f"(registries.{kind.__name__}.{name})\n"
        for name, returned in made.items()
    )
    doc = (kind.__doc__ or "").strip().splitlines()[0] if kind.__doc__ else ""
    said = f'    """{doc}"""\n\n' if doc else ""
    return f"\n\nclass {_loop_class(registry)}(Offloading[registries.{kind.__name__}]):\n{said}{lines}"


def roles_text() -> str:
    """`roles.json` as it should be: the domains' collections are named once, at its top."""
    lines, line = [], "   "
    for name in sorted(collection_of(domain) for domain in DOMAINS):
        if len(line) + len(name) + 4 > 120:
            lines.append(line)
            line = "   "
        line += f' "{name}",'
    listed = "\n".join([*lines, line.rstrip(",")])
    return re.sub(
        r'(?s)("documents": \[\n).*?(\n  \],)',
        lambda found: found[1] + listed + found[2],
        ROLES.read_text("utf-8"),
        count=1,
    )


if __name__ == "__main__":
    CONTRACTS.write_text(contracts_text(), "utf-8")
    LOOPS.write_text(loops_text(), "utf-8")
    ROLES.write_text(roles_text(), "utf-8")
