# SPDX-License-Identifier: Apache-2.0
"""Command line arguments generated from the dataclasses that Python code uses, so that no default is written twice.

A field ``score_threshold: float = field(default=0.25, metadata={"help": "..."})`` becomes ``--score-threshold X``.
Metadata: ``help``; ``metavar``; ``positional`` (True: the field takes the words without a dash); ``rare`` (True: shown
by ``--help-all`` only). A bool becomes a switch (``--no-x`` where its default is True), a tuple takes several words.
"""

from __future__ import annotations

import argparse
import difflib
import types
import typing
from collections.abc import Collection
from dataclasses import MISSING, Field, fields
from typing import Any, NoReturn

__all__ = ["Parser", "add_arguments", "build_config"]


class Parser(argparse.ArgumentParser):
    """argparse with whole option names only, the nearest names in its errors, and ``--help-all``."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False,
            add_help=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30, width=100),
            **options,
        )
        self.hidden: list[tuple[argparse.Action, str | None]] = []
        self.add_argument("-h", "--help", action="help", help="show this and exit")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's, but an unknown option is an error here, where the known ones are known."""
        namespace, rest = super().parse_known_args(args, namespace)
        unknown = [word for word in rest if word.startswith("-")]
        if unknown:
            word = unknown[0].split("=")[0]
            self.error(f"unknown option {word}{_did_you_mean(word, list(self._option_string_actions))}")
        return namespace, rest

    def error(self, message: str) -> NoReturn:
        """One line to standard error, exit code 2."""
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help shows the options)\n")


def _did_you_mean(word: str, known: list[str]) -> str:
    """The nearest of ``known``; a beginning of a name counts as much as the whole."""

    def likeness(option: str) -> float:
        return max(difflib.SequenceMatcher(None, word, part).ratio() for part in (option, option[: len(word)]))

    best = max(known, key=likeness)
    return f"; did you mean {best}?" if likeness(best) >= 0.6 else ""


class _HelpAll(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        for action, text in parser.hidden:
            action.help = text
        parser.print_help()
        parser.exit()


def add_arguments(parser: Parser, config: type, *, rare: Collection[str] = ()) -> None:
    """Add one argument per field of the dataclass ``config``; ``rare`` names fields that only ``--help-all`` shows."""
    kinds = typing.get_type_hints(config)
    for each in fields(config):
        kind, optional = _unwrap(kinds[each.name])
        text = each.metadata.get("help", "")
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": each.name}
        if each.metadata.get("positional"):
            options.pop("dest")
            options |= {"nargs": "*", "metavar": each.metadata.get("metavar", each.name.upper()), "help": text}
            parser.add_argument(each.name, **options)
            continue
        flag = "--" + each.name.replace("_", "-")
        if kind is bool:
            switch = each.default is not True
            flag = flag if switch else "--no-" + flag[2:]
            options["action"] = "store_true" if switch else "store_false"
        else:
            options |= _value_options(each, kind)
            text += _shown_default(each, optional)
        action = parser.add_argument(flag, help=text.replace("%", "%%"), **options)
        if each.name in rare or each.metadata.get("rare"):
            parser.hidden.append((action, action.help))
            action.help = argparse.SUPPRESS
    if parser.hidden:
        parser.add_argument(
            "--help-all", action=_HelpAll, nargs=0, default=argparse.SUPPRESS, help="show every setting and exit"
        )


def build_config(config: type, namespace: argparse.Namespace) -> Any:
    """The dataclass ``config`` from the arguments that were given; its own defaults fill the rest.

    Raises what its ``__post_init__`` raises.
    """
    kinds = typing.get_type_hints(config)
    values = {}
    for each in fields(config):
        if hasattr(namespace, each.name):
            value = getattr(namespace, each.name)
            values[each.name] = tuple(value) if typing.get_origin(_unwrap(kinds[each.name])[0]) is tuple else value
    return config(**values)


def _unwrap(kind: Any) -> tuple[Any, bool]:
    """(X, True) for ``X | None``, else (kind, False)."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        inner = [option for option in typing.get_args(kind) if option is not type(None)]
        return inner[0], True
    return kind, False


def _value_options(each: Field[Any], kind: Any) -> dict[str, Any]:
    metavar = each.metadata.get("metavar")
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        several = inner[-1] is Ellipsis
        return {
            "type": inner[0],
            "nargs": "+" if several else len(inner),
            "metavar": metavar or ("X" if several else tuple("XY"[: len(inner)]) if len(inner) <= 2 else "X"),
        }
    return {"type": kind, "metavar": metavar or {int: "N", float: "X"}.get(kind, "TEXT")}


def _shown_default(each: Field[Any], optional: bool) -> str:
    default = each.default_factory() if each.default_factory is not MISSING else each.default
    if default is MISSING or default is None or default == () or default == "":
        return ""
    if isinstance(default, tuple):
        default = " ".join(map(str, default))
    return f" [{default}]"
