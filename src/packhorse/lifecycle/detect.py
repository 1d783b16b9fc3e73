"""① → ② Finds the group of buildpacks that accepts the source (buildpack.md "Phase #1: Detection").

Each bin/detect runs once for all groups. All run in one sandbox, several at once, and no other phase sees
what they write. `create` calls `detect`; `packhorse detect` calls `try_detect`, whose result also has the
reasons.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from packhorse.base.dataclass import dataclass, field, replace
from packhorse.base.sandbox import Command, Result, Sandbox
from packhorse.base.target import Target
from packhorse.base.tree import TreeView, read
from packhorse.errors import DetectErrored, DetectFailed, PackhorseError
from packhorse.lifecycle.buildpacks import Descriptors, EnvDirectories, complete_target, for_buildpack
from packhorse.lifecycle.inputs import Inputs
from packhorse.lifecycle.ports import ALLOW, Observer, Runner, SandboxPurpose
from packhorse.lifecycle.stages import Answer, Detected, Detection, Member, TriedGroup
from packhorse.spec.api import EXEC_ENV as BUILDPACK_EXEC_ENV
from packhorse.spec.api import PLATFORM_EXEC_ENV, PLATFORM_TARGETS, SYSTEM
from packhorse.spec.buildpack_files import PlanToml
from packhorse.spec.buildpack_toml import Descriptor, Group, Order, Ref, SystemBuildpacks, parse_extensions
from packhorse.spec.resolve import PassedBuildpack, Resolution, explain, groups, matches, resolve

FAILED = 100
"""The exit status with which bin/detect does not accept the source (B-016)."""

_OUTPUT_LIMIT = 1 << 18
"""The number of bytes that are kept of a bin/detect's output: its end."""

_REASON_LIMIT = 500
"""The number of characters of its last line that are shown as the reason."""


@dataclass(frozen=True, slots=True)
class DetectResult:
    """The result of one bin/detect.

    `status` is -1 if it did not run, or if its plan cannot be read. If it `exceeded` a limit, `why` names the
    limit.
    """

    descriptor: Descriptor
    status: int
    output: bytes = b""
    plan: PlanToml = field(default_factory=PlanToml)
    why: str = ""
    exceeded: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """`pass`, `fail` or `error`."""
        return {0: "pass", FAILED: "fail"}.get(self.status, "error")

    def explain(self) -> str:
        """Returns a line for the user: the verdict and the reason."""
        said = [line.strip() for line in self.output.decode(errors="replace").strip().splitlines()]
        last = said[-1:]
        if self.status != FAILED:  # an error's reason and advice are on lines of their own
            last = said[max((at for at, line in enumerate(said) if line.startswith("error: ")), default=-1) :]
        reason = self.why or "; ".join(line for line in last if line).removeprefix("error: ")[:_REASON_LIMIT]
        status = f" (exit status {self.status})" if self.verdict == "error" and self.status >= 0 else ""
        return f"{self.verdict}: {self.descriptor.ref}{status}{f': {reason}' if reason else ''}"


class _OutputTail:
    """Keeps the end of a bin/detect's output."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._lost = 0

    def add(self, chunk: bytes) -> None:
        self._kept += chunk
        if len(self._kept) > 2 * _OUTPUT_LIMIT:
            self._lost += len(self._kept) - _OUTPUT_LIMIT
            del self._kept[:-_OUTPUT_LIMIT]

    def text(self) -> bytes:
        if not self._lost:
            return bytes(self._kept)
        return f"({self._lost} bytes before this are left out)\n".encode() + self._kept


def detect(inputs: Inputs, base: Target, *, runner: Runner, observer: Observer) -> Detected:
    """Returns the first group of the order that accepts the source. `base` is the run image's target.

    Raises DetectFailed if there is none, or DetectErrored if a bin/detect also ended with an error in a group
    that a required buildpack refused. Both give the reason for each buildpack.
    """
    outcome = try_detect(inputs, base, runner=runner, observer=observer).outcome
    if isinstance(outcome, DetectFailed):
        raise outcome
    return outcome


def try_detect(inputs: Inputs, base: Target, *, runner: Runner, observer: Observer) -> Detection:
    """Like `detect`, but returns a failure as part of the result, with all answers and groups."""
    with runner.builder_files() as tree:
        target = complete_target(inputs, base, tree)
        detection = _Detector(inputs, target, tree, runner, observer)
        outcome = detection.run()
        if not runner.confirm_source():
            detection = _Detector(inputs, target, tree, runner, observer)
            outcome = detection.run()
        return Detection(outcome, detection.answers(), tuple(detection.tried))


@dataclass(frozen=True, slots=True)
class _DetectCall:
    """A bin/detect to run: its `command`, the file of its `plan`, and its `output`."""

    descriptor: Descriptor
    plan: str
    command: Command
    output: _OutputTail


class _Detector:
    def __init__(
        self, inputs: Inputs, target: Target, tree: TreeView, runner: Runner, observer: Observer
    ) -> None:
        self._inputs = inputs
        self._target = target
        self._tree = tree
        self._runner = runner
        self._observer = observer
        self._descriptors = Descriptors(inputs, tree, observer.say)
        self._env_directories = EnvDirectories(tree)
        self._results: dict[Ref, DetectResult] = {}
        self._reasons: list[str] = []
        self._is_error = False
        self.tried: list[TriedGroup] = []
        self._extensions: list[str] = []
        self._sandboxes = ExitStack()
        self._sandbox: Sandbox | None = None

    def answers(self) -> tuple[Answer, ...]:
        """The answer of each bin/detect."""
        return tuple(
            Answer(ref, verdict.verdict, verdict.status, verdict.explain())
            for ref, verdict in self._results.items()
        )

    def run(self) -> Detected | DetectFailed:
        self._extensions = self._find_extensions()
        if self._extensions:
            names = ", ".join(self._extensions)
            self._observer.say(f"image extensions are not supported yet: the builder's are not run: {names}")
        with self._sandboxes:
            for group in groups(self._order(), self._descriptors.find):
                resolution = self._try(group)
                if resolution:
                    return self._accept(resolution)
        return self._failure()

    def _find_extensions(self) -> list[str]:
        """Returns the image extensions that the reference would try before each group (B-037)."""
        inputs = self._inputs
        order = inputs.extensions
        if not order and (data := read(self._tree, inputs.order_file)) is not None:
            order = parse_extensions(data, inputs.order_file)
        return list(dict.fromkeys(str(ref) for group in order for ref in group))

    def _order(self) -> Order:
        """Returns the order with the builder's system buildpacks around each group."""
        inputs = self._inputs
        has_system = inputs.system and inputs.platform_api.has(SYSTEM)
        data = read(self._tree, inputs.system) if has_system else None
        if data is None:
            return inputs.order
        return SystemBuildpacks.parse(data, inputs.system, warn=self._observer.say).add_to(inputs.order)

    def _try(self, group: Group) -> Resolution:
        members = [ref for ref in group if not self._is_for_other_exec_env(ref)]
        self._run_missing(members)
        verdicts = {ref: self._results[_without_optional(ref)] for ref in members}
        refused = [one.explain() for ref, one in verdicts.items() if one.status != 0 and not ref.optional]
        if refused:
            # As in the reference: the error of an optional buildpack counts only in a group that is refused.
            self._is_error |= any(verdict.verdict == "error" for verdict in verdicts.values())
            self.tried.append(TriedGroup(group, tuple(refused)))
            return Resolution()
        passed = [
            PassedBuildpack(ref, verdict.plan) for ref, verdict in verdicts.items() if verdict.status == 0
        ]
        resolution = resolve(passed)
        for reason in resolution.reasons:
            self._observer.detail(f"plan: {reason}")
        for reason in resolution.unmet if self._extensions else ():
            what = "the build goes on without it" if resolution else "this group is passed over"
            self._observer.say(f"{reason}; an image extension may provide it: {what}")
        if not resolution:
            self._reasons += resolution.reasons
        reasons = [f"plan: {reason}" for reason in resolution.reasons] or [
            "no buildpack of it takes the source"
        ]
        self.tried.append(TriedGroup(group, () if resolution else tuple(reasons)))
        return resolution

    def _run_missing(self, group: Sequence[Ref]) -> None:
        """Runs each bin/detect that did not run before, for any group, as the reference does.

        A required buildpack without a matching target does not run (B-034). An optional one runs, as in the
        reference, where it may make a part of the image.
        """
        has_targets = self._inputs.platform_api.has(PLATFORM_TARGETS)
        questions: dict[Ref, _DetectCall] = {}
        verdicts: dict[Ref, DetectResult] = {}
        for number, ref in enumerate(group, len(self._results)):
            key = _without_optional(ref)
            descriptor = self._descriptors.find(key)
            if has_targets and not ref.optional and not matches(descriptor, self._target):
                verdicts[key] = DetectResult(descriptor, -1, why=explain(descriptor, self._target))
            elif key not in self._results:
                questions[key] = self._prepare_call(number, descriptor)
        if questions:
            verdicts.update(zip(questions, self._run_calls([*questions.values()]), strict=True))
        for ref in map(_without_optional, group):
            if ref in verdicts:
                self._record(verdicts[ref])

    def _record(self, verdict: DetectResult) -> None:
        self._results[verdict.descriptor.ref] = verdict
        if verdict.output.strip():
            self._observer.detail(
                f"{verdict.descriptor.ref}: {verdict.output.decode(errors='replace').strip()}"
            )
        self._observer.detail(verdict.explain())
        for warning in verdict.warnings:
            self._observer.say(f"build plan of {verdict.descriptor.ref}: {warning}")

    def _prepare_call(self, number: int, descriptor: Descriptor) -> _DetectCall:
        # All run in one sandbox, so each plan has a name of its own.
        plan = f"{self._inputs.temporary}/cnb-build-plan-{number}.toml"
        directory = self._inputs.buildpack_directory(descriptor.ref)
        env = for_buildpack(
            self._inputs,
            self._env_directories,
            descriptor,
            env=self._inputs.env,
            target=self._target,
            phase={"CNB_BUILD_PLAN_PATH": plan},
        )
        # Positional arguments are deprecated, but still passed (B-012).
        argv = (f"{directory}/bin/detect", self._inputs.platform, plan)
        return _DetectCall(descriptor, plan, Command(argv, env, self._inputs.app), _OutputTail())

    def _run_calls(self, questions: Sequence[_DetectCall]) -> Sequence[DetectResult]:
        """Runs several side by side, and returns their results.

        If one exceeds a limit, all that ran at the time run again alone. So no result depends on what else
        runs.
        """
        verdicts = self._run_side_by_side(questions)
        if not any(verdict.exceeded for verdict in verdicts):
            return verdicts
        again: list[DetectResult] = []
        for question, verdict in zip(questions, verdicts, strict=True):
            self._close_sandbox()  # which a limit may have ended
            if verdict.exceeded and len(questions) > 1:
                (verdict,) = self._run_side_by_side([replace(question, output=_OutputTail())])
            again.append(verdict)
        self._close_sandbox()
        return again

    def _run_side_by_side(self, questions: Sequence[_DetectCall]) -> Sequence[DetectResult]:
        if self._sandbox is None:
            self._sandbox = self._sandboxes.enter_context(self._runner.open(SandboxPurpose.DETECTION))
        tree = self._sandbox.tree
        for question in questions:
            tree.remove(question.plan)  # whatever another has put there
            tree.write(question.plan, b"")
        outcomes = self._sandbox.run_all(
            [question.command for question in questions],
            lambda number, chunk: questions[number].output.add(chunk),
            at_once=max(1, self._inputs.parallel),
        )
        return [self._read_result(*pair, tree) for pair in zip(questions, outcomes, strict=True)]

    def _close_sandbox(self) -> None:
        self._sandboxes.close()
        self._sandbox = None

    def _read_result(
        self, question: _DetectCall, outcome: Result | PackhorseError, tree: TreeView
    ) -> DetectResult:
        descriptor, said = question.descriptor, question.output.text()
        if isinstance(outcome, PackhorseError):
            return DetectResult(descriptor, -1, said, why=str(outcome))
        warnings: list[str] = []
        try:
            written = read(tree, question.plan) if outcome.status == 0 else None
            plan = PlanToml.parse(written or b"", question.plan, warn=warnings.append)
        except PackhorseError as error:
            return DetectResult(descriptor, -1, said, why=str(error))
        return DetectResult(
            descriptor,
            outcome.status,
            said,
            plan,
            outcome.exceeded,
            exceeded=bool(outcome.exceeded),
            warnings=tuple(warnings),
        )

    def _is_for_other_exec_env(self, ref: Ref) -> bool:
        """Whether the buildpack is for other execution environments. Then it is skipped (P-040)."""
        descriptor = self._descriptors.find(ref)
        wanted = descriptor.exec_env
        applies = self._inputs.platform_api.has(PLATFORM_EXEC_ENV) and descriptor.api.has(BUILDPACK_EXEC_ENV)
        return applies and bool(wanted) and "*" not in wanted and self._inputs.exec_env not in wanted

    def _accept(self, resolution: Resolution) -> Detected:
        members = []
        for ref in resolution.group:
            descriptor = self._descriptors.find(ref)
            members.append(Member(descriptor))
            self._observer.say(f"{descriptor.ref}{f'  {descriptor.name}' if descriptor.name else ''}")
        return Detected(tuple(members), resolution.entries)

    def _failure(self) -> DetectFailed:
        has_errors = any(verdict.verdict == "error" for verdict in self._results.values())
        lines = [verdict.explain() for verdict in self._results.values()]
        lines += [f"plan: {reason}" for reason in dict.fromkeys(self._reasons)]
        for verdict in self._results.values():
            if verdict.exceeded:
                return DetectErrored(
                    f"{verdict.descriptor.ref} could not look at the source: {verdict.why}",
                    why="\n".join(lines),
                    fix=ALLOW,
                )
        kind = DetectErrored if self._is_error else DetectFailed
        if self._extensions:
            lines.append(
                "the builder's image extensions, which are not supported yet, may provide what is missing: "
                + ", ".join(self._extensions)
            )
        return kind(
            "no buildpack takes this source",
            why="\n".join(lines) or "the order has no buildpack for this execution environment",
            fix="check --path, or name a buildpack with --buildpack or another builder with --builder"
            + ("; `packhorse -v build …` shows all that each said" if has_errors else ""),
        )


def _without_optional(ref: Ref) -> Ref:
    return Ref(ref.id, ref.version)
