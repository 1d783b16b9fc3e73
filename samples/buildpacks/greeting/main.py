import hashlib

from packhorse import sdk


def detect(context: sdk.DetectContext) -> sdk.Pass | sdk.Fail:
    if not (context.app / "greeting.txt").exists():
        return sdk.Fail("there is no greeting.txt")
    return sdk.Pass(sdk.BuildPlan(provides=("greeting",), requires=(sdk.Require("greeting"),)))


def build(context: sdk.BuildContext) -> sdk.BuildResult:
    text = (context.app / "greeting.txt").read_text()
    digest = hashlib.sha256(text.encode()).hexdigest()
    key = {"greeting.txt": digest, "buildpack": context.buildpack.version}
    layer = context.layer("greeting", key=key, launch=True, cache=True)
    if not layer.kept:
        (layer.path / "message").write_text(text.upper())
        layer.set_env("GREETING", str(layer.path / "message"), phase="launch")
        part = sdk.Component("greeting", hashes={"sha256": digest})
        context.write_sbom(layer, sdk.Bill((part,)))
    command = ("sh", "-c", 'cat "$GREETING"')
    return sdk.BuildResult(sdk.Launch((sdk.Process("web", command, default=True),)))


sdk.main(detect=detect, build=build)
