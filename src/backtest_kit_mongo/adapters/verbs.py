"""One typed signature per method, and what is derived from it.

A registry class declares each method once, as users call it: typed, with a docstring and no body. The decorator is the
verb: what the method does. From both are made, when the class is,

* the registry's method: it finds the instance of the context and passes the other arguments on
* the method of the built-in instance: the verb, carried out by `bound.py`
* with `make derived`, the method that another implementation must offer (`contracts.py`)

What a parameter is follows from its name and place: key columns of the context in snake_case; `when`, `limit`,
`initial`; the first one of a write is the payload; what is left names the item within the context.
"""

from __future__ import annotations

import inspect
import linecache
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import update_wrapper
from inspect import Parameter
from typing import Any, Final, TypeVar

from backtest_kit_mongo.adapters.bound import Bound
from backtest_kit_mongo.adapters.list_rows import put, said
from backtest_kit_mongo.coherence.record import Domain, Part, Shape
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import context_names
from backtest_kit_mongo.look_ahead import stamp, stamped

F = TypeVar("F", bound=Callable[..., Any])
_SAID: Final = frozenset({"when", "limit", "initial"})
"""Parameters that are what their name says."""


@dataclass(frozen=True, slots=True)
class Verb:
    """What a method does. Used as the decorator of its signature.

    Attributes:
        name: of the verb.
        body: of the instance's method, over `key`, `payload`, `when`, `limit` and `options` (what is given by name);
            empty: instances have no such method.
        dated: the same for a signature with `when`.
        optional: an implementation may lack it; then it is given a list of one by the method that writes rows.
        served: what the registry does instead of asking the instance, over `context` and `initial`.
    """

    name: str
    body: str = ""
    dated: str = ""
    served: str = ""
    optional: bool = False

    def __call__(self, signature: F) -> F:
        signature.verb = self  # type: ignore[attr-defined]
        return signature

    @property
    def writes(self) -> bool:
        return "{payload}" in self.body


read: Final = Verb("read", "return self._read({key})", "return self._read({key}, when)")
write: Final = Verb(
    "write",
    "key = {key}\n    self._store.write(make_change(key, {payload}, stamp(key, None)))",
    "self._write_dated({key}, {payload}, when)",
)
remove: Final = Verb("remove", "self._remove({key})")
has: Final = Verb("has", "return self._has({key})")
list_keys: Final = Verb("list", "return self._keys(None, limit)", "return self._keys(when, limit)")
list_entries: Final = Verb("list", "return self._entries(None, limit)", "return self._entries(when, limit)")
read_rows: Final = Verb("read_rows", "return self._read_rows({options})")
write_rows: Final = Verb("write_rows", "self._write_rows({payload})")
put_row: Final = Verb("put_row", "self._put_row({payload})", optional=True)
prepare: Final = Verb("prepare", served="self._init(initial, {context})")
drop: Final = Verb("drop", served="self._drop({context})")


@dataclass(frozen=True, slots=True)
class Call:
    """One method of a domain's registry.

    Attributes:
        context: parameters that name the context, in the order of the key.
        payload, item: the parameter that is it; empty if there is none.
    """

    name: str
    verb: Verb
    domain: Domain
    signature: inspect.Signature
    context: tuple[str, ...]
    payload: str
    item: str

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Those that users give."""
        return tuple(self.signature.parameters.values())[1:]

    @property
    def of_instance(self) -> tuple[Parameter, ...]:
        """Those of an instance's method: the context is bound, and the registry has dated a write."""
        own = (one for one in self.parameters if one.name not in self.context)
        return tuple(one.replace(default=Parameter.empty) if self.is_dated(one) else one for one in own)

    def is_dated(self, parameter: Parameter) -> bool:
        """Whether it is the time of a write, which the simulation time in force stands in for."""
        return self.verb.writes and parameter.name == "when"

    def arguments(self, parts: tuple[Part, ...], **more: Any) -> dict[str, Any]:
        """By name what a call for a whole key (in key order) is given; of `more` what it has parameters for.

        Args:
            more: `payload`, `when`, `limit`, `initial`.
        """
        names = (*self.context, *([self.item] if self.item else []))
        given = dict(zip(names, parts, strict=False))
        given |= {name: value for name, value in more.items() if name in self.signature.parameters}
        return given | ({self.payload: more["payload"]} if self.payload else {})


def calls_of(registry: type, domain: Domain) -> dict[str, Call]:
    """The calls that a registry class declares, by method.

    Raises:
        TypeError: a signature does not fit the domain's key.
    """
    declared = {name: made for name, made in vars(registry).items() if hasattr(made, "verb")}
    return {name: _call(made, domain) for name, made in declared.items()}


def _call(declared: Any, domain: Domain) -> Call:
    verb: Verb = declared.verb
    signature = inspect.signature(declared)
    names = list(signature.parameters)[1:]
    context = tuple(snake(column) for column in context_names(domain))
    payload = names[0] if verb.writes else ""
    options = {one.name for one in signature.parameters.values() if one.kind is Parameter.KEYWORD_ONLY}
    items = [name for name in names if name not in (*context, payload) and name not in _SAID | options]
    wants_item = "{key}" in verb.body and domain.shape is not Shape.SLOT
    if missing := [name for name in context if name not in names]:
        raise TypeError(f"{declared.__qualname__}: no parameter {', '.join(missing)}, which is in the key of {domain}")
    if len(items) != wants_item:
        raise TypeError(f"{declared.__qualname__}: {items} should be {'one parameter' if wants_item else 'none'}")
    return Call(declared.__name__, verb, domain, signature, context, payload, "".join(items))


def snake(column: str) -> str:
    """A stored name as a parameter: strategyName is strategy_name."""
    return re.sub(r"(?=[A-Z])", "_", column).lower()


def serve(registry: type, calls: Mapping[str, Call]) -> None:
    """Give the declared methods of a registry class their bodies."""
    for call in calls.values():
        if call.verb.served:
            body = call.verb.served.format(context=", ".join(call.context))
        else:
            passed = ", ".join(_passed(call, one) for one in call.of_instance)
            context = [*call.context]
            key = "".join(f"{one}, " for one in context)
            body = _SERVED.format(context=", ".join(context), key=key, call=f"{call.name}({passed})")
            at = f"self._at({', '.join(call.context)})"
            if call.verb.name == "read_rows":
                # Another implementation need not know more than a limit.
                body = f"return {at}.{call.name}(limit=limit, **said({passed.removeprefix('limit=limit, ')}))"
            if call.verb.optional:
                body = f"put({at}, {call.name!r}, 'write_{call.domain.name}_data', {passed})"
        setattr(registry, call.name, _method(getattr(registry, call.name), call.parameters, body))


_SERVED: Final = """\
try:
        slot = self._slots.get(({key}))
    except TypeError:
        slot = None  # A key that cannot be one: `_at` says so.
    instance = slot.instance if slot is not None and slot.ready else self._at({context})
    return instance.{call}"""


def _passed(call: Call, parameter: Parameter) -> str:
    value = f"stamped({parameter.name})" if call.is_dated(parameter) else parameter.name
    return f"{parameter.name}={value}" if parameter.kind is Parameter.KEYWORD_ONLY else value


def instance_class(registry: type, domain: Domain, calls: Mapping[str, Call]) -> type[Bound]:
    """The built-in instance of a registry: one context bound to a store, constructed with the store and the context."""
    name = registry.__name__.removeprefix("Persist").replace("Registry", "Instance")
    own = {
        call.name: _method(vars(registry)[call.name], call.of_instance, _body(call))
        for call in calls.values()
        if call.verb.body
    }
    return type(name, (Bound,), {**own, "_domain": domain, "__module__": registry.__module__})


def _body(call: Call) -> str:
    key = f"self._key({call.item})" if call.item else "self._context"
    is_dated = call.verb.dated and "when" in call.signature.parameters
    return (call.verb.dated if is_dated else call.verb.body).format(
        key=key,
        payload=call.payload,
        options=", ".join(f"{one.name}={one.name}" for one in call.parameters if one.kind is Parameter.KEYWORD_ONLY),
    )


_SPACE: Final = {"stamped": stamped, "stamp": stamp, "make_change": make_change, "put": put, "said": said}
"""What bodies name."""


def _method(declared: Any, parameters: tuple[Parameter, ...], body: str) -> Any:
    """A function of these parameters. Compiled from text, as dataclasses are: arguments by place and by name, and no
    call more than if it had been typed.
    """
    listed = ["self"]
    for one in parameters:
        if one.kind is Parameter.KEYWORD_ONLY and "*" not in listed:
            listed.append("*")
        listed.append(one.name if one.default is Parameter.empty else f"{one.name}={one.default!r}")
    text = f"def {declared.__name__}({', '.join(listed)}):\n    {body}\n"
    file = f"<{declared.__module__}.{declared.__qualname__}({len(parameters)})>"
    linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file  # So that tracebacks show it.
    space: dict[str, Any] = {**_SPACE, "__name__": declared.__module__}
    exec(compile(text, file, "exec"), space)
    made: Any = update_wrapper(space[declared.__name__], declared)
    made.__signature__ = inspect.Signature([Parameter("self", Parameter.POSITIONAL_OR_KEYWORD), *parameters],
                                           return_annotation=inspect.signature(declared).return_annotation)  # fmt: skip
    return made
