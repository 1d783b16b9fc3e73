"""Turns a script of package.json into a command that the image can run.

Reads manifests that a script leads to. Called by `start`. A package manager or a shell is in the command only
if the script needs one. If a script only runs another script, the text of that one takes its place, with what
runs before it (`prestart`). `npx`, `cross-env` and `exec` are replaced by what they run.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from packhorse.errors import InputError
from packhorse.sdk.dataclass import dataclass, field, replace

from .call import IGNORED_OPTIONS, MANAGERS, Call
from .project import Project
from .workspace import member_paths

# Characters that a shell interprets. Quoted ones count too: then a shell runs the command.
_NEEDS_SHELL = re.compile(r"[$`|&;<>()*?\[\]{}~#\n\\]")
_WORD = re.compile(r"""(?:[<>]&[\d-]|[^\s"'\\|&;()`]|\\.|"(?:\\.|[^"\\])*"|'[^']*')+""")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_OPTIONS = re.compile(r"^NODE_OPTIONS=(?!.*\$\{?NODE_OPTIONS)")
_COMPOUND = {"if", "for", "while", "until", "case", "!", "{", "[["}
BUILTINS = {
    *(".", ":", "[", "break", "cd", "command", "continue", "echo", "eval", "exec", "exit", "export", "false"),
    *(
        "printf",
        "read",
        "return",
        "set",
        "shift",
        "source",
        "test",
        "trap",
        "true",
        "ulimit",
        "umask",
        "unset",
    ),
    "wait",
}
"""Commands of the shell itself, which are no programs."""

# Marks a script that the build has run.
_MARK = ": the build has run "
RUNNERS = ("npx", "pnpx")
"""Commands of package managers that run a program."""

_BUN = ("bun", "bunx")
_SOURCES = (".ts", ".tsx", ".js", ".jsx", ".mjs", ".cjs", ".mts", ".cts")
_CALLS_MANAGER = re.compile(r"(?:^|[\s;&|(`\"'])(npm|npx|yarn|pnpm|pnpx)(?:[\s:]|$)")
_LINE_OF_MANAGER = re.compile(r"^(npm|npx|yarn|pnpm|pnpx)\s", re.MULTILINE)
_CALLS_RUN_ALL = re.compile(r"(?:^|[\s;&|(`\"'])(?:npm-run-all2?|run-[sp])(?:\s|$)")
_MANAGER_OF_RUNNER = {"npx": "npm", "pnpx": "pnpm"}
# Scripts that a program runs: `npm run a`, `yarn a`, `npm:a`, `npm:a:*`.
_RUNS_SCRIPT = re.compile(r"\b(?:npm|yarn|pnpm)(?::| run(?:-script)? | )([^\s\"'`;&|]+)")
_INSTALLS = re.compile(
    r"(?:^|[\s;&|(`\"'])"
    r"((?:npm|pnpm) (?:ci|i|install|add)\b|yarn (?:install|add)\b|yarn(?=\s*(?:[;&|)\"']|$)))"
)
# A name of several members of a workspace: a pattern, or pnpm's `...web`.
_SEVERAL = re.compile(r"\.\.\.|[*^!{\[]")
_CALLS_BUN = re.compile(r"(?:^|[\s;&|(`\"'])bunx?(?:\s|$)")
# Programs whose arguments are commands, and those that always run npm.
_STARTERS = {
    *("sh", "bash", "dash", "env", "nice", "nohup", "tini", "dumb-init", "cross-env-shell", "env-cmd"),
    *("dotenv", "dotenvx", "dotenv-run-script", "concurrently", "nodemon", "onchange", "chokidar", "forever"),
    *("pm2", "pm2-runtime", "pm2-docker", "wait-on", "start-server-and-test", "doppler", "infisical", "op"),
}
_RUN_ALL = {"npm-run-all", "npm-run-all2", "run-s", "run-p"}
_DEPTH = 10


@dataclass(frozen=True, slots=True)
class Command:
    """The command that the image runs: `argv` with the variables `env`. `programs` are the programs it calls.

    `last` is its last command. `gets_signals` is false if a shell stays between. `after` names a script that
    a manager would run afterwards. `folders` are the folders of other projects that it enters. `left_out` are
    the commands that the build has already run. `managers` are the package managers that it calls.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    programs: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    gets_signals: bool = True
    after: str = ""
    folders: tuple[Path, ...] = ()
    left_out: tuple[str, ...] = ()
    managers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _ShellCommand:
    """One command of a list joined by `&&`: words in the shell's spelling, or a `whole` text that is not
    parsed.

    Or `inner` commands in a subshell, which may `cd` and `exit` there.
    """

    words: tuple[str, ...] = ()
    whole: str = ""
    inner: tuple[_ShellCommand, ...] = ()

    @property
    def _assignments(self) -> int:
        return next(
            (at for at, word in enumerate(self.words) if not _ASSIGNMENT.match(word)), len(self.words)
        )

    @property
    def variables(self) -> tuple[str, ...]:
        """The assignments before the command."""
        return self.words[: self._assignments]

    @property
    def command(self) -> tuple[str, ...]:
        """The command and its arguments."""
        return self.words[self._assignments :]

    @property
    def built_script(self) -> str:
        """The name of the script that the build has run, if this marks one; else empty."""
        text = " ".join(self.command)
        return "".join(shlex.split(text.removeprefix(_MARK))) if text.startswith(_MARK) else ""

    @property
    def programs(self) -> tuple[str, ...]:
        """The names of the programs that it calls."""
        own = tuple(shlex.split(self.command[0])[:1]) if self.command else ()
        if own and own[0] in _BUN:
            own += _programs_beside_bun(self.command)
        elif self.whole or (own and own[0] in _STARTERS):
            own += ("node", "bun") if _CALLS_BUN.search(str(self)) else ("node",)
        return own + tuple(name for piece in self.inner for name in piece.programs)

    @property
    def managers(self) -> tuple[str, ...]:
        """The package managers that it calls, also through a program: `concurrently "npm run a"`."""
        program, *words = shlex.split(" ".join(self.command)) or [""]
        text, calls = " ".join(words), _CALLS_MANAGER
        if self.whole:
            text = self.whole
        elif program in (*RUNNERS, *MANAGERS):
            text = program
        elif program in ("node", *_BUN, *BUILTINS):
            text = ""
        elif program not in _STARTERS:
            text, calls = "\n".join(words), _LINE_OF_MANAGER
        found = calls.findall(text)
        if program in _RUN_ALL or (self.whole and _CALLS_RUN_ALL.search(self.whole)):
            found.append("npm")
        found += (name for piece in self.inner for name in piece.managers)
        return tuple(dict.fromkeys(_MANAGER_OF_RUNNER.get(name, name) for name in found))

    @property
    def as_list_item(self) -> str:
        """The text in a form that `&&` may follow."""
        return f"{{ {self.whole}\n}}" if self.whole else str(self)

    @property
    def with_appended_options(self) -> _ShellCommand:
        """The command with its NODE_OPTIONS appended to existing ones, because the image sets some."""
        if not self.variables and self.words[:1] != ("export",):
            return self
        return replace(
            self, words=tuple(_OPTIONS.sub('NODE_OPTIONS="$NODE_OPTIONS "', w) for w in self.words)
        )

    def __str__(self) -> str:
        if self.inner:
            return f"( {' && '.join(piece.as_list_item for piece in self.inner)} )"
        return self.whole or " ".join(self.words)


def read_script(project: Project, name: str, *, built: Collection[str] = ()) -> Command:
    """Reads the command of script `name`, without the scripts that the build has run (`built`).

    Raises InputError for an empty script, an open quote, and a manager that is needed but not in the image.
    """
    marked = _mark_built(project, built, name)
    pieces, left_out = _drop_built(project, _expand_script(marked, name, ()), name, built)
    after = f"post{name}" if f"post{name}" in project.scripts else ""
    return replace(_to_command(project, pieces, name), after=after, left_out=left_out)


def read_script_text(
    project: Project, text: str, name: str, *, shell: str, built: Collection[str] = ()
) -> Command:
    """As `read_script`, for a `text` outside package.json that may run its scripts.

    Errors use `name` for it. `shell` is the program that runs it if it needs a shell.
    """
    marked = _mark_built(project, built)
    pieces, left_out = _drop_built(project, _expand_text(marked, text, name, ()), name, built)
    return replace(_to_command(project, pieces, name, shell), left_out=left_out)


def _mark_built(project: Project, built: Collection[str], name: str = "") -> Project:
    """`project` with a mark as the text of each script that was `built`, except script `name` itself."""
    done = [script for script in built if script != name]
    around = {f"{when}{script}" for script in done for when in ("pre", "post")}
    scripts = {script: text for script, text in project.scripts.items() if script not in around}
    scripts |= {script: f"{_MARK}{shlex.quote(script)}" for script in done if script in scripts}
    return replace(project, manifest={**project.manifest, "scripts": scripts})


def _drop_built(
    project: Project, pieces: Sequence[_ShellCommand], name: str, built: Collection[str]
) -> tuple[list[_ShellCommand], tuple[str, ...]]:
    """`pieces` without those that the build has run (by mark or by text), and the names of those."""
    texts = {text for script in built if script != name and (text := _only_command(project, script))}
    kept: list[_ShellCommand] = []
    left_out: list[str] = []
    for piece in pieces:
        if piece.inner:
            inner, more = _drop_built(project, piece.inner, name, built)
            kept += [replace(piece, inner=tuple(inner))] if inner else []
            left_out += more
        elif piece.built_script or str(piece) in texts:
            left_out.append(piece.built_script or str(piece))
        else:
            kept.append(piece)
    return kept, tuple(left_out)


def _only_command(project: Project, name: str) -> str:
    """The command of a script that has only one; else empty."""
    try:
        pieces = _expand_text(project, project.scripts.get(name, ""), name, ())
    except InputError:
        return ""
    return str(pieces[0]) if len(pieces) == 1 else ""


def _to_command(project: Project, pieces: Sequence[_ShellCommand], name: str, shell: str = "sh") -> Command:
    if not pieces:
        raise InputError(
            f"the {name} script runs nothing that the build has not run: {project.scripts.get(name, '')}",
            fix='write the command that starts the application, for example "start": "node dist/server.js"',
        )
    folders = tuple(dict.fromkeys(_entered_folders(pieces, project.directory)))
    *before, last = pieces
    managers = tuple(dict.fromkeys(name for piece in pieces for name in piece.managers))
    called = [name for piece in pieces for name in (*piece.programs, *_programs_within(project, piece))]
    programs = tuple(dict.fromkeys(called)) if managers else tuple(called)
    words = tuple(shlex.split(" ".join(last.command)))
    if last.words and not words:
        raise InputError(f"the {name} script runs nothing: {last}", fix="write a command behind it")
    is_program = bool(words) and words[0] not in BUILTINS
    if not before and is_program and not _NEEDS_SHELL.search(str(last)):
        env = dict(shlex.split(word)[0].split("=", 1) for word in last.variables)
        return Command(words, env, programs, words, folders=folders, managers=managers)
    line = [piece.with_appended_options.as_list_item for piece in before]
    last = last.with_appended_options
    line.append(" ".join((*last.variables, "exec", *last.command)) if is_program else str(last))
    argv = (shell, "-c", " && ".join(line))
    return Command(argv, {}, programs, words, gets_signals=is_program, folders=folders, managers=managers)


def _programs_within(project: Project, piece: _ShellCommand) -> Iterator[str]:
    """The programs of the scripts that a package manager runs for `piece` at the start."""
    if not piece.managers:
        return
    yield "node"
    words = shlex.split(" ".join(piece.command)) if piece.command else []
    named = words[1:] if words[:1] and words[0] in _RUN_ALL else []
    for pattern in (*named, *_RUNS_SCRIPT.findall(str(piece))):
        for name in fnmatch.filter(project.scripts, pattern.replace("**", "*")):
            yield from _programs_of(project, name)


def _programs_of(project: Project, name: str) -> tuple[str, ...]:
    """The programs of a script; none if it cannot be read, or runs itself."""
    try:
        pieces = _expand_script(project, name, ())
    except InputError:
        return ()
    return tuple(program for piece in pieces for program in piece.programs)


def _expand_script(project: Project, name: str, above: tuple[str, ...]) -> list[_ShellCommand]:
    """The commands of a script, and of the script that runs before it, without package managers."""
    place = f"{project.directory}:{name}"
    if place in above or len(above) > _DEPTH:
        raise InputError(f"the {name} script of package.json runs itself", why=project.scripts[name])
    found: list[_ShellCommand] = []
    before = f"pre{name}"
    if before in project.scripts:
        found += _isolate(_expand_script(project, before, (*above, place)))
    return found + _expand_text(project, project.scripts[name], name, (*above, place))


def _expand_text(project: Project, text: str, name: str, above: tuple[str, ...]) -> list[_ShellCommand]:
    """The commands of a script's text, without package managers."""
    if not text.strip():
        raise InputError(f"the {name} script is empty", fix='write a command, as in "node server.js"')
    found: list[_ShellCommand] = []
    here = project
    pieces = _split_commands(text, name)
    for piece in pieces:
        _refuse_install(piece, name)
        if piece.command[:1] == ("cd",) and len(piece.command) == 2:
            here = _enter_folder(here, piece.command[1])
        followed = _resolve_call(here, piece, name, above) if piece.words else [piece]
        found += followed if followed == [piece] or piece is pieces[-1] else _isolate(followed)
    return found


def _isolate(pieces: list[_ShellCommand]) -> list[_ShellCommand]:
    """Puts commands into a subshell if they affect it: a manager would run them in a shell of their own."""
    if all(piece.command and piece.command[0] not in BUILTINS for piece in pieces):
        return pieces
    return [_ShellCommand(inner=tuple(pieces))]


def _split_commands(text: str, name: str) -> list[_ShellCommand]:
    """The commands that `&&` joins; one with the whole text if the text has other shell syntax."""
    words: list[str] = []
    pieces: list[_ShellCommand] = []
    at = 0
    while at < len(text):
        match = _WORD.match(text, at)
        if match and not match[0].startswith("#"):
            words.append(match[0])
            at = match.end()
        elif text.startswith("&&", at):
            pieces.append(_ShellCommand(tuple(words)))
            words, at = [], at + 2
        elif text[at] in " \t":
            at += 1
        elif text[at] in "\"'\\":
            raise InputError(f"the {name} script has an open quote", why=text, fix="close it")
        else:
            return [_ShellCommand(whole=text.strip())]
    pieces.append(_ShellCommand(tuple(words)))
    if all(piece.words and piece.words[0] not in _COMPOUND for piece in pieces):
        return pieces
    return [_ShellCommand(whole=text.strip())]


def _resolve_call(
    project: Project, piece: _ShellCommand, name: str, above: tuple[str, ...]
) -> list[_ShellCommand]:
    """Replaces programs that only run another command, such as `exec` and `npm run`, by that command."""
    for _ in range(_DEPTH):
        variables, command = piece.variables, piece.command
        if command[:1] == ("exec",) or command[:1] == ("cross-env",):
            piece = _ShellCommand((*variables, *command[1:]))
        elif command[:1] and command[0] in RUNNERS:
            words = _strip_runner_options(command[1:])
            if not words:
                break
            piece = _ShellCommand((*variables, *words))
        elif command[:1] and command[0] in (*MANAGERS, *_BUN):
            call = Call.read(("bun", "x", *command[1:]) if command[0] == "bunx" else command)
            if call and call.stays:
                break
            if call is None:
                if command[0] in _BUN:
                    raise _bun_call_error(command[0], name, str(piece))
                break
            here = _called_project(project, call)
            if here is None:
                if _SEVERAL.search(call.member):
                    break
                raise InputError(
                    f"the {name} script runs in a project that is not there: {call.member or call.directory}",
                    why=str(piece),
                    fix="name a folder, or a member of the workspace",
                )
            if call.member:
                path = shlex.quote(os.path.relpath(here.directory, project.directory))
                call = replace(call, directory=path)
            if call.script in here.scripts and not call.program:
                return list(_join_call(variables, call, _expand_script(here, call.script, above)))
            if command[0] == "bun" and not call.program and _is_source(here.directory / call.script):
                break
            if command[0] == "npm" and call.script == "start" and (here.directory / "server.js").is_file():
                # What npm starts without a start script.
                at = [_ShellCommand(("cd", call.directory))] if call.directory else []
                return [*at, _ShellCommand((*variables, "node", "server.js", *call.arguments))]
            if not call.is_program:
                raise _missing_script_error(call.script, name, str(piece), here)
            words = _strip_runner_options((call.script, *call.arguments))
            if not words:
                break
            piece = _ShellCommand((*variables, *words))
            if call.directory:
                return [_ShellCommand(("cd", call.directory)), piece]
        elif scripts := _run_all_scripts(project, command):
            expanded = [_expand_script(project, script, above) for script in scripts]
            before = [one for pieces in expanded[:-1] for one in _isolate(pieces)]
            return list(_join_call(variables, Call(scripts[-1]), [*before, *expanded[-1]]))
        else:
            break
    return [piece]


def _run_all_scripts(project: Project, command: Sequence[str]) -> tuple[str, ...]:
    """The scripts that npm-run-all runs one after the other; empty for another command."""
    program, *words = command or ("",)
    if program == "npm-run-all" and words[:1] in (["-s"], ["--serial"], ["--sequential"]):
        del words[0]
    is_sequence = program in ("run-s", "npm-run-all") and all(word in project.scripts for word in words)
    return tuple(words) if is_sequence else ()


def _refuse_install(piece: _ShellCommand, name: str) -> None:
    """Raises InputError for an installation at the start, because the image already has the modules."""
    if found := _INSTALLS.search(str(piece)):
        raise InputError(
            f"the {name} script installs packages at each start: {found[1]}",
            why=str(piece),
            fix="remove it: the build has installed the modules, and they are in the image",
        )


def _join_call(
    variables: tuple[str, ...], call: Call, pieces: list[_ShellCommand]
) -> Iterator[_ShellCommand]:
    """The commands of a script that is called with variables, with arguments, or in a directory."""
    *before, last = pieces
    if call.directory:
        yield _ShellCommand(("cd", call.directory))
    if variables and (before or not last.words):
        yield _ShellCommand(("export", *variables))
        variables = ()
    yield from before
    if last.words:
        yield _ShellCommand((*variables, *last.words, *call.arguments))
    else:
        yield replace(last, whole=" ".join((last.whole, *call.arguments)))


def _strip_runner_options(words: Sequence[str]) -> list[str]:
    """The command that npx and similar programs run; it is on PATH in the image if a dependency has it.

    Empty if only npx itself can run it, because of options such as in `npx -p a b`.
    """
    rest = list(words)
    while rest and rest[0] in IGNORED_OPTIONS:
        del rest[0]
    if not rest or rest[0].startswith("-"):
        return []
    program, at, _ = rest[0].rpartition("@")
    return [program if at and program else rest[0], *rest[1:]]


def _called_project(project: Project, call: Call) -> Project | None:
    """The project whose script is called; None if there is no such member or folder."""
    if call.member:
        path = _find_member(project, "".join(shlex.split(call.member)))
        return Project.read(project.directory / path) if path else None
    if not call.directory:
        return project
    path_ = _project_folder(project.directory, call.directory)
    return Project.read(path_) if path_ else None


def _find_member(project: Project, wanted: str) -> str:
    """The path of the workspace's member with this name or path; empty without one."""
    members = member_paths(project)
    wanted = wanted.removeprefix("./").rstrip("/")
    if wanted in members:
        return wanted
    return next((path for path in members if Project.read(project.directory / path).name == wanted), "")


def _enter_folder(project: Project, directory: str) -> Project:
    """The project in a folder that a script enters; `project` if the folder has none."""
    path = _project_folder(project.directory, directory)
    return Project.read(path) if path else project


def _project_folder(start: Path, directory: str) -> Path | None:
    """The folder with a project that `cd` with this word leads to."""
    words = shlex.split(directory) if not _NEEDS_SHELL.search(directory) else []
    path = Path(os.path.normpath(start / words[0])) if words else start
    return path if path != start and (path / "package.json").is_file() else None


def _entered_folders(pieces: Sequence[_ShellCommand], start: Path) -> Iterator[Path]:
    """The folders of projects in which commands run, except `start`; also in subshells."""
    for piece in pieces:
        if piece.command[:1] == ("cd",) and len(piece.command) == 2:
            found = _project_folder(start, piece.command[1])
            if found:
                start = found
                yield found
        yield from _entered_folders(piece.inner, start)


def _is_source(path: Path) -> bool:
    """Whether Bun finds this file, with or without its ending."""
    return path.is_file() or any(path.with_name(f"{path.name}{ending}").is_file() for ending in _SOURCES)


def _programs_beside_bun(command: Sequence[str]) -> tuple[str, ...]:
    """The programs that a call of Bun needs too: Node.js, unless Bun only runs a file."""
    program, *words = [word for word in command if not word.startswith("-")]
    if any(word.endswith(_SOURCES) for word in words):
        return ()
    if program == "bun" and words[:1] == ["x"]:
        program, words = "bunx", words[1:]
    return ("node", *(words[:1] if program == "bunx" else ()))


def _bun_call_error(program: str, name: str, text: str) -> InputError:
    return InputError(
        f"the {name} script calls {program} for something that an image cannot do",
        why=text,
        fix="name the file, the script or the program of a module that it is to run, as in "
        "`bun server.ts`; the build installs the modules",
    )


def _missing_script_error(script: str, name: str, text: str, project: Project) -> InputError:
    return InputError(
        f"the {name} script runs a script that package.json does not have: {script}",
        why=f"{text}\nit has {', '.join(project.scripts)}",
        fix="correct the name, or name the command itself, as in `node server.js`",
    )
