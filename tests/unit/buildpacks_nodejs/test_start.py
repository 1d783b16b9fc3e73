"""The start command: direct where it can be, through a shell that steps aside where it must."""

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nodejs import script
from nodejs.project import Project
from nodejs.start import StartCommand, find_start

from packhorse.errors import InputError
from packhorse.sdk.dataclass import replace


def start(directory: Path, generated: bool = False, **scripts: str) -> StartCommand:
    found = find_start(Project(directory, {"scripts": scripts}), {}, generated=generated)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("node src/index.js", ("node", "src/index.js")),
        ("node 'my server.js' --port 80", ("node", "my server.js", "--port", "80")),
        ("exec node a.js", ("node", "a.js")),
        ("next start -p 8080", ("next", "start", "-p", "8080")),
        ("node a.js --port $PORT", ("sh", "-c", "exec node a.js --port $PORT")),
        ("A=1 B=$C node a.js", ("sh", "-c", "A=1 B=$C exec node a.js")),
        ("node a.js 2>&1", ("sh", "-c", "exec node a.js 2>&1")),
        ("node a.js && A=1 exec node b.js", ("sh", "-c", "node a.js && A=1 exec node b.js")),
        ("cd server && node a.js", ("sh", "-c", "cd server && exec node a.js")),
    ],
)
def test_node_gets_the_signals_of_these_scripts(
    tmp_path: Path, script: str, command: tuple[str, ...]
) -> None:
    found = start(tmp_path, start=script)
    assert found.command == command
    assert found.gets_signals


@pytest.mark.parametrize(
    "script", ["node a.js | tee log", "node a.js & node b.js", "node -e 'a; b' && node c; d"]
)
def test_a_script_whose_shell_must_stay_is_left_as_it_is_and_said(tmp_path: Path, script: str) -> None:
    found = start(tmp_path, start=script)
    assert found.command == ("sh", "-c", script)
    assert not found.gets_signals


@pytest.mark.system
def test_prestart_runs_first_and_stops_the_start_when_it_fails(tmp_path: Path) -> None:
    command = start(tmp_path, prestart="echo before", start="echo started").command
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "before\nstarted\n"
    command = start(tmp_path, prestart="false", start="echo started").command
    assert subprocess.run(command, check=False, capture_output=True, text=True).stdout == ""


@pytest.mark.system
@pytest.mark.parametrize(
    "first", ["cd sub && echo before", "test -f gone || exit 0", "export A=changed && cd sub", "A=changed; :"]
)
def test_what_runs_first_has_a_shell_of_its_own_as_a_manager_gives_it(tmp_path: Path, first: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "package.json").touch()
    for scripts in (
        {"prestart": first, "start": "pwd && echo $A started"},
        {"first": first, "start": "npm run first && pwd && echo $A started"},
        {"first": first, "start": "run-s first second", "second": "pwd && echo $A started"},
    ):
        command = start(tmp_path, **scripts).command
        run = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "A": "a"}, check=True, capture_output=True, text=True
        )
        assert run.stdout.endswith(f"{tmp_path}\na started\n")


def test_programs_that_run_first_are_told_even_in_a_shell_of_their_own(tmp_path: Path) -> None:
    found = start(tmp_path, prestart="cd db && prisma migrate deploy", start="node a.js")
    assert found.programs == ("cd", "prisma", "node")
    assert found.command[-1] == "( cd db && prisma migrate deploy ) && exec node a.js"


@pytest.mark.system
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("NODE_OPTIONS=--b node a.js $PORT", "--a --b"),
        ("NODE_OPTIONS='--b --c' node a.js $PORT", "--a --b --c"),
        ("export NODE_OPTIONS=--b && node a.js", "--a --b"),
        ('NODE_OPTIONS="$NODE_OPTIONS --b" node a.js', "--a --b"),
    ],
)
def test_options_of_node_in_a_shell_are_added_to_those_of_the_image(
    tmp_path: Path, script: str, words: str
) -> None:
    (tmp_path / "node").write_text('#!/bin/sh\necho "$NODE_OPTIONS"')
    (tmp_path / "node").chmod(0o755)
    env = {"NODE_OPTIONS": "--a", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    run = subprocess.run(start(tmp_path, start=script).command, env=env, check=True, stdout=subprocess.PIPE)
    assert run.stdout.decode() == f"{words}\n"


def test_a_sequence_of_scripts_is_followed(tmp_path: Path) -> None:
    found = start(tmp_path, start="run-s db serve", db="prisma migrate deploy", serve="A=1 node a.js")
    assert found.command == ("sh", "-c", "prisma migrate deploy && A=1 exec node a.js")
    found = start(tmp_path, start="npm-run-all -s serve", serve="A=1 node a.js")
    assert (found.command, found.env) == (("node", "a.js"), {"A": "1"})


@pytest.mark.parametrize(
    ("script", "managers"),
    [
        ("concurrently 'npm run serve' 'node b.js'", ("npm",)),
        ("concurrently npm:serve", ("npm",)),
        ("concurrently yarn:serve 'pnpm other'", ("yarn", "pnpm")),
        ("dotenv -- npm run serve", ("npm",)),
        ("npx dotenv -e .env -- yarn serve", ("yarn",)),
        ('nodemon --exec "npm run serve"', ("npm",)),
        ("pm2-runtime start npm -- start", ("npm",)),
        ('sh -c "cd a && npm start"', ("npm",)),
        ("start-other 'pnpm serve'", ("pnpm",)),
        ("run-p serve other", ("npm",)),
        ("run-s 'serve:*'", ("npm",)),
        ("npm-run-all --parallel serve other", ("npm",)),
        ("node a.js && npm-run-all serve gone", ("npm",)),
        ("npm run serve | tee log", ("npm",)),
        ("npm start --workspaces", ("npm",)),
        ("pnpm -r start", ("pnpm",)),
        ("npx -p a b", ("npm",)),
        ("yarn workspaces foreach -A run start", ("yarn",)),
        ("npm run serve", ()),
        ("node a.js && run-s serve other", ()),
    ],
)
def test_a_manager_that_the_start_cannot_do_without_is_named(
    tmp_path: Path, script: str, managers: tuple[str, ...]
) -> None:
    scripts = {"start": script, "serve": "tsx a.js", "other": "node b.js", "serve:a": "uvu"}
    found = start(tmp_path, **scripts)
    assert found.managers == managers
    if managers:
        assert "node" in found.programs


@pytest.mark.parametrize(
    ("script", "program"),
    [
        ("concurrently 'npm run serve' 'node b.js'", "tsx"),
        ("concurrently npm:serve*", "uvu"),
        ("run-p serve other", "tsx"),
        ("run-p 'serve:*'", "uvu"),
        ("yarn serve | tee log", "tsx"),
    ],
)
def test_the_programs_of_scripts_that_a_manager_runs_at_the_start_are_looked_for(
    tmp_path: Path, script: str, program: str
) -> None:
    scripts = {"start": script, "serve": "tsx a.js", "other": "node b.js", "serve:a": "uvu"}
    assert program in start(tmp_path, **scripts).programs


@pytest.mark.parametrize(
    "script", ["node npm", "node -e 'npm x'", "serve npm", "pm2-runtime start a.js", "sh -c 'node bun.js'"]
)
def test_words_that_only_look_like_a_manager_are_left(tmp_path: Path, script: str) -> None:
    assert start(tmp_path, start=script).command == tuple(shlex.split(script))


def test_a_script_that_only_runs_another_is_followed(tmp_path: Path) -> None:
    found = start(tmp_path, start="npm run serve", serve="npm run -s real", real="node a.js")
    assert found.command == ("node", "a.js")


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("npm run missing", "runs a script that package.json does not have: missing"),
        ("npm run a -w b", "runs in a project that is not there: b"),
        ("yarn workspace a start", "runs in a project that is not there: a"),
        ("pnpm --filter a start", "runs in a project that is not there: a"),
        ("npm --prefix gone start", "runs in a project that is not there: gone"),
        ("npm install && node a.js", "installs packages at each start: npm install"),
        ("yarn", "installs packages at each start: yarn"),
        ("yarn && node a.js", "installs packages at each start: yarn"),
        ("pnpm i --prod; node a.js", "installs packages at each start: pnpm i"),
        ("sh -c 'npm ci && node a.js'", "installs packages at each start: npm ci"),
    ],
)
def test_a_call_of_a_manager_that_cannot_succeed_in_an_image_is_refused(
    tmp_path: Path, script: str, error: str
) -> None:
    with pytest.raises(InputError, match=error):
        start(tmp_path, start=script)


@pytest.mark.parametrize("script", ["", "  ", "node 'a.js", "node \\", "A=1", "npm start", "npm run again"])
def test_a_script_that_cannot_be_read_or_runs_itself_is_refused(tmp_path: Path, script: str) -> None:
    with pytest.raises(InputError):
        start(tmp_path, start=script, again="npm run start")


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("npm run serve", "node s.js"),
        ("npm run -s serve -- --port 80", "node s.js --port 80"),
        ("npm run serve --port 80", "node s.js 80"),
        ("yarn serve --port 80", "node s.js --port 80"),
        ("yarn --silent run serve", "node s.js"),
        ("pnpm run serve", "node s.js"),
        ("pnpm serve --a", "node s.js --a"),
        ("bun run serve", "node s.js"),
        ("bun serve --a", "node s.js --a"),
        ("bun run --silent serve", "node s.js"),
        ("bunx next start", "next start"),
        ("bun x next start", "next start"),
        ("bun next start", "next start"),
        ("yarn --cwd web next start", "sh -c 'cd web && exec next start'"),
        ("npx next start", "next start"),
        ("npx --no-install serve@14 -s dist", "serve -s dist"),
        ("npm exec -- tsx a.ts", "tsx a.ts"),
        ("pnpm exec tsx a.ts", "tsx a.ts"),
        ("yarn tsx a.ts", "tsx a.ts"),
        ("yarn node a.js", "node a.js"),
        ("cross-env npm run serve", "node s.js"),
        ("node s.js && npm run serve", "sh -c 'node s.js && exec node s.js'"),
        ("npm run both", "sh -c 'cd a && node m.js && exec node s.js'"),
        ("npm --prefix web start", "sh -c 'cd web && exec node w.js'"),
        ("cd web && npm start", "sh -c 'cd web && exec node w.js'"),
        ("yarn --cwd web start -a", "sh -c 'cd web && exec node w.js -a'"),
        ("npm run shell -- x", "sh -c 'node a.js; node b.js x'"),
        ("A=1 npm run both", "sh -c 'export A=1 && cd a && node m.js && exec node s.js'"),
        ("npm run shell && npm run serve", "sh -c '( { node a.js; node b.js\n} ) && exec node s.js'"),
    ],
)
def test_scripts_are_followed_through_the_managers_that_run_them(
    tmp_path: Path, script: str, command: str
) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web/package.json").write_text('{"scripts": {"start": "node w.js"}}')
    found = start(
        tmp_path,
        start=script,
        serve="node s.js",
        both="cd a && node m.js && npm run serve",
        shell="node a.js; node b.js",
    )
    assert found.command == tuple(shlex.split(command))


@pytest.mark.parametrize(
    "script",
    [
        "npm start --workspace=web",
        "npm start -w apps/web",
        "npm run start -w ./apps/web",
        "npm -w @acme/web start",
        "yarn workspace @acme/web start",
        "yarn workspace @acme/web run start",
        "pnpm --filter @acme/web start",
        "pnpm -F ./apps/web run start",
        "bun run --filter @acme/web start",
        "npm --prefix apps/web start",
        "npm start --prefix=apps/web",
        "cd apps/web && yarn start",
        "pnpm -C apps/web start",
        "pnpm --dir=apps/web start",
        "bun --cwd apps/web start",
    ],
)
def test_a_script_of_a_member_or_a_folder_runs_there(tmp_path: Path, script: str) -> None:
    if "=web" in script:
        script = script.replace("=web", "=@acme/web")
    web = tmp_path / "apps/web"
    web.mkdir(parents=True)
    (web / "package.json").write_text('{"name": "@acme/web", "scripts": {"start": "next start"}}')
    project = Project(tmp_path, {"workspaces": ["apps/*"], "scripts": {"start": script}})
    found = find_start(project, {}, generated=False)
    assert found is not None
    assert (found.command, found.folders) == (("sh", "-c", "cd apps/web && exec next start"), (web,))
    assert found.programs == ("cd", "next") and found.gets_signals


@pytest.mark.parametrize(
    "script",
    [
        "npm start -w web -w api",
        "npm start -w gone",
        "npm start --workspaces",
        "pnpm --filter '...web' start",
        "pnpm -r start",
        "yarn workspaces foreach -A run start",
        "yarn workspace gone start",
    ],
)
def test_several_members_need_a_manager_and_a_missing_one_is_an_error(tmp_path: Path, script: str) -> None:
    for name in ("web", "api"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "package.json").write_text('{"scripts": {"start": "node a.js"}}')
    project = Project(tmp_path, {"workspaces": ["web", "api"], "scripts": {"start": script}})
    if "gone" in script:
        with pytest.raises(InputError, match="runs in a project that is not there: gone"):
            find_start(project, {}, generated=False)
        return
    found = find_start(project, {}, generated=False)
    assert found is not None and found.managers == (shlex.split(script)[0],)


@pytest.mark.parametrize(
    ("script", "env"),
    [
        ("A=1 B='2 3' C= node a.js", {"A": "1", "B": "2 3", "C": ""}),
        ("cross-env NODE_ENV=production node a.js", {"NODE_ENV": "production"}),
        ("A=1 npx cross-env B=2 npm run serve", {"A": "1", "B": "2", "C": "3"}),
        ("A=1 exec node a.js", {"A": "1"}),
    ],
)
def test_variables_before_a_command_are_set_without_a_shell(
    tmp_path: Path, script: str, env: dict[str, str]
) -> None:
    found = start(tmp_path, start=script, serve="C=3 node a.js")
    assert (found.command, found.env, found.gets_signals) == (("node", "a.js"), env, True)


@pytest.mark.parametrize(
    ("script", "command", "left_out"),
    [
        ("npm run build && node dist/a.js", ("node", "dist/a.js"), ("build",)),
        ("yarn build && node dist/a.js", ("node", "dist/a.js"), ("build",)),
        ("NODE_ENV=production npm run build && node dist/a.js", ("node", "dist/a.js"), ("build",)),
        ("tsc -p . && A=1 node dist/a.js", ("node", "dist/a.js"), ("tsc -p .",)),
        ("run-s build serve", ("node", "b.js"), ("build",)),
        ("npm run both && npm run serve", ("sh", "-c", "( cd a ) && exec node b.js"), ("build",)),
        ("npm run other && node a.js", ("sh", "-c", "webpack && exec node a.js"), ()),
    ],
)
def test_what_the_build_has_run_is_not_run_again_at_the_start(
    tmp_path: Path, script: str, command: tuple[str, ...], left_out: tuple[str, ...]
) -> None:
    scripts = {
        "start": script,
        "prebuild": "rimraf dist",
        "build": "npx tsc -p .",
        "serve": "node b.js",
        "both": "cd a && npm run build",
        "other": "webpack",
    }
    project = Project(tmp_path, {"scripts": scripts})
    found = find_start(project, {}, generated=True, built=("build",))
    assert found is not None
    assert (found.command, found.left_out) == (command, left_out)
    chosen = find_start(project, {"BP_NPM_START_SCRIPT": "start"}, generated=True, built=("build",))
    assert chosen is not None
    assert chosen.left_out == ()
    assert find_start(project, {}, generated=False) == replace(chosen, chosen=False)


def test_prestart_that_builds_is_not_run_again_and_a_start_that_only_builds_is_told(
    tmp_path: Path,
) -> None:
    scripts = {"prestart": "npm run build", "build": "tsc", "start": "node a.js"}
    found = find_start(Project(tmp_path, {"scripts": scripts}), {}, generated=True, built=("build",))
    assert found is not None
    assert (found.command, found.left_out) == (("node", "a.js"), ("build",))
    scripts["start"] = "npm run build"
    with pytest.raises(InputError, match="the start script runs nothing that the build has not run: npm run"):
        find_start(Project(tmp_path, {"scripts": scripts}), {}, generated=True, built=("build",))


def test_scripts_before_and_after_are_run_and_told(tmp_path: Path) -> None:
    found = start(tmp_path, start="node a.js", prestart="node b.js", poststart="node c.js")
    assert found.command == ("sh", "-c", "node b.js && exec node a.js")
    assert found.after == "poststart"
    assert found.programs == ("node", "node")


def test_the_user_chooses_a_file_or_a_script(tmp_path: Path) -> None:
    project = Project(tmp_path, {"scripts": {"start": "node a.js", "start:prod": "node dist/main"}})
    chosen = find_start(project, {"BP_NPM_START_SCRIPT": "start:prod"}, generated=False)
    assert chosen is not None
    assert (chosen.command, chosen.source) == (("node", "dist/main"), "package.json scripts.start:prod")
    with pytest.raises(InputError, match=r"a script that package\.json does not have"):
        find_start(project, {"BP_NPM_START_SCRIPT": "gone"}, generated=False)
    with pytest.raises(InputError, match="a file that is not there"):
        find_start(project, {"BP_LAUNCHPOINT": "b.js"}, generated=False)
    (tmp_path / "b.js").touch()
    chosen = find_start(project, {"BP_LAUNCHPOINT": "b.js"}, generated=False)
    assert chosen == StartCommand(("node", "b.js"), "BP_LAUNCHPOINT: b.js", chosen=True)


SHELL_TEXTS = st.lists(
    st.sampled_from(
        [
            *(
                "npm",
                "run",
                "start",
                "a",
                "node",
                "x.js",
                "&&",
                "&",
                "|",
                ";",
                "'",
                '"',
                "\\",
                "$A",
                "A=1",
                "--",
            ),
            *(
                "cross-env",
                "npx",
                "yarn",
                "cd",
                "..",
                "(",
                ")",
                "\n",
                "#",
                "{",
                "if",
                "-w",
                "2>&1",
                "exec",
                "`",
            ),
        ]
    ),
    max_size=8,
).map(" ".join)


@given(script=SHELL_TEXTS, other=SHELL_TEXTS)
def test_any_script_gives_a_command_or_an_error_of_ours(script: str, other: str) -> None:
    try:
        found = start(Path("/nowhere"), start=script, a=other)
    except InputError as error:
        assert error.what
    else:
        assert found.command
        assert found.managers or not {"npm", "yarn", "npx"}.intersection(found.command[:1])


ECHOES = st.lists(
    st.sampled_from(
        ["true", "A=1 env", "A='x y' env", "B=$HOME env", "echo a\\ b", "echo '&&' \"q|q\"", "cd /"]
    ),
    min_size=1,
    max_size=4,
).map(" && ".join)


@pytest.mark.system
@settings(deadline=None)
@given(script=ECHOES, before=st.one_of(st.none(), ECHOES))
def test_a_script_does_what_a_shell_would_do(script: str, before: str | None) -> None:
    scripts = {"start": script, **({"prestart": f"({before})"} if before else {})}
    found = start(Path("/nowhere"), **scripts)
    whole = f"({before}) && {script}" if before else script
    assert output(found.command, found.env) == output(("sh", "-c", whole), {})


def output(argv: tuple[str, ...], variables: Mapping[str, str]) -> list[str]:
    env = {"PATH": os.environ["PATH"], "HOME": "/h", **variables}
    done = subprocess.run(argv, env=env, cwd="/usr", capture_output=True, text=True, check=False)
    shell_own = ("_=", "PWD=", "OLDPWD=", "SHLVL=")
    return sorted(line for line in done.stdout.splitlines() if not line.startswith(shell_own))


@pytest.mark.parametrize("main", ["lib/server.js", "lib/server", "lib"])
def test_main_is_found_as_node_finds_it(tmp_path: Path, main: str) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/server.js").touch()
    (tmp_path / "lib/index.js").touch()
    assert find_start(Project(tmp_path, {"main": main}), {}, generated=False) == StartCommand(
        ("node", main), "package.json main"
    )


def test_main_may_be_made_by_the_build(tmp_path: Path) -> None:
    manifest: dict[str, Any] = {"main": "dist/a.js"}
    found = find_start(Project(tmp_path, manifest), {}, generated=True)
    assert found is not None
    assert found.command == ("node", "dist/a.js")


def test_a_missing_main_gives_way_to_an_entry_file(tmp_path: Path) -> None:
    (tmp_path / "index.js").touch()
    (tmp_path / "app.js").touch()
    assert find_start(Project(tmp_path, {"main": "gone.js"}), {}, generated=False) == StartCommand(
        ("node", "app.js"), "there is app.js"
    )


def test_nothing_is_found_where_nothing_is_required(tmp_path: Path) -> None:
    assert find_start(Project(tmp_path), {}, generated=False, required=False) is None


def test_npm_start_without_a_script_is_the_file_that_npm_starts(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    for name in ("server.js", "web/package.json", "web/server.js"):
        (tmp_path / name).write_text("{}")
    found = start(tmp_path, start="npm --prefix web start")
    assert found.command == ("sh", "-c", "cd web && exec node server.js")
    read = script.read_script_text(Project(tmp_path), "A=1 npm start -- --port 1", "web", shell="bash")
    assert (read.argv, read.env) == (("node", "server.js", "--port", "1"), {"A": "1"})


def test_nothing_to_start_says_what_to_add(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to start") as caught:
        find_start(Project(tmp_path, {"main": "gone.js"}), {}, generated=False)
    assert "main names gone.js" in caught.value.why
    assert '"start": "node' in caught.value.fix
