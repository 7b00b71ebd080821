"""The Lua scripts in ``store/lua``: each is atomic on one slot, and harmless when it is run again."""

import hashlib
from importlib import resources

_FOLDER = resources.files("store") / "lua"


class Script:
    """A script by name, which servers know by its hash; ``CommandBatcher`` sends the source to one that does not."""

    def __init__(self, name: str, *, prelude: str | None = None) -> None:
        """Read ``name``, put after ``prelude`` if it has one."""
        names = [prelude, name] if prelude else [name]
        self.source = "".join((_FOLDER / f"{each}.lua").read_text(encoding="utf-8") for each in names)
        self.sha = hashlib.sha1(self.source.encode()).hexdigest()
        SOURCES[self.sha] = self.source

    def __call__(self, keys: tuple[str, ...], *args: str | bytes | int) -> tuple[str | bytes | int, ...]:
        """The command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)


SOURCES: dict[str, str] = {}
"""Every script by its hash."""


def with_source(command: tuple[str | bytes | int, ...]) -> tuple[str | bytes | int, ...]:
    """``command`` so that it also runs on a server that does not know the script, and teaches it."""
    if command[0] != "EVALSHA":
        return command
    return ("EVAL", SOURCES[str(command[1])], *command[2:])
