"""A Runner whose executables are Python functions, over a plain directory: no sandbox, no root, no process.

A program is registered under the path at which a command calls it and reads and writes through the tree.
`shell` is one that is a real process, for the suite that every Runner passes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

from packhorse.base.sandbox import Command, Output, Result, Sandbox, SandboxSpec
from packhorse.base.tree import TreeEdit, TreeView, read
from packhorse.errors import CommandNotFound, PackhorseError, SandboxError
from packhorse.fs.rooted import RootedTree
from packhorse.lifecycle.ports import SandboxPurpose


@dataclass
class Call:
    """One run of a program: what it was started with, and what it can do."""

    command: Command
    tree: TreeEdit
    root: Path
    print: Output
    on_signal: Callable[[int], None] = lambda number: None
    exceeded: str = ""  # the limit that it meets

    @property
    def env(self) -> Mapping[str, str]:
        return self.command.env

    def say(self, text: str) -> None:
        """Prints a line."""
        self.print(text.encode() + b"\n")

    def write(self, path: str, text: str = "") -> None:
        """Writes a file; a relative `path` is below the buildpack's layers directory."""
        self.tree.write(self._at(path), text.encode())

    def read(self, path: str) -> str | None:
        """The text of a file, None when there is none; a relative `path` is as for `write`."""
        data = read(self.tree, self._at(path))
        return None if data is None else data.decode()

    def plan(self, text: str) -> None:
        """Writes the build plan of a bin/detect."""
        self.write(self.command.argv[2], text)

    def layer(
        self, name: str, *types: str, files: Mapping[str, str] | None = None, metadata: str = ""
    ) -> None:
        """Makes a layer of a bin/build: its TOML file and, where `files` are given, its directory."""
        flags = "".join(f"{kind} = true\n" for kind in types)
        self.write(f"{name}.toml", f"[types]\n{flags}[metadata]\n{metadata}")
        if files is not None:
            self.tree.mkdir(self._at(name))
        for path, text in (files or {}).items():
            self.write(f"{name}/{path}", text)

    def _at(self, path: str) -> str:
        return path if path.startswith("/") else f"{self.command.argv[1]}/{path}"


Program = Callable[[Call], int | None]
"""Runs as an executable would; its exit status, None for 0."""


@dataclass
class FakeRunner:
    """Runs `programs` over the directory `root`. `commands` are those that ran; `scratch` is for copies."""

    root: Path
    scratch: Path
    programs: dict[str, Program] = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)
    at_once: list[int] = field(default_factory=list)
    confirmations: list[bool] = field(default_factory=list)
    _tree: TreeEdit | None = None
    _numbers: Iterator[int] = field(default_factory=count)

    @contextmanager
    def builder_files(self) -> Iterator[TreeView]:
        """The directory as it is: what no step has made is not told apart here."""
        with RootedTree.open_local(self.root) as tree:
            yield tree

    @contextmanager
    def open(self, spec: SandboxSpec | SandboxPurpose) -> Iterator[Sandbox]:
        """A sandbox over the directory; a detection has a copy of it, which goes with it."""
        root = self.root
        if spec is SandboxPurpose.DETECTION:
            root = self.scratch / str(next(self._numbers))
            shutil.copytree(self.root, root, symlinks=True)
        try:
            with RootedTree.open_local(root) as tree:
                self._tree = tree
                yield _Sandbox(self, spec if isinstance(spec, SandboxSpec) else SandboxSpec(()), root, tree)
        finally:
            if spec is SandboxPurpose.DETECTION:
                shutil.rmtree(root)

    def result_tree(self) -> TreeEdit:
        """The tree that is open."""
        assert self._tree is not None
        return self._tree

    def confirm_source(self) -> bool:
        """Whether detection saw the source as it is."""
        return self.confirmations.pop() if self.confirmations else True


@dataclass
class _Sandbox:
    runner: FakeRunner
    spec: SandboxSpec
    root: Path
    tree: TreeEdit
    call: Call | None = None

    def run(self, output: Output | None, command: Command | None = None) -> Result:
        command = command or self.spec.command
        if not command.argv:
            raise SandboxError("this sandbox has no default command")
        name = command.executable or command.argv[0]
        program = self.runner.programs.get(name)
        if program is None:
            raise CommandNotFound(f"{name} cannot be started", why="there is no such file")
        self.runner.commands.append(command)
        self.call = Call(command, self.tree, self.root, output or (lambda data: None))
        status = program(self.call) or 0
        return Result(status, command=f"again {name}", exceeded=self.call.exceeded)

    def run_all(
        self, commands: Sequence[Command], output: Callable[[int, bytes], None], *, at_once: int
    ) -> Sequence[Result | PackhorseError]:
        self.runner.at_once.append(at_once)
        outcomes: list[Result | PackhorseError] = []
        for number, command in enumerate(commands):
            try:
                outcomes.append(self.run(partial(output, number), command))
            except PackhorseError as error:
                outcomes.append(error)
        return outcomes

    def signal(self, number: int) -> None:
        if self.call is not None:
            self.call.on_signal(number)


def shell(call: Call) -> int:
    """/bin/sh of this machine; /layers in its script and output is that of the tree."""
    root, command = str(call.root), call.command
    process = subprocess.Popen(
        [word.replace("/layers", f"{root}/layers") for word in command.argv],
        executable="/bin/sh",
        env=command.env,
        cwd=root + command.cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    call.on_signal = process.send_signal
    assert process.stdout
    with process.stdout as printed:
        while data := os.read(printed.fileno(), 65536):
            call.print(data.replace(root.encode(), b""))
    status = process.wait()
    return status if status >= 0 else 128 - status
